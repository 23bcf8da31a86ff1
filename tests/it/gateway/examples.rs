//! The examples in examples/http, as their one command runs them: against a gateway whose answers are
//! disturbed, and a worker behind it.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{Answer, Context, Process, Program, RawHttp};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    page,
    world::{Front, Gateway},
};
use crate::{
    examples::with_build_and_package_settings,
    libraries::install,
    world::{SOON, World},
};

/// A first run may have packages to get.
const SET_UP: Duration = Duration::from_secs(240);
const LIMIT: Duration = Duration::from_secs(300);
pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What a disturbed gateway does with a request.
#[derive(Clone, Copy)]
enum Step {
    /// Answers with this status and `Retry-After: 1`; the gateway gets nothing.
    Answer(u16),
    /// Closes the connection without an answer; the gateway gets nothing.
    Close,
    /// The gateway takes it, and its answer is lost.
    LoseAnswer,
    Pass,
}

/// A proxy before the gateway, which does not work well.
struct Disturbed {
    server: RawHttp,
    /// The requests that came.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Disturbed {
    fn start(gateway: &str, steps: &[Step]) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (steps, gateway) = (Arc::new(Mutex::new(VecDeque::from(steps.to_vec()))), gateway.to_owned());
        let seen = Arc::clone(&requests);
        let server = RawHttp::start(move |mut stream| {
            let (steps, seen, gateway) = (Arc::clone(&steps), Arc::clone(&seen), gateway.clone());
            async move {
                let Some(request) = read_request(&mut stream).await else { return };
                seen.lock().expect("the requests").push(request.clone());
                let step = steps.lock().expect("the steps").pop_front().unwrap_or(Step::Pass);
                match step {
                    Step::Answer(status) => {
                        let answer = format!(
                            "HTTP/1.1 {status} Sorry\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        );
                        stream.write_all(answer.as_bytes()).await.ok();
                    }
                    Step::Close => {}
                    Step::LoseAnswer => _ = forward(&gateway, &request).await,
                    Step::Pass => _ = stream.write_all(&forward(&gateway, &request).await).await,
                }
            }
        });
        Self { server, requests }
    }

    /// All values of a header, one for each request.
    fn header(&self, name: &str) -> Vec<String> {
        let value = |request: &String| {
            let mut lines = request.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.unwrap_or_else(|| panic!("{name} is missing: {request}")).1.to_owned()
        };
        self.requests.lock().expect("the requests").iter().map(value).collect()
    }

    fn count(&self) -> usize {
        self.requests.lock().expect("the requests").len()
    }
}

/// One request with its body; `None` if the client closes the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            if length.is_none_or(|(_, length)| length.parse() == Ok(body.len())) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// The gateway's answer.
async fn forward(gateway: &str, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway).await.expect("the gateway");
    // Its end is the end of the answer.
    let (line, rest) = request.split_once("\r\n").expect("a head");
    let rest: Vec<_> =
        rest.split("\r\n").filter(|line| !line.to_lowercase().starts_with("connection:")).collect();
    let request = format!("{line}\r\nconnection: close\r\n{}", rest.join("\r\n"));
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    answer
}

fn example(url: &str, arguments: &[&str]) -> Program {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/example");
    with_build_and_package_settings(Program::new(script)).args(arguments).env("GATEWAY_URL", url)
}

async fn run(ctx: &Context, program: &Program) -> (Option<i32>, Process) {
    let process = ctx.start(program);
    let code = process.wait_exit(SET_UP).await.code();
    (code, process)
}

/// Repeats with one key until there is an answer, and gives up where no repeat can help.
fn repeats_rightly(name: &'static str) {
    kit::run_within(LIMIT, async |ctx| {
        let front = Front::start_with(ctx, &[], |call| match call.field("customer_id").as_deref() {
            Some("400400") => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        let ctx = &front.world.ctx;
        let steps = [Step::Close, Step::Answer(503), Step::Answer(429), Step::LoseAnswer, Step::Answer(504)];
        let disturbed = Disturbed::start(&front.gateway.address, &steps);
        let (code, process) = run(ctx, &example(&disturbed.server.url(), &[name, "191"])).await;
        let said = (process.stdout(), process.stderr());
        assert_eq!(code, Some(0), "{said:#?}");
        let [printed] = &said.0[..] else { panic!("{said:#?}") };
        assert_eq!(*printed, front.world.outcomes.next(SOON).await.text());
        let mut keys = disturbed.header("idempotency-key");
        assert_eq!(keys.len(), steps.len() + 1);
        keys.dedup();
        assert_eq!(keys.len(), 1, "one key: {keys:?}");
        let key = keys[0].trim_matches('"');
        assert!(said.1.iter().any(|line| line == &format!("key {key}")), "{said:#?}");
        assert_eq!(front.world.trackfinity.count(), 1, "taken once");

        // The outcome is the answer, also if the customer is not unlocked.
        let (code, process) = run(ctx, &example(&disturbed.server.url(), &[name, "400400"])).await;
        let printed: Value = serde_json::from_str(&process.stdout()[0]).expect("JSON");
        assert_eq!((code, &printed["status"]), (Some(1), &"refused".into()));

        let disturbed = Disturbed::start(&front.gateway.address, &[]);
        let (code, process) = run(ctx, &example(&disturbed.server.url(), &[name, " "])).await;
        assert_eq!((code, disturbed.count()), (Some(1), 1), "no repeat can help");
        let said = process.stderr().join("\n");
        assert!(process.stdout().is_empty() && said.contains("no_identifier"), "{said}");

        // Without a worker no outcome comes: taken is taken.
        front.world.stop().await;
        let gateway = Gateway::start(ctx, ctx.amqp_url(), &[("GATEWAY__MAX_WAIT", "1s")]).await;
        let url = format!("http://{}", gateway.address);
        let (code, process) = run(ctx, &example(&url, &[name, "191"])).await;
        assert_eq!(code, Some(3), "{:#?}", process.stderr());
        let printed: Value = serde_json::from_str(&process.stdout()[0]).expect("JSON");
        assert_eq!(printed["status"], "accepted");
    });
}

#[test]
fn curl_repeats_rightly() {
    repeats_rightly("http-curl");
}

#[test]
fn python_repeats_rightly() {
    repeats_rightly("http-python");
}

#[test]
fn node_repeats_rightly() {
    repeats_rightly("http-node");
}

#[test]
fn php_repeats_rightly() {
    repeats_rightly("http-php");
}

/// A gateway with one client, which has a token and a signing secret.
pub(super) async fn with_client(world: &World) -> (Gateway, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("shop"), format!("{TOKEN}\n{SECRET}\n")).expect("written");
    let path = directory.path().to_str().expect("UTF-8");
    let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[("GATEWAY__CLIENTS_DIR", path)]).await;
    (gateway, directory)
}

#[test]
fn each_sender_can_show_a_token() {
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let (gateway, _directory) = with_client(&world).await;
        let url = format!("http://{}", gateway.address);
        for name in ["http-curl", "http-python", "http-node", "http-php"] {
            let program = example(&url, &[name, "191"]);
            assert_eq!(run(&world.ctx, &program).await.0, Some(1), "{name} without a token");
            let (code, process) = run(&world.ctx, &program.env("GATEWAY_TOKEN", TOKEN)).await;
            assert_eq!(code, Some(0), "{name}: {:#?}", process.stderr());
            assert_eq!(world.outcome().await["requested_by"], "shop");
        }
    });
}

#[test]
fn a_webhook_of_the_official_library_is_a_request() {
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let (gateway, _directory) = with_client(&world).await;
        let disturbed = Disturbed::start(&gateway.address, &[Step::Answer(503), Step::LoseAnswer]);
        let program = example(&disturbed.server.url(), &["http-webhook", "191"]);
        let (code, process) = run(&world.ctx, &program.clone().env("WEBHOOK_SECRET", SECRET)).await;
        assert_eq!(code, Some(0), "{:#?}", process.stderr());
        let outcome = world.outcome().await;
        let ids = disturbed.header("webhook-id");
        assert_eq!((ids.len(), &ids[0], &ids[1]), (3, &ids[1], &ids[2]));
        assert_eq!(outcome["request_id"], format!("shop/{}", ids[0]));
        assert_eq!(outcome["requested_by"], "shop");
        let stranger = format!("whsec_{}", "A".repeat(32));
        let (code, process) = run(&world.ctx, &program.env("WEBHOOK_SECRET", stranger)).await;
        assert_eq!((code, world.trackfinity.count()), (Some(1), 1), "{:#?}", process.stdout());
        assert!(process.stdout().join("").contains("unauthorized"), "{:#?}", process.stdout());
    });
}

/// A webhook's receiver. Some of its answers are failures; then it takes everything.
fn receiver(failures: &[Step]) -> (RawHttp, Arc<Mutex<Vec<String>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (failures, bodies) = (Arc::new(Mutex::new(VecDeque::from(failures.to_vec()))), Arc::clone(&taken));
    let server = RawHttp::start(move |mut stream| {
        let (failures, bodies) = (Arc::clone(&failures), Arc::clone(&bodies));
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            assert!(request.contains("authorization: Bearer of-the-receiver\r\n"), "{request}");
            let failure = failures.lock().expect("the failures").pop_front();
            let status = match failure {
                Some(Step::Answer(status)) => status,
                Some(_) => return,
                None => {
                    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
                    bodies.lock().expect("the bodies").push(body.to_owned());
                    204
                }
            };
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (server, taken)
}

#[test]
fn outcomes_go_out_as_webhooks_and_none_is_lost() {
    const QUEUE: &str = "shop.unlock-outcomes";
    kit::run_within(LIMIT, async |ctx| {
        install(&ctx, "amqp-tools").await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.amqp.declare_queue(QUEUE, kit::FieldTable::default()).await;
        world.amqp.bind(QUEUE, crate::world::RESULTS, "unlock.#").await;
        // It needs the right to read its queue, and no other.
        let management = world.ctx.vhost().management();
        let user = format!("forward-{}", world.ctx.vhost().name());
        management.create_user(&user, "p", "").await;
        management.set_permissions(&user, "^$", "^$", r"^shop\.unlock-outcomes$").await;
        let files = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| -> PathBuf {
            let path = files.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let url = url::Url::parse(&world.ctx.vhost().amqp_url_as(&user, "p")).expect("a URL");
        let (server, taken) = receiver(&[Step::Answer(503), Step::Answer(400), Step::Close]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/http/forward-outcomes.sh");
        let program = Program::new(script)
            .env("RABBITMQ_HOST", url.host_str().expect("a host"))
            .env("RABBITMQ_PORT", url.port().unwrap_or(5672).to_string())
            .env("RABBITMQ_VHOST", world.ctx.vhost().name())
            .env("RABBITMQ_LOGIN", file("login", &format!("username:{user}\npassword:p\n")))
            .env("OUTCOMES_QUEUE", QUEUE)
            .env("WEBHOOK_HEADERS", file("headers", "authorization: Bearer of-the-receiver\n"))
            .env("WEBHOOK_URL", server.url());
        let forwarder = world.ctx.start(&program);
        for customer in ["1", "2", "3"] {
            world.unlock(customer).await;
        }
        let sent: Vec<_> =
            world.outcomes.wait_count(3, SOON).await.iter().map(|outcome| outcome.text()).collect();
        let all_taken = async |bodies: &[String]| {
            kit::eventually("the receiver has all outcomes", SOON, async || {
                let mut taken = taken.lock().expect("the bodies").clone();
                // One that was on its way when the forwarder was killed comes again.
                taken.dedup();
                if taken == bodies { Ok(()) } else { Err(format!("{taken:#?}")) }
            })
            .await;
        };
        all_taken(&sent).await;

        // Without its forwarder an outcome waits, also one that was on its way.
        forwarder.kill9();
        kit::eventually("it is gone", SOON, async || world.amqp.consumer_count(QUEUE).await == 0).await;
        world.unlock("4").await;
        world.outcomes.wait_count(4, SOON).await;
        let (stuck, _) = receiver(&[Step::Answer(503); 1000]);
        let failing = world.ctx.start(&program.clone().env("WEBHOOK_URL", stuck.url()));
        kit::eventually("a try", SOON, async || stuck.accepted() > 0).await;
        failing.kill9();
        let forwarder = world.ctx.start(&program);
        let sent: Vec<_> =
            world.outcomes.wait_count(4, SOON).await.iter().map(|outcome| outcome.text()).collect();
        all_taken(&sent).await;
        kit::eventually("all are acknowledged", SOON, async || {
            let left = management.queue(QUEUE).await.map(|queue| queue["messages"].clone());
            left == Some(0.into())
        })
        .await;
        // When RabbitMQ ends the connection it ends, too, and is to be started again.
        kit::eventually("the forwarder has ended", SOON, async || {
            for connection in management.connections().await {
                if connection["user"] == user.as_str() {
                    management.close_connection(connection["name"].as_str().expect("a name")).await;
                }
            }
            forwarder.try_exit().is_some()
        })
        .await;
        assert!(!forwarder.wait_exit(SOON).await.success());
        management.delete_user(&user).await;
        let shown = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/http/forward-outcomes.sh"),
        );
        let shown = shown.expect("the script");
        let (_, command) = shown.split_once("\nexec ").expect("its command");
        assert!(page::text().contains(command.trim_end()), "docs/http.md shows another command");
    });
}
