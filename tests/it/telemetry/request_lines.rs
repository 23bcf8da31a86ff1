//! The log answers what happened to a request, how long it took, and why nothing moved.

use std::time::Duration;

use kit::{Answer, Trackfinity};

use super::{
    logs::{json_lines, of_event},
    *,
};
use crate::world::{DEAD, EXCHANGE, REQUEST, REQUESTS, RESULTS, UNDELIVERABLE, id, start_worker};

#[test]
fn the_lines_of_a_request_say_what_happened_to_it_and_how_long_each_call_took() {
    kit::run(async |ctx| {
        let slow = |call: &Call| two_503s(call).after(Duration::from_millis(120));
        let world = world(ctx, &[], slow).await;
        world.publish(id("m-1").with_headers(traced()), r#"{"customer_id":1}"#).await;
        assert_eq!(world.outcome().await["attempts"], 3);
        world.stop().await;
        let lines = json_lines(&world.worker);
        let story: Vec<_> = lines.iter().filter(|line| line["request_id"] == "m-1").collect();
        let statuses: Vec<_> = story.iter().map(|line| line["status"].as_str().expect("a status")).collect();
        assert_eq!(statuses, ["retry", "retry", "unlocked"]);
        let mut before = 0;
        for (n, line) in story.iter().enumerate() {
            let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
            assert_eq!(number("attempts"), n as u64 + 1, "{line}");
            assert!((120..30_000).contains(&number("call_ms")), "{line}");
            assert!(number("total_ms") >= before + number("call_ms"), "{line}");
            before = number("total_ms");
            let (status, reason, tier) =
                if n < 2 { (503, Some("http_503"), true) } else { (200, None, false) };
            assert_eq!(number("http_status"), status, "{line}");
            assert_eq!((line["reason"].as_str(), line["tier"].is_string()), (reason, tier), "{line}");
            assert_eq!(line["trace_id"].as_str(), Some(TRACE_ID), "{line}");
        }
        assert!(before >= 2_000, "two retries take a second each at least: {before}");
    });
}

#[test]
fn with_failures_alone_requests_that_are_unlocked_have_no_line() {
    kit::run(async |ctx| {
        let env = [("UNLOCKER__LOG__REQUESTS", "failures".to_owned())];
        let world = world(ctx, &env, |call| match call.n {
            1 => Answer::status(503),
            2 => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        for message_id in ["m-1", "m-2", "m-3"] {
            world.publish(id(message_id), r#"{"customer_id":1}"#).await;
            kit::eventually("its call", SOON, async || {
                world.trackfinity.count() >= message_id[2..].parse().expect("a number")
            })
            .await;
        }
        world.outcomes.wait_count(3, SOON).await;
        world.stop().await;
        let lines = json_lines(&world.worker);
        let of_requests: Vec<_> = lines
            .iter()
            .filter_map(|line| Some((line["request_id"].as_str()?, line["status"].as_str()?)))
            .collect();
        assert_eq!(of_requests, [("m-1", "retry"), ("m-2", "refused")]);
    });
}

#[test]
fn each_pause_logs_its_beginning_each_probe_and_its_end_however_soon_the_next_one_comes() {
    kit::run(async |ctx| {
        let env = [
            ("UNLOCKER__PAUSE__PROBE_DELAY", "50ms".to_owned()),
            ("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "50ms".to_owned()),
        ];
        let asked = Answer::status(429).header("retry-after", "0");
        let world = world(ctx, &env, move |call| match call.n {
            1 | 2 | 4 => asked.clone(),
            _ => Answer::unlocked(),
        })
        .await;
        for message_id in ["m-1", "m-2"] {
            world.publish(id(message_id), r#"{"customer_id":1}"#).await;
            assert_eq!(world.outcome().await["status"], "unlocked");
        }
        world.stop().await;
        let lines = json_lines(&world.worker);
        let story: Vec<_> = lines
            .iter()
            .filter(|line| {
                ["pause_began", "pause_ended", "probe"].iter().any(|event| line["event"] == *event)
            })
            .collect();
        let events: Vec<_> = story.iter().map(|line| line["event"].as_str().expect("an event")).collect();
        assert_eq!(
            events,
            ["pause_began", "probe", "pause_ended", "probe", "pause_began", "pause_ended", "probe"],
            "{story:#?}"
        );
        assert_eq!(
            (&story[0]["cause"], &story[0]["level"]),
            (&"rate_limited".into(), &"WARN".into()),
            "{story:#?}"
        );
        assert_eq!((&story[1]["result"], &story[1]["request_id"]), (&"rate_limited".into(), &"m-1".into()));
        assert!(story[1]["next_probe_in_ms"].is_u64() && story[3]["next_probe_in_ms"].is_null());
        assert_eq!((&story[3]["result"], &story[3]["tried"]), (&"served".into(), &1.into()));
        assert!(story[2]["paused_for_ms"].as_u64().is_some_and(|ms| ms >= 50), "{story:#?}");
    });
}

#[test]
fn a_probe_that_waits_for_a_request_says_so() {
    kit::run(async |ctx| {
        let env = [("UNLOCKER__PAUSE__PROBE_DELAY", "1ms".to_owned())];
        let world = world(ctx, &env, |_| Answer::status(429).header("retry-after", "0")).await;
        world.publish(id("m-1"), r#"{"customer_id":1}"#).await;
        world.worker.wait_for_line(|line| line.contains(r#""event":"probe_waits""#), SOON).await;
    });
}

#[test]
fn a_request_that_was_redelivered_three_times_has_a_line_with_the_number() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|call| match call.n {
            // It never answers while the worker lives.
            1..=3 => Answer::unlocked().after(Duration::from_secs(100)),
            _ => Answer::unlocked(),
        });
        let mut worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        amqp.publish(EXCHANGE, REQUEST, id("m-1").with_headers(traced()), br#"{"customer_id":1}"#).await;
        for call in 1..=3 {
            trackfinity.wait_count(call, SOON).await;
            worker.kill9();
            worker.wait_exit(SOON).await;
            worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        }
        assert_eq!(outcomes.next(SOON).await.json()["request_id"], "m-1");
        let lines = of_event(&worker, "request_redelivered");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_eq!(
            (&lines[0]["request_id"], &lines[0]["redeliveries"], &lines[0]["trace_id"]),
            (&"m-1".into(), &3.into(), &TRACE_ID.into())
        );
        assert_eq!(amqp.ready_count(REQUESTS).await, 0);
    });
}

#[test]
fn messages_that_rabbitmq_gave_up_and_that_a_failure_leaves_unsettled_are_counted_in_the_log() {
    kit::run(async |ctx| {
        let declaring = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        let management = ctx.vhost().management();
        // So that no dead letter can be published, and the messages stay in hand.
        management.delete_binding(DEAD, DEAD, "").await;
        let env = [("UNLOCKER__BROKER__DECLARE", "false".to_owned())];
        let world = world(ctx, &env, |_| Answer::unlocked()).await;
        for n in 0..3 {
            world.amqp.publish("", UNDELIVERABLE, id(&n.to_string()), b"{}").await;
        }
        let management = world.ctx.vhost().management();
        let name = kit::eventually("the connection that settles them", SOON, async || {
            let taken = world.amqp.ready_count(UNDELIVERABLE).await == 0;
            let connections = management.connections().await;
            let named = connections.iter().find(|connection| {
                connection["client_properties"]["connection_name"]
                    .as_str()
                    .is_some_and(|name| name.contains("settles what RabbitMQ gave up"))
            });
            named
                .filter(|_| taken)
                .and_then(|connection| connection["name"].as_str())
                .map(str::to_owned)
                .ok_or("not yet")
        })
        .await;
        management.close_connection(&name).await;
        world.worker.wait_for_line(|line| line.contains("undeliverable_unfinished"), SOON).await;
        let unfinished = of_event(&world.worker, "undeliverable_unfinished").remove(0);
        assert_eq!(unfinished["unfinished"], 3, "{unfinished}");
        world.worker.wait_for_line(|line| line.contains("undeliverable_failed"), SOON).await;
    });
}
