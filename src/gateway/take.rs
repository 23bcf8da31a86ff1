//! Takes one request: decodes it, and publishes it unless it is a repeat.

use std::{sync::Arc, time::Duration};

use lapin::BasicProperties;
use sha2::{Digest as _, Sha256};

use super::{
    answers,
    app::App,
    keys::{Claim, Digest, Known},
    publish,
    taken::Taken,
    waiters::Waiter,
};
use crate::{
    broker::{publisher::Outgoing, topology::REQUEST_KEY},
    http::Problem,
    message::{
        Timestamp,
        request::{self, Content},
    },
    telemetry::{Span, TraceContext},
};

/// How long a repeat may wait for the first request with its key, which is being published. As long as a
/// publish may take; but of many repeats, each would publish after the one before has failed.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(15);

/// A request that was not looked at yet.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// `CLIENT/KEY`
    pub(super) id: String,
    /// Whether the client chose the key, and so may repeat the request.
    pub(super) is_keyed: bool,
    pub(super) client: &'a str,
    /// What was said about the body: its types, and the attributes of a CloudEvent in binary mode.
    pub(super) properties: BasicProperties,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) body: &'a [u8],
    /// Whether the client waits for the outcome.
    pub(super) waits: bool,
}

/// Takes a request. `trace`: the span of the HTTP request.
///
/// # Errors
/// If it is no request, or was not published, or that is unknown.
pub(super) async fn take(
    app: &App,
    trace: Option<&TraceContext>,
    mut request: Request<'_>,
) -> Result<Taken, Problem> {
    let since = Timestamp::now();
    let content = Content::from_properties(&request.properties);
    if let Err(fault) = request::decode(content, request.body).request {
        return Err(answers::invalid(&fault, pointer(&content)));
    }
    // Before the request is published or found: its outcome may come at once.
    let waiter = request.waits.then(|| app.waiters.register(&request.id)).flatten();
    if !request.is_keyed {
        publish(app, trace, &mut request, waiter.as_ref(), since).await?;
        return Ok(Taken { id: request.id, since, waiter, outcome: None });
    }
    let claim = app.keys.claim(&request.id, digest(&request));
    match tokio::time::timeout(CLAIM_TIMEOUT, claim).await.map_err(|_elapsed| still_published())? {
        Known::New(claim) => {
            if let Err(problem) = publish(app, trace, &mut request, waiter.as_ref(), since).await {
                return Err(not_published(claim, problem));
            }
            claim.accepted(since, waiter.as_ref().map(|waiter| Arc::clone(&waiter.reply_to)));
            Ok(Taken { id: request.id, since, waiter, outcome: None })
        }
        Known::Repeat(known) => {
            // An outcome that was sent to a lost connection does not come any more.
            let waiter = waiter.filter(|waiter| known.reply_to.as_ref() == Some(&waiter.reply_to));
            Ok(Taken { id: request.id, since: known.since, waiter, outcome: known.outcome })
        }
        Known::Conflict => Err(answers::key_reused()),
    }
}

/// What to answer to a request with a key that was not published, or may have been.
fn not_published(claim: Claim, problem: Problem) -> Problem {
    if problem.may_be_taken() {
        // Dropped, so that its key is kept.
        return problem;
    }
    let is_unknown = claim.is_unknown;
    claim.not_published();
    if is_unknown { publish::unconfirmed_before() } else { problem }
}

/// Others with the same key are still being published.
fn still_published() -> Problem {
    let detail =
        "Another request with the same key is still being published. Send it again with the same key.";
    publish::no_confirm(detail)
}

/// Where the fields of a request stand in its body, as the beginning of a JSON pointer.
fn pointer(content: &Content<'_>) -> &'static str {
    let content_type = content.content_type.unwrap_or_default();
    if content_type.to_ascii_lowercase().starts_with("application/cloudevents+json") { "/data" } else { "" }
}

/// What a repeat must have in common with the first.
fn digest(request: &Request<'_>) -> Digest {
    let mut hasher = Sha256::new();
    for part in [request.properties.content_type(), request.properties.content_encoding()] {
        let part = part.as_ref().map_or("", |part| part.as_str());
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.update(request.body);
    hasher.finalize().into()
}

async fn publish(
    app: &App,
    trace: Option<&TraceContext>,
    request: &mut Request<'_>,
    waiter: Option<&Waiter>,
    now: Timestamp,
) -> Result<(), Problem> {
    let exchange = app.topology.exchange();
    let properties = std::mem::take(&mut request.properties);
    let id = || Some(request.id.clone());
    let mut span = app.telemetry.traces.start_publish(exchange, REQUEST_KEY, id, trace);
    let properties = complete(properties, request, waiter, &span, now);
    let message = Outgoing { exchange, routing_key: REQUEST_KEY, properties, body: request.body };
    publish::publish(app, message, &mut span).await
}

/// Adds to what was said about the body what the gateway knows.
fn complete(
    mut properties: BasicProperties,
    request: &Request<'_>,
    waiter: Option<&Waiter>,
    span: &Span,
    now: Timestamp,
) -> BasicProperties {
    properties = properties
        .with_message_id(request.id.as_str().into())
        .with_app_id(request.client.into())
        .with_timestamp(now.as_secs())
        .with_delivery_mode(2);
    if let Some(context) = span.context() {
        let mut headers = properties.headers().clone().unwrap_or_default();
        for (name, value) in context.headers().inner() {
            headers.insert(name.clone(), value.clone());
        }
        properties = properties.with_headers(headers);
    }
    if let Some(id) = request.correlation_id {
        properties = properties.with_correlation_id(id.into());
    }
    if let Some(waiter) = waiter {
        properties = properties.with_reply_to(waiter.reply_to.as_ref().into());
    }
    properties
}
