//! From an HTTP request to its answer: who sent it, its head and body, and what became of it.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::HeaderMap,
    response::Response,
};
use tokio::time::{Instant, timeout_at};

use super::{
    answers,
    app::App,
    batch, body,
    clients::{Client, Identified, Signed},
    common::Common,
    request_headers as head,
    take::{self, take},
};
use crate::{
    http::{Peer, Problem, Slot},
    message::{Timestamp, request::MAX_BODY_BYTES},
    telemetry::TraceContext,
};

/// How long a request may take, with the wait for its outcome.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// An HTTP request while it is answered.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) peer: Peer,
    pub(super) slot: Slot,
    pub(super) headers: HeaderMap,
    /// The span of the HTTP request, or the trace that it came with.
    pub(super) trace: Option<TraceContext>,
    /// Who sent it, once that is known.
    pub(super) client: Option<Client>,
    /// Whether it waited for an outcome.
    pub(super) has_waited: bool,
}

impl Exchange {
    /// Who sends this, as far as the head tells. A token is checked before the body is read.
    pub(super) fn identify(&mut self, app: &App) -> Result<Option<Signed>, Problem> {
        match app.clients.identify(self.peer.ip(), &self.headers).map_err(answers::denied)? {
            Identified::Client(client) => {
                self.client = Some(client);
                Ok(None)
            }
            Identified::Signed(signed) => Ok(Some(signed)),
        }
    }

    /// Reads the body, and checks its signature if it is signed.
    async fn read(
        &mut self,
        signed: Option<Signed>,
        body: Body,
        limit: usize,
    ) -> Result<(Client, Bytes), Problem> {
        let body = body::read(body, &self.headers, limit, &self.slot).await?;
        if let Some(signed) = signed {
            self.client = Some(signed.verify(&body, Timestamp::now()).map_err(answers::denied)?);
        }
        match &self.client {
            Some(client) => Ok((client.clone(), body)),
            None => Err(answers::denied(super::clients::Denied::Unauthorized)),
        }
    }
}

/// Answers `POST /v1/unlocks`.
pub(super) async fn post(app: &App, exchange: &mut Exchange, body: Body) -> Result<Response, Problem> {
    let received = Instant::now();
    let signed = exchange.identify(app)?;
    let is_signed = signed.is_some();
    // An id that is not signed must not be trusted beside one that is.
    let key = match is_signed {
        true => head::webhook_id(&exchange.headers)?.map(str::to_owned),
        false => head::key(&exchange.headers)?.map(|key| key.into_owned()),
    };
    let correlation_id = head::correlation_id(&exchange.headers)?.map(str::to_owned);
    let wait =
        head::wait(&exchange.headers).map(|wait| wait.min(app.max_wait)).filter(|wait| !wait.is_zero());
    let deadline = received + wait.unwrap_or_default();
    let content = head::content(&exchange.headers)?;
    let is_batch = head::is_batch(&content);
    let is_plain = content.content_encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"));
    if is_batch && !is_plain {
        return Err(answers::unsupported_batch_encoding());
    }
    if is_batch {
        let permit = app.batches.try_acquire().map_err(|_| batch::busy())?;
        let (client, body) = exchange.read(signed, body, batch::MAX_BYTES).await?;
        exchange.has_waited = wait.is_some();
        let common = Common { client, key, correlation_id, wait, deadline };
        let taken = batch::take_all(app, exchange.trace.as_ref(), &common, body, permit);
        // Of many lines, each has its own limits.
        let limit = received + REQUEST_TIMEOUT;
        return Box::pin(timeout_at(limit, taken))
            .await
            .unwrap_or_else(|_elapsed| Err(answers::slow_batch()));
    }
    let (client, body) = exchange.read(signed, body, MAX_BODY_BYTES).await?;
    client.allow(1).map_err(answers::over_rate)?;
    let common = Common { client, key, correlation_id, wait, deadline };
    let request = take::Request {
        id: common.id(None)?,
        is_keyed: common.key.is_some(),
        client: common.client.name(),
        content: head::content(&exchange.headers)?,
        event: head::event_headers(&exchange.headers)?,
        correlation_id: common.correlation_id.as_deref(),
        body: &body,
        waits: wait.is_some(),
    };
    let mut taken = Box::pin(take(app, exchange.trace.as_ref(), request)).await?;
    exchange.has_waited = wait.is_some();
    common.finish(app, &mut taken).await;
    Ok(match (taken.outcome.as_deref(), wait) {
        (Some(outcome), Some(wait)) => answers::outcome(outcome, wait),
        _ => answers::accepted(&taken),
    })
}
