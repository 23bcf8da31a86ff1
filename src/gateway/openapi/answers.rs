//! The answers of each operation. Their examples are made by the code that answers.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    gateway::{
        answers::{self, ACCEPTED_TYPES},
        body,
        clients::Denied,
        history, poll, publish, request_headers as head,
    },
    http::Problem,
    message::request::MAX_BODY_BYTES,
};

/// The answers to `POST /v1/unlocks`.
pub(super) fn of_post() -> serde_json::Result<Value> {
    let mut all = Map::new();
    all.insert("200".to_owned(), finished());
    all.insert("202".to_owned(), accepted());
    let wait = "too many wrong credentials (`too_many_attempts`), or more requests than the client's rate \
                (`rate_limited`)";
    problems(
        &mut all,
        [
            (
                "the body is no request (`malformed`), a header cannot be used (`bad_header`), or the body ended early \
                 (`incomplete_body`)",
                head::bad_header("Idempotency-Key", "is empty"),
            ),
            (STRANGER, answers::denied(Denied::Unauthorized)),
            (BROWSER, answers::denied(Denied::Browser)),
            (METHOD, answers::not_allowed("POST")),
            ("the body did not arrive within 20 s (`slow_body`)", body::too_slow()),
            (
                "the body has more than 64 KiB, the batch more than 1 MiB or 1000 lines (`too_large`)",
                body::too_large(MAX_BODY_BYTES),
            ),
            (
                "the content type or content encoding is none of these (`unsupported_content_type`)",
                answers::unsupported_batch_encoding(),
            ),
            (
                "no identifier (`no_identifier`), or one that cannot be right (`bad_identifier`); or the key came with \
                 another body in the last 10 minutes (`key_reused`)",
                answers::key_reused(),
            ),
            (wait, answers::over_rate(Duration::from_secs(1))),
            (
                "the attributes of the CloudEvent in the head are too large (`headers_too_large`)",
                publish::large_headers(),
            ),
            (
                "RabbitMQ does not take the request now: `broker_unreachable`, `broker_blocked`, `queue_full`, \
                 `unroutable`, `exchange_refused`; or the gateway does not: `busy`, `stopping`. It is not taken. Send it \
                 again",
                publish::unreachable(),
            ),
            (
                "RabbitMQ has not confirmed the request: `no_confirm`, `connection_lost`, `broker_blocked`; or a batch took longer than 60 s. Whether it is \
                 taken is unknown. Send it again with the same key",
                publish::unconfirmed(),
            ),
        ],
    )?;
    Ok(Value::Object(all))
}

/// The answers to `GET /v1/unlocks/{id}`.
pub(super) fn of_outcome() -> serde_json::Result<Value> {
    let mut all = Map::new();
    let pending =
        json!({"type": "object", "properties": {"status": {"const": "pending"}}, "required": ["status"]});
    let schema = json!({"anyOf": [{"$ref": "#/components/schemas/UnlockOutcome"}, pending]});
    let examples = json!({"pending": {"summary": "There is no outcome yet", "value": {"status": "pending"}}});
    let found = json!({
        "description": "the outcome, as it was published; or that there is none yet",
        "content": {"application/json": {"schema": schema, "examples": examples}},
    });
    all.insert("200".to_owned(), found);
    problems(
        &mut all,
        [
            ("`since` is not a time (`bad_parameter`)", poll::bad_parameter()),
            (STRANGER, answers::denied(Denied::Unauthorized)),
            (BROWSER, answers::denied(Denied::Browser)),
            (
                "outcomes are not kept (`history_off`), or the id is another client's or not text (`not_found`)",
                answers::history_off(),
            ),
            (METHOD, answers::not_allowed("GET, HEAD")),
            (
                "too many wrong credentials (`too_many_attempts`)",
                answers::denied(Denied::TooManyFailures(Duration::from_secs(1))),
            ),
            (
                "the history cannot be read now (`history_unavailable`), or too many searches run (`busy`)",
                history::unavailable(),
            ),
        ],
    )?;
    Ok(Value::Object(all))
}

/// The answers to `GET /openapi.json`.
pub(super) fn of_description() -> serde_json::Result<Value> {
    let mut all = Map::new();
    let content = json!({"application/json": {"schema": {"type": "object"}}});
    all.insert("200".to_owned(), json!({"description": "this document", "content": content}));
    problems(&mut all, [(METHOD, answers::not_allowed("GET, HEAD"))])?;
    Ok(Value::Object(all))
}

const STRANGER: &str = "no credentials, or wrong ones: one text for every cause (`unauthorized`)";
const BROWSER: &str = "a browser sends this for a page, and the gateway has no clients (`browser_refused`)";
const METHOD: &str = "another method; `Allow` names those that are allowed (`method_not_allowed`)";

fn finished() -> Value {
    let outcome = json!({"$ref": "#/components/schemas/UnlockOutcome"});
    let example = json!({
        "status": "unlocked",
        "request_id": "shop/8e03978e-40d5",
        "request": {"customer_id": "191"},
        "attempts": 1,
        "http_status": 200,
        "reason": null,
        "detail": null,
        "replays": 0,
        "first_received_at": "2026-11-23T09:00:00.000Z",
        "finished_at": "2026-11-23T09:00:00.120Z",
        "requested_by": "shop",
    });
    let lines = json!({
        "type": "string",
        "description": "For a batch: a `BatchResult` for each request, in their order, each in a line of its own.",
    });
    let result = "{\"line\":1,\"status\":\"accepted\",\"id\":\"shop/8e03978e-40d5/1\",\
                  \"location\":\"/v1/unlocks/shop%2F8e03978e-40d5%2F1?since=2026-11-23T09:00:00.000Z\"}\n";
    json!({
        "description": "the outcome, which came while `Prefer: wait` lasted; or the results of a batch",
        "headers": {
            "Preference-Applied": header("How long was waited for at most; not for a batch.", "string", "wait=10", false),
        },
        "content": {
            "application/json": {"schema": outcome, "examples": {"unlocked": {"summary": "Unlocked", "value": example}}},
            "application/x-ndjson": {
                "schema": lines,
                "examples": {"accepted": {"summary": "One request, accepted", "value": result}},
            },
        },
    })
}

fn accepted() -> Value {
    let location = "Where the outcome can be asked for.";
    let example = "/v1/unlocks/shop%2F8e03978e-40d5?since=2026-11-23T09:00:00.000Z";
    json!({
        "description": "RabbitMQ has stored the request, and a worker will process it",
        "headers": {"Location": header(location, "string", example, true)},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}},
    })
}

fn header(description: &str, kind: &str, example: impl Into<Value>, required: bool) -> Value {
    let example = example.into();
    json!({"description": description, "required": required, "schema": {"type": kind}, "example": example})
}

/// Adds an answer for each problem, under its status.
fn problems<'a>(
    answers: &mut Map<String, Value>,
    problems: impl IntoIterator<Item = (&'a str, Problem)>,
) -> serde_json::Result<()> {
    for (description, problem) in problems {
        let example = serde_json::to_value(problem.body())?;
        let mut answer = json!({
            "description": description,
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": example,
                },
            },
        });
        let headers = headers(problem.status());
        if let (Some(answer), false) = (answer.as_object_mut(), headers.is_empty()) {
            answer.insert("headers".to_owned(), Value::Object(headers));
        }
        answers.insert(problem.status().as_str().to_owned(), answer);
    }
    Ok(())
}

/// The headers that come with each problem of a status.
fn headers(status: StatusCode) -> Map<String, Value> {
    let (name, header) = match status {
        StatusCode::UNAUTHORIZED => {
            ("WWW-Authenticate", header("The scheme of tokens.", "string", "Bearer", true))
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            ("Allow", header("The methods that are allowed.", "string", "POST", true))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ("Accept-Post", header("What a request may be.", "string", ACCEPTED_TYPES, true))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            ("Retry-After", header("When to send the request again, in seconds.", "integer", 5, true))
        }
        _ => return Map::new(),
    };
    Map::from_iter([(name.to_owned(), header)])
}
