//! `broker.client_certificate_file` against a RabbitMQ that accepts no connection with TLS without a certificate.

use kit::{Answer, Authority, Context, Issued, NodeOptions, Program, Trackfinity};
use serde_json::Value;

use super::folder::Folder;
use crate::{
    console::http::Request,
    gateway::world::Gateway,
    world::{RESULTS, SOON, World, logged_address, unlocker},
};

/// The user's name in RabbitMQ, which is in the certificate.
const USER: &str = "unlocker-by-certificate";

/// A RabbitMQ with TLS, and the files of one program.
struct Site {
    ctx: Context,
    authority: Authority,
    folder: Folder,
    port: u16,
}

impl Site {
    fn run(test: impl AsyncFnOnce(Self)) {
        let (authority, port) = (Authority::new("kit authority"), kit::free_port());
        let server = authority.server();
        let options = NodeOptions::default()
            .plugin_without_port("rabbitmq_auth_mechanism_ssl")
            .tls(port)
            .file("ca.pem", authority.pem())
            .file("server.pem", &server.certificate)
            .file("server.key", &server.key)
            .conf("ssl_options.cacertfile = FILES/ca.pem")
            .conf("ssl_options.certfile = FILES/server.pem")
            .conf("ssl_options.keyfile = FILES/server.key")
            .conf("ssl_options.verify = verify_peer")
            .conf("ssl_options.fail_if_no_peer_cert = true")
            .conf("ssl_cert_login_from = common_name")
            .conf("auth_mechanisms.1 = EXTERNAL")
            .conf("auth_mechanisms.2 = PLAIN");
        kit::run_on_own_node(options, async |ctx| {
            let management = ctx.vhost().management();
            management.create_user(USER, "never told", "").await;
            // From now on no password is right.
            ctx.node().rabbitmqctl(&["clear_password", USER]).await.expect("cleared");
            management.set_permissions(USER, ".*", ".*", ".*").await;
            let folder = Folder::new();
            folder.write("ca.crt", authority.pem());
            test(Self { ctx, authority, folder, port }).await;
        });
    }

    fn url(&self) -> String {
        format!("amqps://localhost:{}/{}?auth_mechanism=external", self.port, self.ctx.vhost().name())
    }

    /// Writes the certificate and its key, as cert-manager names them.
    fn present(&self, issued: &Issued) {
        self.folder.write("tls.crt", &issued.certificate);
        self.folder.write("tls.key", &issued.key);
    }

    /// The settings that name the files.
    fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("BROKER__CLIENT_CERTIFICATE_FILE", self.folder.path("tls.crt")),
            ("BROKER__CLIENT_KEY_FILE", self.folder.path("tls.key")),
            ("BROKER__CA_FILE", self.folder.path("ca.crt")),
        ]
    }

    fn with_files(&self, program: Program) -> Program {
        let settings = self.settings();
        settings
            .iter()
            .fold(program, |program, (name, value)| program.env(format!("UNLOCKER__{name}"), value))
    }

    /// What `publish` prints when it cannot log in: one line.
    async fn refused(&self, program: Program) -> String {
        let publish = self.ctx.start(&program.args(["publish", "--customer-id", "191"]));
        let code = publish.wait_exit(SOON).await.code();
        let lines = publish.stderr();
        assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
        lines.concat()
    }
}

fn publisher(url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", url)
}

/// Waits until `/readyz` says this code, and a reason with this part.
async fn not_ready(ops: &str, code: &str, part: &str) -> String {
    kit::eventually(part, SOON, async || {
        let answer = Request::new("GET", "/readyz").send(ops).await;
        let said: Value = serde_json::from_str(&answer.body).expect("JSON");
        let reason = said["reason"].as_str().filter(|reason| said["code"] == code && reason.contains(part));
        reason.map(str::to_owned).ok_or_else(|| said.to_string())
    })
    .await
}

async fn ready(ops: &str) {
    let is_ready = async || Request::new("GET", "/readyz").send(ops).await.status == 200;
    kit::eventually("ready", SOON, is_ready).await;
}
#[test]
fn a_client_certificate_alone_is_the_login_and_is_read_again_at_each_reconnect() {
    Site::run(async |site| {
        site.present(&site.authority.client(USER));
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let program = unlocker(&site.url(), &trackfinity.url()).env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0");
        let worker = site.ctx.start(&site.with_files(program).arg("run"));
        let ops = logged_address(&worker, "ops_served").await;
        ready(&ops).await;
        let amqp = site.ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let world = World { ctx: site.ctx.clone(), trackfinity, amqp, outcomes, worker };

        let settings = site.settings();
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        let gateway = Gateway::start(&site.ctx, &site.url(), &settings).await;
        let taken = gateway.post(crate::gateway::world::json(r#"{"customer_id":"191"}"#)).await;
        assert_eq!(taken.status, 202);
        assert_eq!(world.outcome().await["status"], "unlocked");
        // It reads with the program's own AMQP client.
        let list = site.with_files(publisher(&site.url())).args(["dead-letters", "list"]);
        let list = site.ctx.start(&list);
        assert!(list.wait_exit(SOON).await.success(), "{:#?}", list.stderr());

        // Open connections stay; the next ones need a certificate that is not accepted.
        site.present(&site.authority.expired_client(USER));
        site.ctx.node().close_all_connections().await;
        let reason = not_ready(&ops, "login_refused", "which expired at 2020-01-01").await;
        assert!(reason.contains("it has expired"), "{reason}");
        // A file's fault is no refusal, and is said all the same.
        let (own, other) = (site.authority.client(USER), site.authority.client(USER));
        site.present(&Issued { certificate: own.certificate, key: other.key });
        let mismatch = "the files for the connection to RabbitMQ cannot be used";
        for ops in [&ops, &gateway.ops] {
            let reason = not_ready(ops, "not_connected", mismatch).await;
            assert!(reason.contains("the key in broker.client_key_file does not belong to"), "{reason}");
        }
        site.present(&site.authority.client(USER));
        ready(&ops).await;
        let check = site.with_files(unlocker(&site.url(), &world.trackfinity.url())).arg("check");
        let check = site.ctx.start(&check);
        assert!(check.wait_exit(SOON).await.success(), "{:#?}", check.stdout());
        let login =
            check.stdout().into_iter().find(|line| line.contains("login to RabbitMQ")).expect("a line");
        assert!(login.contains(&format!("O=kit,CN={USER}), which expires at")), "{login}");
    });
}

#[test]
fn a_wrong_an_expired_and_a_missing_certificate_each_give_one_clear_line() {
    Site::run(async |site| {
        // Someone has to declare the exchange, for the one that works at last.
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        crate::world::start_worker(&site.ctx, site.ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let authority = site.folder.path("ca.crt");
        let publish = || site.with_files(publisher(&site.url()));
        let plain =
            site.url().replace("?auth_mechanism=external", "").replace("localhost", "guest:guest@localhost");

        let missing = publisher(&plain).env("UNLOCKER__BROKER__CA_FILE", &authority);
        let line = site.refused(missing).await;
        assert!(
            line.contains("RabbitMQ requires a client certificate: set broker.client_certificate_file"),
            "{line}"
        );

        site.present(&site.authority.expired_client(USER));
        let line = site.refused(publish()).await;
        assert!(line.contains("which expired at 2020-01-01") && line.contains("it has expired"), "{line}");

        site.present(&site.authority.later_client(USER));
        let line = site.refused(publish()).await;
        assert!(
            line.contains("which is not valid before 2100-01-01") && line.contains("or a clock is wrong"),
            "{line}"
        );
        let check = site.with_files(unlocker(&site.url(), &trackfinity.url())).arg("check");
        let check = site.ctx.start(&check);
        assert_eq!(check.wait_exit(SOON).await.code(), Some(1));
        let printed = check.stdout().join("\n");
        assert!(printed.contains("FAIL  login to RabbitMQ: with the certificate"), "{printed}");
        assert!(printed.contains("fix: correct the clock that is wrong"), "{printed}");
        assert!(!printed.contains("correct broker.url"), "{printed}");

        site.present(&Authority::new("another authority").client(USER));
        let line = site.refused(publish()).await;
        assert!(
            line.contains("RabbitMQ refuses the certificate in broker.client_certificate_file"),
            "{line}"
        );
        assert!(line.contains("does not trust the authority that issued it"), "{line}");

        site.present(&site.authority.client("nobody"));
        let line = site.refused(publish()).await;
        assert!(
            line.contains("RabbitMQ has no user for the certificate") && line.contains("CN=nobody"),
            "{line}"
        );

        let (own, other) = (site.authority.client(USER), site.authority.client(USER));
        site.present(&Issued { certificate: own.certificate.clone(), key: other.key });
        let mixed = site.ctx.start(&publish().args(["publish", "--customer-id", "191"]));
        assert_eq!(mixed.wait_exit(SOON).await.code(), Some(1));
        let line = mixed.stderr().concat();
        assert!(
            line.contains("the key in broker.client_key_file does not belong to the certificate"),
            "{line}"
        );

        site.present(&own);
        let works = site.ctx.start(&publish().args(["publish", "--customer-id", "191"]));
        assert!(works.wait_exit(SOON).await.success(), "{:#?}", works.stderr());
    });
}
