//! Takes requests over HTTP and publishes them to RabbitMQ.
//!
//! A request is answered as accepted only after RabbitMQ has confirmed it and has not returned it. Every
//! other answer says whether it was taken: `no`, or `unknown`, and to repeat it with the same key is then
//! safe.
//!
//! ```text
//! head → clients → body → intake (message::request::decode) → keys → publish → waiters → answer
//! ```
//!
//! The gateway holds a producer's rights in RabbitMQ, and nothing of Trackfinity.

mod answers;
mod app;
mod batch;
mod body;
pub mod clients;
mod common;
mod health;
mod history;
mod intake;
mod keys;
mod link;
mod openapi;
mod outcome_index;
mod poll;
mod publish;
mod replies;
mod request_headers;
mod routes;
mod status;
mod take;
mod taken;
mod waiters;

use std::{net::SocketAddr, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{app::App, routes::Routes};
pub use self::{
    clients::{Clients, ClientsError},
    openapi::openapi,
};
use crate::{
    broker::Connector,
    http::{Bounds, Handler, ListenError, Server, bind},
    ops::{self, EventLoopMonitor, OpsError},
    settings::GatewaySettings,
    telemetry::GatewayTelemetry,
};

const BOUNDS: Bounds = Bounds {
    connections: 512,
    head_bytes: 16 * 1024,
    lifetime: Duration::from_secs(600),
    last_request: intake::REQUEST_TIMEOUT,
    drain: Duration::from_secs(10),
};

/// The gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Ops(#[from] OpsError),
    #[error(transparent)]
    Clients(#[from] ClientsError),
    #[error("the gateway cannot listen: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The gateway, which listens already.
#[derive(Debug)]
pub struct Gateway {
    app: App,
    listener: tokio::net::TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    server: Server,
    connector: Connector,
    ops: Option<SocketAddr>,
}

impl Gateway {
    /// Reads the clients and binds the address.
    ///
    /// # Errors
    /// If a client's file is wrong, or the address is taken.
    pub fn new(settings: &GatewaySettings, telemetry: GatewayTelemetry) -> Result<Self, GatewayError> {
        let clients = match &settings.gateway.clients_dir {
            Some(directory) => Clients::open(directory)?,
            None => Clients::local(),
        };
        let connector = Connector::new(&settings.broker);
        let (listener, address) = bind("gateway.listen", settings.gateway.listen)?;
        Ok(Self {
            app: App::new(settings, clients, telemetry, &connector),
            listener: tokio::net::TcpListener::from_std(listener)?,
            address,
            server: Server::new("gateway", BOUNDS),
            connector,
            ops: settings.ops.listen,
        })
    }

    /// What answers the requests: for tests, without a connection.
    pub fn handler(&self) -> impl Handler + use<> {
        Routes::new(self.app.clone())
    }

    /// Serves until `stop` is cancelled and the requests in flight are answered.
    ///
    /// # Errors
    /// If health and metrics cannot be served.
    pub async fn run(self, stop: CancellationToken) -> Result<(), GatewayError> {
        let Self { app, listener, server, connector, ops, .. } = self;
        let end = CancellationToken::new();
        let _end_on_drop = end.clone().drop_guard();
        let background = TaskTracker::new();
        let event_loop = EventLoopMonitor::new();
        background.spawn(event_loop.clone().run(end.clone()));
        background.spawn(app.clients.clone().watch(end.clone()));
        background.spawn(link::keep_connected(app.clone(), connector.clone(), end.clone()));
        background.spawn(replies::receive(app.clone(), connector.clone(), end.clone()));
        let health = health::Health { app: app.clone(), connector, server: server.clone(), event_loop };
        if app.telemetry.meters.are_sent() {
            background.spawn(ops::observe(health.clone(), end.clone()));
        }
        if let Some(address) = ops {
            let bound = ops::serve(address, ops::routes(health))?;
            tracing::info!(event = "ops_served", address = %bound, "health and metrics are served");
        }
        let stopping = async {
            stop.cancelled().await;
            app.status.stop();
        };
        tokio::join!(server.serve(listener, Routes::new(app.clone()), stop.clone()), stopping);
        end.cancel();
        background.close();
        background.wait().await;
        Ok(())
    }
}
