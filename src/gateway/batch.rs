//! A batch: one request a line, as JSON (`application/x-ndjson`). The answer has one result a line, in
//! order.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use lapin::BasicProperties;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use utoipa::openapi::Ref;

use super::{answers, app::App, common::Common, request_headers::NDJSON, take::take, taken::Taken};
use crate::{
    http::{Problem, Taken as TakenAnyway},
    telemetry::TraceContext,
};

/// The largest body, in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
const MAX_LINES: usize = 1000;
/// How many requests of a batch are published at once.
const AT_ONCE: usize = 64;

/// How long a batch may wait until others are taken. Its body is not read meanwhile.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long lines of a batch may begin to be published: the whole request has 60 s.
const BEGIN_WITHIN: Duration = Duration::from_secs(25);

/// What came of one line.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = BatchResult)]
pub(super) struct LineResult<'a> {
    /// Its number in the body, from 1.
    #[schema(minimum = 1)]
    line: usize,
    /// `accepted`, `finished` (then there is an `outcome`), or `rejected` (then there is a `problem`).
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = outcome_schema)]
    outcome: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a crate::http::ProblemBody>,
    /// When to try again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

fn outcome_schema() -> Ref {
    Ref::from_schema_name("UnlockOutcome")
}

/// Too many batches are in work.
fn busy() -> Problem {
    not_begun("Too many batches are in work. Send this one again.")
}

fn not_begun(detail: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        .with_taken(TakenAnyway::No)
        .with_retry_after(Duration::from_secs(1))
}

/// A place for a batch, until its lines are taken. Waits a short time for one: ten batches at once are no
/// fault of their senders.
pub(super) async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(PLACE_TIMEOUT, places.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

/// Takes every line, whatever comes of the others. Blank lines are left out. `permit`: to hold the body.
pub(super) async fn take_all(
    app: &App,
    trace: Option<&TraceContext>,
    common: &Common,
    body: Bytes,
    permit: SemaphorePermit<'_>,
) -> Result<Response, Problem> {
    let lines: Vec<(usize, &[u8])> = (1..)
        .zip(body.split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .take(MAX_LINES + 1)
        .collect();
    if lines.len() > MAX_LINES {
        let detail = format!("The batch has more than {MAX_LINES} lines.");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail));
    }
    if lines.is_empty() {
        let detail = "The batch has no line: send one JSON object a line.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "malformed", detail));
    }
    // At once, so that a batch is taken as a whole or not at all, whatever the rate.
    let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    common.client.allow(count).map_err(answers::over_rate)?;
    let last_begin = Instant::now() + BEGIN_WITHIN;
    let numbers: Vec<usize> = lines.iter().map(|(number, _)| *number).collect();
    let futures: Vec<_> = lines
        .into_iter()
        .map(|(number, line)| take_line(app, trace, common, last_begin, number, line))
        .collect();
    let taken: Vec<Result<Taken, Problem>> = stream::iter(futures).buffered(AT_ONCE).collect().await;
    // Those that wait for outcomes keep no other batch out.
    drop((body, permit));
    let mut answer = Vec::with_capacity(128 * taken.len());
    for (line, taken) in numbers.into_iter().zip(taken) {
        let written = match taken {
            Ok(mut taken) => {
                common.finish(app, &mut taken).await;
                write(&mut answer, &line_result(line, &taken))
            }
            Err(problem) => write(
                &mut answer,
                &LineResult {
                    line,
                    status: "rejected",
                    problem: Some(problem.body()),
                    retry_after: problem.retry_after_s(),
                    ..LineResult::default()
                },
            ),
        };
        written.map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
                .with_taken(TakenAnyway::Unknown)
        })?;
    }
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static(NDJSON))];
    Ok((StatusCode::OK, content_type, answer).into_response())
}

async fn take_line(
    app: &App,
    trace: Option<&TraceContext>,
    common: &Common,
    last_begin: Instant,
    number: usize,
    line: &[u8],
) -> Result<Taken, Problem> {
    if Instant::now() > last_begin {
        return Err(not_begun("RabbitMQ was too slow for the whole batch. Send this line again."));
    }
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let request = common.request(Some(number), properties, line.trim_ascii())?;
    Box::pin(take(app, trace, request)).await
}

fn line_result(line: usize, taken: &Taken) -> LineResult<'_> {
    let outcome = taken.outcome.as_deref().and_then(|outcome| serde_json::from_slice(outcome).ok());
    LineResult {
        line,
        status: if outcome.is_some() { "finished" } else { "accepted" },
        id: Some(&taken.id),
        location: Some(answers::location(taken)),
        outcome,
        ..LineResult::default()
    }
}

fn write(answer: &mut Vec<u8>, result: &LineResult<'_>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *answer, result)?;
    answer.push(b'\n');
    Ok(())
}
