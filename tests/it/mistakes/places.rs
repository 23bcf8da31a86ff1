//! What the mistakes need, by names that stand for it in commands and in the snapshot.

use std::path::{Path, PathBuf};

use kit::{Answer, Certificate, Context, FieldTable, Management, Trackfinity};

use crate::world::{start_worker, unlocker};

/// The broker, users, ports and files.
pub struct Places {
    root: PathBuf,
    /// Names and what they stand for. A name that contains another one comes first.
    names: Vec<(&'static str, String)>,
    management: Management,
    users: [String; 2],
    _servers: Vec<Trackfinity>,
}

impl Places {
    /// Settings that are right, for all that a mistake does not set.
    pub const RIGHT: [(&'static str, &'static str); 5] = [
        ("UNLOCKER__BROKER__URL", "amqp://guest:guest@HOST:PORT/VHOST"),
        ("UNLOCKER__TRACKFINITY__BASE_URL", "http://TRACKFINITY"),
        ("UNLOCKER__TRACKFINITY__API_KEY", "the-key"),
        ("UNLOCKER__TRACKFINITY__API_USERNAME", "the-user"),
        ("UNLOCKER__OPS__LISTEN", ""),
    ];

    pub async fn prepare(ctx: &Context) -> Self {
        let root = std::env::temp_dir().join(format!("mistakes-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory");
        let (host, port) = ctx.node().address();
        let vhost = ctx.vhost().name().to_owned();
        let management = ctx.node().management(&vhost);
        let users = ["POOR", "STRANGER"].map(|user| format!("{}-{vhost}", user.to_lowercase()));
        for user in &users {
            management.create_user(user, "secret", "").await;
        }
        management.set_permissions(&users[0], "^$", "^$", "^$").await;
        let certificate = Certificate::issued();
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let unauthorized = Trackfinity::start(|_| Answer::status(401));
        let (tls, expired) = (
            Trackfinity::start_tls(&certificate, |_| Answer::unlocked()),
            Trackfinity::start_tls(&Certificate::expired(), |_| Answer::unlocked()),
        );
        let address = |of: &Trackfinity| of.url().split("//").nth(1).expect("an address").to_owned();
        let port_of = |of: &str| of.rsplit(':').next().expect("a port").to_owned();
        let names = vec![
            ("NO_VHOST", "no-such-vhost".to_owned()),
            ("POOR", users[0].clone()),
            ("STRANGER", users[1].clone()),
            ("VHOST", vhost),
            ("UNAUTHORIZED", address(&unauthorized)),
            ("TRACKFINITY", address(&trackfinity)),
            ("TLS_PORT", port_of(&address(&tls))),
            ("EXPIRED_PORT", port_of(&address(&expired))),
            ("NO_PORT", kit::free_port().to_string()),
            ("PLAN", Self::plan(ctx).await),
            ("PORT", port.to_string()),
            ("HOST", host),
        ];
        let servers = vec![trackfinity, unauthorized, tls, expired];
        Self { root, names, management, users, _servers: servers }
    }

    /// Declares the topology with the prefix `declared`, and another queue where `taken` would have
    /// one. Returns the digest of a replay's plan there.
    async fn plan(ctx: &Context) -> String {
        let settings = [("TOPOLOGY__PREFIX", "declared")];
        let worker = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &settings).await;
        worker.signal(kit::Signal::TERM);
        worker.wait_exit(crate::world::SOON).await;
        let amqp = ctx.amqp().await;
        amqp.declare_queue("taken.requests", FieldTable::default()).await;
        amqp.publish("", "declared.dead", crate::world::id("r-1"), br#"{"customer_id":"1"}"#).await;
        let plan = unlocker(ctx.amqp_url(), "http://127.0.0.1:1")
            .env("UNLOCKER__TOPOLOGY__PREFIX", "declared")
            .args(["dead-letters", "replay", "--json"]);
        let plan = ctx.start(&plan);
        assert!(plan.wait_exit(crate::world::SOON).await.success(), "{:?}", plan.stderr());
        let plan: serde_json::Value = serde_json::from_str(&plan.stdout().join("")).expect("JSON");
        crate::world::text(&plan["digest"])
    }

    /// A directory for one mistake.
    pub fn directory(&self, what: &str) -> PathBuf {
        let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let directory = self.root.join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        directory
    }

    /// Puts what the names stand for in their place.
    pub fn fill(&self, text: &str, directory: &Path) -> String {
        let text = text.replace("DIR/", &format!("{}/", directory.display()));
        // In a variable's name nothing is replaced, because only values are filled.
        self.names.iter().fold(text, |text, (name, value)| text.replace(name, value))
    }

    /// The reverse of [`Places::fill`].
    pub fn empty(&self, text: &str, directory: &Path) -> String {
        // RabbitMQ 4 says which access, 3.10 does not.
        let text = text.replace(": configure access to ", ": access to ");
        let text = text.replace(&format!("{}", directory.display()), "DIR");
        self.names.iter().fold(text, |text, (name, value)| match *name {
            // Ports and addresses are digits, which may stand elsewhere, too.
            "PORT" | "TLS_PORT" | "EXPIRED_PORT" | "NO_PORT" => {
                text.replace(&format!(":{value}"), &format!(":{name}"))
            }
            "HOST" => text.replace(&format!("{value}:PORT"), "HOST:PORT"),
            _ => text.replace(value, name),
        })
    }

    pub async fn remove(&self) {
        for user in &self.users {
            self.management.delete_user(user).await;
        }
        std::fs::remove_dir_all(&self.root).expect("removed");
    }
}
