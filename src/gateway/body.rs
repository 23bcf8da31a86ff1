//! Reads a body, counted while it comes.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::request_headers::content_length;
use crate::http::{Problem, Slot};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads a body of at most `limit` bytes. Meanwhile its connection may be closed for another one, because
/// it waits for its client.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    limit: usize,
    slot: &Slot,
) -> Result<Bytes, Problem> {
    if content_length(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let waits = slot.waits_for_client();
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    drop(waits);
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", "The body ended before its end."))
        }
        Err(_elapsed) => Err(too_slow()),
    }
}

pub(super) fn too_slow() -> Problem {
    let detail = format!("The body did not arrive within {} s.", BODY_TIMEOUT.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail)
}

pub(super) fn too_large(limit: usize) -> Problem {
    let detail = format!("The body has more than {} KiB.", limit / 1024);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
}
