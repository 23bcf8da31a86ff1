//! The dead-letter page and its JSON API. They run on their own thread and runtime, so that they do
//! not slow down the processing of requests.
//!
//! Off by default. Without a viewer token, anyone on the same machine may read the page (loopback
//! only). To change dead letters or to see what is masked, the operator's token is needed. The
//! server renders all pages; they contain no script.

mod access;
mod api;
mod app;
mod cached_reader;
mod fields;
mod filters;
mod guard;
mod jobs;
mod login;
mod page_layout;
mod page_user;
mod pages;
mod problem;
mod recent_plans;
mod sessions;
mod worker_state;

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::api::openapi;
use self::{
    app::App,
    guard::{Hosts, REQUEST_TIMEOUT},
};
use crate::{
    http::{Bounds, ListenError, Server, bind},
    ops::WorkerHandles,
    settings::Settings,
};

/// The largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What a stranger can take of the page.
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

/// The page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the thread of the dead-letter page cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// The page while it is served.
#[derive(Debug)]
pub struct Served {
    pub address: SocketAddr,
    ended: oneshot::Receiver<()>,
}

impl Served {
    /// Waits until the page has stopped, which is soon after the token was cancelled. A job
    /// finishes the current dead letter first. If that takes too long, the dead letter stays in the
    /// queue.
    pub async fn ended(self) {
        match tokio::time::timeout(STOP_TIMEOUT, self.ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => tracing::error!("the thread of the dead-letter page panicked"),
            Err(_elapsed) => tracing::warn!("a browse or a change of dead letters was aborted"),
        }
    }
}

/// Serves the page until `stop` is cancelled. Returns once the address is bound; `None` if the page
/// is off.
///
/// # Errors
/// If the address is taken, or no thread can be started.
pub fn serve(
    settings: &Settings,
    handles: WorkerHandles,
    stop: CancellationToken,
) -> Result<Option<Served>, AdminError> {
    let admin = &settings.admin;
    let Some(address) = admin.listen else {
        return Ok(None);
    };
    let (listener, bound) = bind("admin.listen", address)?;
    let app = App::new(settings, handles, &stop);
    let hosts = Hosts::new(bound, &admin.allowed_hosts);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Thread)?;
    let (send_end, ended) = oneshot::channel();
    let serve = move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let jobs = app.jobs.clone();
                    Server::new("page", BOUNDS).serve(listener, router(app, hosts), stop).await;
                    jobs.wait_until_ended().await;
                }
                Err(error) => tracing::error!(%error, "the dead-letter page is not served"),
            }
        });
        // The receiver may be gone.
        send_end.send(()).ok();
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(AdminError::Thread)?;
    Ok(Some(Served { address: bound, ended }))
}

fn router(app: App, hosts: Hosts) -> Router {
    Router::new()
        .merge(pages::router())
        .merge(login::router())
        .nest("/api/v1", api::router())
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
        .with_state(app)
}
