//! One JSON object per line, which names the trace of a request and nothing from its body.

use kit::{Answer, Otlp};
use serde_json::Value;

use super::*;
use crate::world::id;

/// What a log line at info and above must never contain.
const PRIVATE: [&str; 5] = ["customer-4711", "subscription-4712", "order-4713", "body-4714", "answer-4715"];

fn private_body() -> String {
    let [customer, subscription, order, body, _] = PRIVATE;
    format!(
        r#"{{"customer_id":"{customer}","subscription_id":"{subscription}","orderid":"{order}","note":"{body}"}}"#
    )
}

fn json_lines(world: &crate::world::World) -> Vec<Value> {
    let lines = world.worker.stderr();
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_finished_request_is_logged_with_its_place_in_the_trace_and_without_what_it_asks_for() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let mut env = to(&otlp);
        env.extend([
            ("UNLOCKER__RETRY__MAX_ATTEMPTS", "1".to_owned()),
            ("UNLOCKER__PAUSE__PROBE_DELAY", "100ms".to_owned()),
        ]);
        let world = world(ctx, &env, |call| match call.n {
            1 => Answer::json(400, r#"{"error":"answer-4715"}"#),
            2 => Answer::json(503, r#"{"error":"answer-4715"}"#),
            3 => Answer::json(401, r#"{"error":"answer-4715"}"#),
            4 => Answer::json(200, r#"{"error":"answer-4715"}"#),
            _ => Answer::unlocked(),
        })
        .await;
        let rows = [
            ("refused", "m-refused", private_body()),
            ("abandoned", "m-abandoned", private_body()),
            // 401 first, then, as a probe, an answer that is not true.
            ("refused", "m-paused", private_body()),
            ("invalid", "m-invalid", private_body().replace("\"note\"", "body-4714")),
            ("unlocked", "m-unlocked", private_body()),
        ];
        for (status, message_id, body) in &rows {
            let properties = id(message_id).with_reply_to("body-4714".into()).with_headers(traced());
            world.publish(properties, body).await;
            let outcome = world.outcome().await;
            assert_eq!(outcome["status"], *status, "{outcome}");
        }
        world.stop().await;

        let spans = otlp.spans();
        let lines = json_lines(&world);
        for line in &lines {
            for field in ["timestamp", "level", "message"] {
                assert!(line[field].is_string(), "{field} in {line}");
            }
            let text = line.to_string();
            for private in PRIVATE {
                assert!(!text.contains(private), "{private} in {text}");
            }
        }
        for (status, message_id, _) in rows {
            let finished: Vec<_> = lines
                .iter()
                .filter(|line| line["message"] == "finished" && line["request_id"] == message_id)
                .collect();
            if status == "unlocked" {
                assert!(finished.is_empty(), "a success is logged only at debug");
                continue;
            }
            assert_eq!(finished.len(), 1, "{message_id}");
            let line = finished[0];
            assert_eq!(
                (line["level"].as_str(), line["status"].as_str(), line["trace_id"].as_str()),
                (Some("INFO"), Some(status), Some(TRACE_ID)),
                "{line}"
            );
            let processed = named(&spans, PROCESS);
            let process =
                processed.iter().rfind(|span| span.text("messaging.message.id") == Some(message_id));
            assert_eq!(line["span_id"].as_str(), process.map(|span| span.span_id.as_str()), "{line}");
        }
    });
}

#[test]
fn log_lines_of_a_request_name_its_trace() {
    kit::run(async |ctx| {
        let world = world(ctx, &[("RUST_LOG", "debug".to_owned())], two_503s).await;
        world.publish(id("m-1").with_reply_to("ignored".into()).with_headers(traced()), private_body()).await;
        assert_eq!(world.outcome().await["attempts"], 3);
        world.stop().await;
        let lines = json_lines(&world);
        let of_it: Vec<_> = lines.iter().filter(|line| line["request_id"] == "m-1").collect();
        let said = |message: &str| of_it.iter().filter(|line| line["message"] == message).count();
        assert_eq!((said("scheduled for a retry"), said("finished")), (2, 1), "{of_it:#?}");
        for line in &of_it {
            assert_eq!(line["trace_id"].as_str(), Some(TRACE_ID), "{line}");
            assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
        }
        let ours = lines.iter().filter(|line| {
            line["target"].as_str().is_some_and(|target| target.starts_with("trackfinity_unlocker"))
        });
        for line in ours {
            let text = line.to_string();
            assert!(PRIVATE.iter().all(|private| !text.contains(private)), "{text}");
        }
    });
}
