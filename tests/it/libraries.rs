//! The code of docs/libraries.md, against the worker: each client library publishes a request and
//! hears its outcome, as users with exactly the documented rights.

mod page;
mod plugins;

use std::{path::Path, time::Duration};

use kit::{Amqp, Answer, Context, FieldTable, Process, Program};
use serde_json::Value;

use crate::{
    examples::with_build_and_package_settings,
    rights::{User, granted},
    world::{EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, World, id, text},
};

/// A first run may have packages to get.
const SET_UP: Duration = Duration::from_secs(240);
pub const LIMIT: Duration = Duration::from_secs(300);

/// A listener's queue, as the snippets name it.
const OUTCOMES: &str = "trackfinity.outcomes.shop";
/// Celery's own queues and exchanges, besides a listener's.
const CELERY: &str = r"celery|celeryev|.*celery\.pidbox";
/// Where Debian's packages for Java put their files.
const CLASSES: &str =
    "/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar";

#[derive(Clone, Copy)]
enum Language {
    Python,
    Celery,
    Node,
    Php,
    Ruby,
    Java,
    Go,
}

impl Language {
    /// The name for scripts/get-clients.
    fn tools(self) -> &'static str {
        match self {
            Self::Python | Self::Celery => "libraries-python",
            Self::Node => "libraries-node",
            Self::Php => "php",
            Self::Ruby => "ruby",
            Self::Java => "java",
            Self::Go => "go",
        }
    }

    /// The command line of a snippet, which is in the current directory.
    fn command(self, snippet: &str) -> (&'static str, Vec<String>) {
        let file = |ending: &str| vec![format!("{snippet}.{ending}")];
        match self {
            Self::Celery if snippet == "listen" => {
                let options =
                    "-A listen worker --without-gossip --without-mingle --without-heartbeat --pool=solo";
                ("../.venv/bin/celery", options.split(' ').map(ToOwned::to_owned).collect())
            }
            Self::Python | Self::Celery => ("../.venv/bin/python", file("py")),
            Self::Node => ("node", file("js")),
            Self::Php => ("php", file("php")),
            Self::Ruby => ("ruby", file("rb")),
            Self::Java => {
                let class = format!("{}{}.java", snippet[..1].to_uppercase(), &snippet[1..]);
                ("java", vec!["-cp".into(), CLASSES.into(), class])
            }
            Self::Go => ("go", vec!["run".into(), format!("{snippet}.go")]),
        }
    }
}

/// What is special about a library or a protocol.
struct Client {
    folder: &'static str,
    language: Language,
    /// Configure, write and read of the user that publishes, and of the one that listens.
    rights: [[String; 3]; 2],
    /// The exchange and the routing key that it publishes with.
    target: (&'static str, &'static str),
    queue: &'static str,
    /// Whether its snippet declares and binds the queue. If not, others do.
    declares_queue: bool,
    /// What the people who run RabbitMQ add for it: a path of the management API, `VHOST` for the
    /// virtual host, and what is posted there.
    added: Vec<(String, Value)>,
    /// Whether it can give the request a `message_id` and a content type. If not, the id is in the body.
    sets_properties: bool,
    /// Whether it notices that no queue receives a request.
    notices_unroutable: bool,
}

impl Client {
    fn new(folder: &'static str, language: Language) -> Self {
        Self {
            folder,
            language,
            rights: [granted("producer"), granted("listener")],
            target: (EXCHANGE, REQUEST),
            queue: OUTCOMES,
            declares_queue: true,
            added: Vec::new(),
            sets_properties: true,
            notices_unroutable: true,
        }
    }

    fn program(&self, snippet: &str, environment: &[(&str, String)]) -> Program {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/libraries");
        let (command, arguments) = self.language.command(snippet);
        let folder = root.join(self.folder);
        let command = if command.contains('/') { folder.join(command) } else { command.into() };
        let mut program = Program::new(command).args(arguments).directory(folder);
        if matches!(self.language, Language::Go) {
            program = program.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
        }
        environment.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Publishes with the snippet; returns the exit code and what was written.
    async fn publish(&self, ctx: &Context, request: &str, environment: &[(&str, String)]) -> (i32, String) {
        let publish = ctx.start(&self.program("publish", environment).args([request, "191"]));
        let code = publish.wait_exit(SOON).await.code().unwrap_or(-1);
        let said = [publish.stdout(), publish.stderr()].concat().join("\n");
        assert_eq!(code == 0, said.contains(&format!("published {request}")), "{said}");
        (code, said)
    }

    /// The whole page for one library. `environment` says where the broker is, for a user.
    async fn run(&self, ctx: Context, environment: impl Fn(&User<'_>) -> Vec<(&'static str, String)>) {
        install(&ctx, self.language.tools()).await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        for (path, body) in &self.added {
            let path = path.replace("VHOST", world.ctx.vhost().name());
            world.ctx.vhost().management().post(&path, body.clone()).await.expect("added");
        }
        if !self.declares_queue {
            world.amqp.declare_queue(self.queue, FieldTable::default()).await;
            world.amqp.bind(self.queue, RESULTS, "unlock.#").await;
        }
        let (producer, listener) =
            (User::create(&world.ctx, "producer").await, User::create(&world.ctx, "listener").await);
        producer.grant(&self.rights[0]).await;
        listener.grant(&self.rights[1]).await;
        let listening = world.ctx.start(&self.program("listen", &environment(&listener)));
        wait_for_queue(&world.ctx, self.queue, &listening).await;

        let spying = world.ctx.amqp().await;
        let sent = spying.consume_into(self.target.0, self.target.1).await;
        let request = format!("m-{}", self.folder);
        let (code, said) = self.publish(&world.ctx, &request, &environment(&producer)).await;
        assert_eq!(code, 0, "{said}");
        let properties = sent.next(SOON).await.properties;
        assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
        if self.sets_properties {
            assert_eq!(
                properties.content_type().as_ref().map(|text| text.as_str()),
                Some("application/json")
            );
            assert_eq!(properties.message_id().as_ref().map(|text| text.as_str()), Some(request.as_str()));
        }
        drop(sent);
        spying.close().await;
        self.hears_once(&world, &request, &listening).await;

        remove_bindings(&world.ctx, &world.amqp).await;
        let (code, said) = self.publish(&world.ctx, "m-unroutable", &environment(&producer)).await;
        assert_eq!(code != 0, self.notices_unroutable, "{said}");
        assert_eq!(world.trackfinity.count(), 2);
        producer.delete().await;
        listener.delete().await;
    }

    /// The outcome of `request` comes; the same once more is ignored; another one still comes.
    async fn hears_once(&self, world: &World, request: &str, listening: &Process) {
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.json()["request_id"], request);
        let heard = format!("{request} unlocked");
        listening.wait_for_line(|line| line.ends_with(&heard), SOON).await;
        world.amqp.publish(RESULTS, "unlock.unlocked", outcome.properties.clone(), &outcome.body).await;
        world.publish(id("m-last"), r#"{"customer_id":191}"#).await;
        listening.wait_for_line(|line| line.ends_with("m-last unlocked"), SOON).await;
        let written = [listening.stdout(), listening.stderr()].concat();
        assert_eq!(written.iter().filter(|line| line.ends_with(&heard)).count(), 1, "{written:#?}");
        // RabbitMQ puts back what was not acknowledged. The last one may not be yet.
        listening.kill9();
        kit::eventually("the listener is gone", SOON, async || {
            world.amqp.consumer_count(self.queue).await == 0
        })
        .await;
        let left = world.amqp.drain(self.queue).await;
        let left: Vec<_> = left.iter().map(|outcome| text(&outcome.json()["request_id"])).collect();
        assert!(left.iter().all(|request| request == "m-last"), "not acknowledged: {left:?}");
    }
}

/// Installs a language with its libraries.
pub async fn install(ctx: &Context, tools: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-clients");
    let install = with_build_and_package_settings(Program::new(script)).arg(tools);
    assert!(ctx.start(&install).wait_exit(SET_UP).await.success(), "{tools} is not installed");
}

/// Waits until a listener's queue is bound.
async fn wait_for_queue(ctx: &Context, queue: &str, listening: &Process) {
    kit::eventually("the listener's queue is bound", SOON, async || {
        assert!(listening.try_exit().is_none(), "the listener has ended");
        ctx.vhost().management().bindings().await.iter().any(|binding| binding["destination"] == queue)
    })
    .await;
}

/// From now on no queue receives requests.
async fn remove_bindings(ctx: &Context, amqp: &Amqp) {
    let management = ctx.vhost().management();
    for binding in management.bindings().await {
        if binding["destination"] == REQUESTS {
            let (source, key) = (text(&binding["source"]), text(&binding["routing_key"]));
            management.delete_binding(&source, REQUESTS, &key).await;
        }
    }
    assert_eq!(amqp.ready_count(REQUESTS).await, 0);
}

fn runs(client: impl FnOnce() -> Client) {
    kit::run_within(LIMIT, async |ctx| client().run(ctx, |user| vec![("AMQP_URL", user.url())]).await);
}

#[test]
fn pika_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("pika", Language::Python));
}

#[test]
fn kombu_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("kombu", Language::Python));
}

#[test]
fn celery_publishes_safely_and_hears_the_outcome() {
    runs(|| {
        let mut client = Client::new("celery", Language::Celery);
        for names in &mut client.rights[1] {
            *names = format!("^({CELERY}|{})$", names.trim_start_matches('^').trim_end_matches('$'));
        }
        client
    });
}

#[test]
fn aio_pika_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("aio-pika", Language::Python));
}

#[test]
fn faststream_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("faststream", Language::Python));
}

#[test]
fn amqplib_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("amqplib", Language::Node));
}

#[test]
fn rascal_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("rascal", Language::Node));
}

#[test]
fn php_amqplib_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("php-amqplib", Language::Php));
}

#[test]
fn bunny_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("bunny", Language::Ruby));
}

#[test]
fn the_java_client_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("java", Language::Java));
}

#[test]
#[ignore = "Go takes 470 MB: scripts/get-clients go"]
fn the_go_client_publishes_safely_and_hears_the_outcome() {
    runs(|| Client::new("go", Language::Go));
}
