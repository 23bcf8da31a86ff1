//! The web page and the JSON API for dead letters and history: `unlocker console`.
//!
//! It knows no worker: what it shows comes from RabbitMQ. It holds the operator's rights there, and nothing
//! of Trackfinity. Any number of processes serve the same.
//!
//! Without a viewer token, anyone on the same machine may read the pages (loopback only). To change
//! dead letters or to see what is masked, the operator's token is needed. The server renders all pages;
//! they contain no script.

mod access;
mod api;
mod app;
mod cached_reader;
mod events;
mod fields;
mod filters;
mod guard;
mod health;
mod job_now;
mod job_writer;
mod jobs;
mod link;
mod log;
mod login;
mod outcome_counts;
mod outcome_index;
mod page_layout;
mod page_user;
mod pages;
mod problem;
mod queues;
mod recent;
mod records;
mod search;
mod session_cookie;
mod sessions;
mod words;

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::api::openapi;
use self::{
    app::App,
    guard::{Hosts, REQUEST_TIMEOUT},
};
use crate::{
    http::{Bounds, Handler, ListenError, Server, bind},
    ops::{self, EventLoopMonitor, OpsError},
    settings::ConsoleSettings,
    telemetry::ConsoleTelemetry,
};

/// The largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What a stranger can take of the console.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    head_bytes: 16 * 1024,
    lifetime: Duration::from_secs(300),
    last_request: guard::REQUEST_TIMEOUT,
    drain: Duration::from_secs(1),
};
const _: () = assert!(BOUNDS.lifetime.as_secs() > REQUEST_TIMEOUT.as_secs());

/// How long to wait for the current dead letter when the program stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The console could not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Ops(#[from] OpsError),
    #[error("the console cannot listen: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The console, which listens already.
#[derive(Debug)]
pub struct Console {
    app: App,
    listener: tokio::net::TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    hosts: Hosts,
    server: Server,
    telemetry: ConsoleTelemetry,
    ops: Option<SocketAddr>,
}

impl Console {
    /// Binds the address.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn new(settings: &ConsoleSettings, telemetry: ConsoleTelemetry) -> Result<Self, ConsoleError> {
        let (listener, address) = bind("console.listen", settings.console.listen)?;
        Ok(Self {
            app: App::new(settings),
            listener: tokio::net::TcpListener::from_std(listener)?,
            address,
            hosts: Hosts::new(address, &settings.console.allowed_hosts),
            server: Server::new("console", BOUNDS),
            telemetry,
            ops: settings.ops.listen,
        })
    }

    /// What answers the requests: for tests, without a connection.
    pub fn handler(&self) -> impl Handler + use<> {
        router(self.app.clone(), self.hosts.clone())
    }

    /// Serves until `stop` is cancelled. A job finishes the current dead letter first. If that takes too
    /// long, the dead letter stays in the queue.
    ///
    /// # Errors
    /// If health and metrics cannot be served.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ConsoleError> {
        let Self { app, listener, hosts, server, telemetry, ops, .. } = self;
        let end = CancellationToken::new();
        let _end_on_drop = end.clone().drop_guard();
        let background = TaskTracker::new();
        let event_loop = EventLoopMonitor::new();
        background.spawn(event_loop.clone().run(end.clone()));
        background.spawn(app.log.clone().follow(end.clone()));
        if let Some(recent) = &app.recent {
            background.spawn(recent.clone().follow(end.clone()));
        }
        let health = health::Health {
            app: app.clone(),
            server: server.clone(),
            telemetry,
            event_loop,
            stop: stop.clone(),
        };
        if health.telemetry.meters.are_sent() {
            background.spawn(ops::observe(health.clone(), end.clone()));
        }
        if let Some(address) = ops {
            let bound = ops::serve(address, ops::routes(health))?;
            tracing::info!(event = "ops_served", address = %bound, "health and metrics are served");
        }
        let stopping = async {
            stop.cancelled().await;
            app.jobs.stop_all();
        };
        tokio::join!(server.serve(listener, router(app.clone(), hosts), stop.clone()), stopping);
        if tokio::time::timeout(STOP_TIMEOUT, app.jobs.wait_until_ended()).await.is_err() {
            tracing::warn!(event = "job_aborted", "a change of dead letters was aborted");
        }
        app.link.close().await;
        end.cancel();
        background.close();
        background.wait().await;
        Ok(())
    }
}

fn router(app: App, hosts: Hosts) -> Router {
    Router::new()
        .merge(pages::router())
        .merge(login::router())
        .nest("/api/v1", api::router())
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), page_user::with_layout))
        .layer(middleware::from_fn_with_state(app.clone(), session_cookie::renew))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
        .with_state(app)
}
