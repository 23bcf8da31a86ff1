//! The page of the dead letters and its JSON API, on a thread and a runtime of their own: whatever
//! is asked here, requests do not wait for it.
//!
//! Off by default. One may look on loopback without a token; whatever changes a letter, or shows what
//! is masked, takes the operator's token. Everything is rendered here; the page runs no script.

mod access;
mod api;
mod attempts;
mod filters;
mod frame;
mod guard;
mod jobs;
mod login;
mod looks;
mod pages;
mod problem;
mod server;
mod sessions;
mod visitor;
mod worker_state;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::api::openapi;
use self::{
    access::Tokens, attempts::Attempts, guard::Hosts, jobs::Jobs, looks::Looks, pages::Plans,
    sessions::Sessions,
};
use crate::{
    dead_letters::{Audit, DeadLetters},
    ops::WorkerHandles,
    settings::{BrokerSettings, Settings},
};

/// The largest form or document that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// How long the letter at hand may take, once the program is told to stop.
const LAST_LETTER: Duration = Duration::from_secs(5);

/// The page could not be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin.listen: {address} cannot be listened on: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the thread of the dead-letter page cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// The page, being served.
#[derive(Debug)]
pub struct Served {
    pub address: SocketAddr,
    ended: oneshot::Receiver<()>,
}

impl Served {
    /// Waits for the end, which comes soon after the token was cancelled: a letter being replayed or
    /// discarded is seen to its end. Where that takes too long, the letter stays where it is.
    pub async fn ended(self) {
        match tokio::time::timeout(LAST_LETTER, self.ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => tracing::error!("the thread of the dead-letter page panicked"),
            Err(_elapsed) => tracing::warn!("a look at the dead letters, or a change, is given up"),
        }
    }
}

/// What all requests share.
#[derive(Clone, Debug)]
struct App {
    tokens: Tokens,
    sessions: Sessions,
    attempts: Attempts,
    looks: Looks,
    jobs: Jobs,
    plans: Plans,
    handles: WorkerHandles,
    trace_url: Option<Arc<str>>,
}

/// Serves until `stop` is cancelled. Returns once the address is bound; `None` where it is off.
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
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    let (listener, bound) = bind().map_err(|source| AdminError::Bind { address, source })?;
    let letters = DeadLetters::new(BrokerSettings::from(settings), Audit::new(admin.audit_log.as_deref()));
    let looks = Looks::new(letters.clone());
    let app = App {
        tokens: Tokens::new(admin),
        sessions: Sessions::default(),
        attempts: Attempts::default(),
        jobs: Jobs::new(letters, looks.clone(), stop.clone()),
        looks,
        plans: Plans::default(),
        handles,
        trace_url: admin.trace_url.as_deref().map(Arc::from),
    };
    let hosts = Hosts::new(bound, &admin.allowed_hosts);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Thread)?;
    let (tell, ended) = oneshot::channel();
    let serve = move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let jobs = app.jobs.clone();
                    server::serve(listener, router(app, hosts), stop).await;
                    jobs.ended().await;
                }
                Err(error) => tracing::error!(%error, "the dead-letter page is not served"),
            }
        });
        // Nobody may wait for it any more.
        tell.send(()).ok();
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
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
        .with_state(app)
}
