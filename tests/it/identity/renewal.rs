//! Tokens that live for a few seconds, and are renewed.

use std::time::{Duration, Instant};

use kit::{Context, NodeOptions, TokenIssuer};

use super::folder::Folder;
use crate::world::SOON;

/// How long a renewed token lives. In a token, times are whole seconds: it may be one less.
const LIFETIME: Duration = Duration::from_secs(8);
/// A token is renewed this long after it was issued, which leaves a busy machine some seconds.
const RENEWED_AFTER: Duration = Duration::from_secs(3);
/// How long the token lives with which a program starts.
const FIRST_LIFETIME: Duration = Duration::from_secs(60);
/// How long a token lives that is left to expire.
const SHORT_LIFETIME: Duration = Duration::from_secs(4);

/// A RabbitMQ that accepts tokens, and the file with the token of one program.
pub struct Tokens {
    issuer: TokenIssuer,
    folder: Folder,
    vhost: String,
    issued: Instant,
}

impl Tokens {
    /// Runs a test on a node that accepts its tokens.
    pub fn run(test: impl AsyncFnOnce(Context, Self)) {
        let issuer = TokenIssuer::new();
        let options = NodeOptions::default()
            .plugin_without_port("rabbitmq_auth_backend_oauth2")
            .file("token.pem", &issuer.public_key())
            .conf(&TokenIssuer::conf());
        kit::run_on_own_node(options, async |ctx| {
            // How long RabbitMQ remembers that a right was granted: a minute by default, which would hide that a token
            // has expired.
            let soon = "application:set_env(rabbit, channel_tick_interval, 500).";
            ctx.node().rabbitmqctl(&["eval", soon]).await.expect("set");
            let vhost = ctx.vhost().name().to_owned();
            let tokens = Self { issuer, folder: Folder::new(), vhost, issued: Instant::now() };
            test(ctx, tokens).await;
        });
    }

    /// The address, without user and password.
    pub fn url(&self, ctx: &Context) -> String {
        let (host, port) = ctx.node().address();
        format!("amqp://{host}:{port}/{}", self.vhost)
    }

    /// The path of the token's file.
    pub fn file(&self) -> String {
        self.folder.path("token")
    }

    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// A token that grants these scopes for this long.
    pub fn token(&self, scopes: &[&str], lifetime: Duration) -> String {
        self.issuer.token("unlocker", scopes, lifetime)
    }

    /// A token that grants all that any process needs.
    fn next(&self, lifetime: Duration) -> String {
        let names = format!("{}/trackfinity.unlock*/*", self.vhost);
        let default = format!("write:{}/amq.default/*", self.vhost);
        let scopes =
            [format!("configure:{names}"), format!("write:{names}"), format!("read:{names}"), default];
        self.token(&scopes.each_ref().map(String::as_str), lifetime)
    }

    /// Writes the token to start with.
    pub fn write_first(&self) {
        self.folder.swap("token", &self.next(FIRST_LIFETIME));
    }

    /// Writes a new token in the place of the old one.
    pub fn write(&mut self) {
        self.issued = Instant::now();
        self.folder.write("token", &self.next(LIFETIME));
    }

    /// Writes a token, and waits until it has expired.
    pub async fn let_expire(&self) {
        self.folder.write("token", &self.next(SHORT_LIFETIME));
        let issued = Instant::now();
        kit::eventually("an expired token", SOON, async || issued.elapsed() > SHORT_LIFETIME).await;
    }

    /// Writes any text in the place of the token.
    pub fn write_text(&self, text: &str) {
        self.folder.write("token", text);
    }

    /// As [`write`](Self::write), in the way of Kubernetes.
    pub fn swap(&mut self) {
        self.issued = Instant::now();
        self.folder.swap("token", &format!("{}\n", self.next(LIFETIME)));
    }

    /// Waits until it is time for a new token.
    pub async fn due(&self) {
        kit::eventually("a token that is due", SOON, async || self.issued.elapsed() >= RENEWED_AFTER).await;
    }
}
