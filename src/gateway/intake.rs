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
    take::take,
};
use crate::{
    http::{Peer, Problem, Slot},
    message::{Timestamp, request::MAX_BODY_BYTES},
    telemetry::TraceContext,
};

/// How long a request may take, with the wait for its outcome.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A body of at most this many bytes is copied.
const SMALL_BODY_BYTES: usize = 2048;

/// An HTTP request while it is answered.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) received: Instant,
    pub(super) peer: Peer,
    pub(super) slot: &'a Slot,
    pub(super) headers: HeaderMap,
    /// The span of the HTTP request, or the trace that it came with.
    pub(super) trace: Option<TraceContext>,
    /// Who sent it, once that is known.
    pub(super) client: Option<Client>,
    /// Whether it waited for an outcome.
    pub(super) has_waited: bool,
}

impl Exchange<'_> {
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
        let body = body::read(body, &self.headers, limit, self.slot).await?;
        if let Some(signed) = signed {
            self.client = Some(signed.verify(&body, Timestamp::now()).map_err(answers::denied)?);
        }
        // Head and body must not keep the buffer that they were received in: while a request waits for its
        // confirm, its connection would need a second one.
        self.headers = HeaderMap::new();
        let body = if body.len() <= SMALL_BODY_BYTES { Bytes::copy_from_slice(&body) } else { body };
        match &self.client {
            Some(client) => Ok((client.clone(), body)),
            None => Err(answers::denied(super::clients::Denied::Unauthorized)),
        }
    }
}

/// Takes a request, or a batch.
///
/// The answer comes as soon as RabbitMQ has stored the request; with `Prefer: wait=N`, when its outcome has
/// come, or after `N` seconds. A batch is answered with 200 and a result for each line, whatever became of it.
#[utoipa::path(
    post,
    path = "/v1/unlocks",
    operation_id = "requestUnlock",
    tag = "unlocks",
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "What the client calls this request, the same for each repeat: visible ASCII, in quotes (RFC \
                8941) or plain. A repeat within 10 minutes is answered without a second publish. With the client's name \
                before it, at most 253 bytes; in a batch, 5 fewer. Without it a `webhook-id` is the \
                key; in a signed request that alone is.",
            pattern = r#"^([!#-~]([ !#-~]*[!#-~])?|"( *([!#-\[\]-~]|\\["\\]))+ *")$"#, max_length = 188,
            example = "\"8e03978e-40d5\""),
        ("Prefer" = Option<String>, Header,
            description = "`wait=N` waits up to N seconds for the outcome (RFC 7240), but no longer than `gateway.max_wait`. \
                Other preferences are ignored.",
            example = "wait=10"),
        ("X-Correlation-Id" = Option<String>, Header,
            description = "Is handed on to the outcome's `correlation_id`. At most 255 bytes of visible ASCII.",
            pattern = "^[ -~]*$", max_length = 255, example = "order-4711"),
        ("traceparent" = Option<String>, Header,
            description = "The trace that the request belongs to (W3C Trace Context). What is not one is ignored.",
            example = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate" = Option<String>, Header, description = "As in W3C Trace Context.", example = "vendor=value"),
        ("ce-id" = Option<String>, Header, description = "The id of a CloudEvent in binary mode. All headers `ce-…` are \
            handed on to the worker.", example = "8e03978e-40d5"),
        ("ce-expirytime" = Option<String>, Header,
            description = "From then on the request is not tried any more. RFC 3339; empty counts as absent.",
            example = "2036-11-23T10:00:00Z"),
    ),
    responses()
)]
pub(super) async fn post(app: &App, exchange: &mut Exchange<'_>, body: Body) -> Result<Response, Problem> {
    let received = exchange.received;
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
    let properties = head::properties(&exchange.headers)?;
    if head::is_batch(&properties) {
        if head::is_encoded(&properties) {
            return Err(answers::unsupported_batch_encoding());
        }
        // Strangers, whose bodies may never come, must not take the places of those who are known.
        let unverified = if is_signed { Some(batch::place(&app.unverified_batches).await?) } else { None };
        let known = if is_signed { None } else { Some(batch::place(&app.batches).await?) };
        let (client, body) = exchange.read(signed, body, batch::MAX_BYTES).await?;
        let permit = match known {
            Some(permit) => permit,
            None => batch::place(&app.batches).await?,
        };
        drop(unverified);
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
    let request = common.request(None, properties, &body)?;
    let mut taken = Box::pin(take(app, exchange.trace.as_ref(), request)).await?;
    exchange.has_waited = wait.is_some();
    common.finish(app, &mut taken).await;
    Ok(match (taken.outcome.as_deref(), wait) {
        (Some(outcome), Some(wait)) => answers::outcome(outcome, wait),
        _ => answers::accepted(&taken),
    })
}
