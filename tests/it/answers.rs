//! The contract's section 6: the call, and what each answer means.

use std::time::Duration;

use kit::{Answer, Call, RawHttp};
use serde_json::json;

use crate::world::{self, EXCHANGE, REQUEST, RESULTS, SOON, World, header, id, text};

fn customer(call: &Call) -> String {
    call.field("customer_id").unwrap_or_default()
}

/// Failures end at once, and none pauses calls.
const ONE_ATTEMPT: [(&str, &str); 2] = [("RETRY__MAX_ATTEMPTS", "1"), ("PAUSE__AFTER_FAILURES", "100000")];

#[test]
fn the_call_is_a_patch_with_the_key_the_user_the_trace_and_a_form() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = kit::FieldTable::default();
        headers.insert("traceparent".into(), kit::AMQPValue::LongString(parent.into()));
        headers.insert("tracestate".into(), kit::AMQPValue::LongString("a=b".into()));
        world.publish(id("1").with_headers(headers), r#"{"customer_id":191}"#).await;
        world.outcome().await;
        let call = world.trackfinity.calls().pop().expect("a call");
        assert_eq!(call.method, "PATCH");
        assert_eq!(call.path, "/api/customer/unlock");
        assert_eq!(call.body, "customer_id=191");
        assert_eq!(call.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(call.header("api-key"), Some("the-key"));
        assert_eq!(call.header("api-username"), Some("the-user"));
        assert_eq!(call.header("tracestate"), Some("a=b"));
        let trace = call.header("traceparent").expect("a trace context");
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
        let agent = call.header("user-agent").expect("a user agent");
        assert_eq!(agent, format!("trackfinity-unlocker/{}", env!("CARGO_PKG_VERSION")));
    });
}

#[test]
fn every_final_answer_has_its_status_and_reason() {
    let rows: [(&str, Answer, &str, Option<&str>, u16); 16] = [
        ("200 true", Answer::unlocked(), "unlocked", None, 200),
        ("201 true with blanks", Answer::json(201, " true\n"), "unlocked", None, 201),
        ("200 false", Answer::json(200, "false"), "refused", Some("not_true"), 200),
        ("200 an object", Answer::json(200, r#"{"ok":true}"#), "refused", Some("not_true"), 200),
        ("400", Answer::json(400, r#"{"error":"no"}"#), "refused", Some("http_400"), 400),
        ("404", Answer::status(404), "refused", Some("http_404"), 404),
        ("409", Answer::status(409), "refused", Some("http_409"), 409),
        ("410", Answer::status(410), "refused", Some("http_410"), 410),
        ("422", Answer::status(422), "refused", Some("http_422"), 422),
        ("418", Answer::status(418), "refused", Some("http_418"), 418),
        ("200 an HTML page", Answer::status(200).body("<html>"), "abandoned", Some("unexpected_reply"), 200),
        ("200 empty", Answer::status(200), "abandoned", Some("unexpected_reply"), 200),
        ("408", Answer::status(408), "abandoned", Some("http_408"), 408),
        ("425", Answer::status(425), "abandoned", Some("http_425"), 425),
        ("500", Answer::status(500), "abandoned", Some("http_500"), 500),
        ("503", Answer::status(503), "abandoned", Some("http_503"), 503),
    ];
    kit::run(async |ctx| {
        let answers: Vec<_> =
            rows.iter().map(|(row, answer, ..)| ((*row).to_owned(), answer.clone())).collect();
        let world = World::start_with(ctx, &ONE_ATTEMPT, move |call| {
            let row = customer(call);
            let answer = answers.iter().find(|(name, _)| *name == row);
            answer.map_or(Answer::unlocked(), |(_, answer)| answer.clone())
        })
        .await;
        for (row, ..) in &rows {
            world.unlock(row).await;
        }
        let outcomes = world.outcomes(rows.len()).await;
        for (row, _, status, reason, http_status) in &rows {
            let outcome = &outcomes[*row];
            assert_eq!(outcome["status"], *status, "{row}: {outcome}");
            assert_eq!(outcome["reason"], json!(reason), "{row}: {outcome}");
            assert_eq!(outcome["http_status"], *http_status, "{row}: {outcome}");
            assert_eq!(outcome["attempts"], 1, "{row}: {outcome}");
            assert_eq!(outcome["request"], json!({"customer_id": row}), "{row}");
        }
        let dead_letters = world.dead_letters().await;
        assert_eq!(dead_letters.len(), rows.iter().filter(|row| row.2 != "unlocked").count());
        for dead_letter in dead_letters {
            let row = header(&dead_letter, "unlocker-request-id").expect("a request id");
            assert_eq!(header(&dead_letter, "unlocker-status").as_deref(), outcomes[&row]["status"].as_str());
            assert_eq!(header(&dead_letter, "unlocker-reason").as_deref(), outcomes[&row]["reason"].as_str());
        }
        world.stop().await;
    });
}

#[test]
fn an_endpoint_fault_postpones_the_request_and_burns_no_attempt() {
    const FAULTS: [u16; 11] = [401, 403, 405, 407, 501, 300, 301, 302, 304, 307, 308];
    kit::run(async |ctx| {
        let settings = [
            ("PAUSE__PROBE_DELAY", "10ms"),
            ("PAUSE__PROBE_MAX_DELAY", "50ms"),
            ("RETRY__MAX_ATTEMPTS", "1"),
        ];
        let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
        let world = World::start_with(ctx, &settings, move |call| {
            let row = customer(call);
            let first = seen.lock().expect("no panic").insert(row.clone());
            let elsewhere = "http://127.0.0.1:1/";
            match row.parse() {
                Ok(status) if first => Answer::status(status).header("location", elsewhere),
                _ => Answer::unlocked(),
            }
        })
        .await;
        for status in FAULTS {
            world.unlock(&status.to_string()).await;
        }
        for (row, outcome) in world.outcomes(FAULTS.len()).await {
            assert_eq!(outcome["status"], "unlocked", "{row}: {outcome}");
            assert_eq!(outcome["attempts"], 1, "{row}: {outcome}");
        }
        assert!(world.dead_letters().await.is_empty());
        world.stop().await;
    });
}

#[test]
fn a_404_before_the_address_is_proven_is_the_requests_fault_if_the_ping_succeeds() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match call.path.as_str() {
            "/api/service/ping" => Answer::json(200, "true"),
            _ => Answer::status(404),
        })
        .await;
        world.unlock("1").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["reason"]), (&json!("refused"), &json!("http_404")));
        let calls = world.trackfinity.calls();
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[1].method.as_str(), calls[1].path.as_str()), ("GET", "/api/service/ping"));
        assert_eq!(calls[1].header("api-key"), Some("the-key"));
    });
}

#[test]
fn a_404_where_the_ping_fails_too_is_an_endpoint_fault() {
    kit::run(async |ctx| {
        let settings = [("PAUSE__PROBE_DELAY", "20ms"), ("PAUSE__PROBE_MAX_DELAY", "20ms")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(404)).await;
        world.unlock("1").await;
        world.trackfinity.wait_count(4, SOON).await;
        world.worker.wait_for_line(|line| line.contains("Check trackfinity.base_url"), SOON).await;
        world.trackfinity.answer_with(|_| Answer::unlocked());
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("unlocked"), &json!(1)));
        assert!(world.dead_letters().await.is_empty());
    });
}

#[test]
fn a_404_after_a_true_needs_no_ping() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match customer(call).as_str() {
            "known" => Answer::unlocked(),
            _ => Answer::status(404),
        })
        .await;
        world.unlock("known").await;
        assert_eq!(world.outcome().await["status"], "unlocked");
        world.unlock("unknown").await;
        assert_eq!(world.outcome().await["reason"], "http_404");
        assert_eq!(world.trackfinity.count(), 2);
    });
}

#[test]
fn no_answer_is_transient_by_its_kind() {
    kit::run(async |ctx| {
        let settings = [("TRACKFINITY__TIMEOUT", "300ms"), ONE_ATTEMPT[0], ONE_ATTEMPT[1]];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked().after(SOON)).await;
        world.unlock("slow").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["reason"]), (&json!("abandoned"), &json!("timeout")));
        assert_eq!(outcome["http_status"], json!(null));

        let closed = kit::free_port();
        let url = format!("http://127.0.0.1:{closed}");
        let worker = world::start_worker(&world.ctx, world.ctx.amqp_url(), &url, &ONE_ATTEMPT).await;
        world.worker.signal(kit::Signal::TERM);
        world.worker.wait_exit(SOON).await;
        world.unlock("refused").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["reason"]), (&json!("abandoned"), &json!("connection")));
        drop(worker);
    });
}

#[test]
fn every_broken_answer_is_transient_by_its_kind() {
    kit::run(async |ctx| {
        let rows = [
            ("a body without end, read to 64 KiB", RawHttp::endless_body(), "unexpected_reply"),
            ("a reset before the answer", RawHttp::resets(), "connection"),
            ("a reset in mid-body", RawHttp::resets_in_mid_body(), "connection"),
            ("garbage", RawHttp::garbage(), "connection"),
            ("silence", RawHttp::never_answers(), "timeout"),
            ("byte by byte", RawHttp::byte_by_byte(Duration::from_millis(100)), "timeout"),
        ];
        let settings = [("TRACKFINITY__TIMEOUT", "500ms"), ONE_ATTEMPT[0], ONE_ATTEMPT[1]];
        let amqp = ctx.amqp().await;
        let mut outcomes = None;
        for (row, server, reason) in rows {
            let worker = world::start_worker(&ctx, ctx.amqp_url(), &server.url(), &settings).await;
            if outcomes.is_none() {
                outcomes = Some(amqp.consume_into(RESULTS, "unlock.#").await);
            }
            amqp.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
            let outcome = outcomes.as_ref().expect("an inbox").next(SOON).await.json();
            assert_eq!(outcome["status"], "abandoned", "{row}: {outcome}");
            assert_eq!(outcome["reason"], reason, "{row}: {outcome}");
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success(), "{row}");
        }
    });
}

#[test]
fn a_429_burns_no_attempt_and_pauses_calls_for_its_retry_after() {
    kit::run(async |ctx| {
        let settings = [("RETRY__MAX_ATTEMPTS", "1")];
        let world = World::start_with(ctx, &settings, |call| match call.n {
            1 => Answer::status(429).header("retry-after", "2"),
            _ => Answer::unlocked(),
        })
        .await;
        world.unlock("1").await;
        world.trackfinity.wait_count(1, SOON).await;
        world.worker.wait_for_line(|line| line.contains("rate_limited"), SOON).await;
        world.unlock("2").await;
        for (_, outcome) in world.outcomes(2).await {
            assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("unlocked"), &json!(1)));
        }
        let calls = world.trackfinity.calls();
        let waited = calls[1].at - calls[0].at;
        assert!(waited >= Duration::from_secs(2), "called again after {waited:?}");
    });
}

#[test]
fn retry_after_is_a_lower_bound_in_seconds_and_as_a_date() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| {
            let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(4));
            match (customer(call).as_str(), call.n) {
                ("seconds", n) if n <= 2 => Answer::status(503).header("retry-after", "3"),
                ("date", n) if n <= 2 => Answer::status(503).header("retry-after", &date),
                _ => Answer::unlocked(),
            }
        })
        .await;
        world.unlock("seconds").await;
        world.unlock("date").await;
        let outcomes = world.outcomes(2).await;
        assert_eq!(outcomes["seconds"]["attempts"], 2);
        assert_eq!(outcomes["date"]["attempts"], 2);
        let calls = world.trackfinity.calls();
        for name in ["seconds", "date"] {
            let at: Vec<_> = calls.iter().filter(|call| customer(call) == name).map(|call| call.at).collect();
            let waited = at[1] - at[0];
            assert!(waited >= Duration::from_secs(3), "{name}: called again after {waited:?}");
        }
        assert_eq!(text(&outcomes["date"]["status"]), "unlocked");
    });
}
