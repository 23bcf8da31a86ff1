//! The contract's section 5: the outcome, its properties, and the copy to `reply_to`.

use std::sync::atomic::{AtomicBool, Ordering};

use kit::{AMQPValue, Answer, FieldTable, Message, Properties};
use serde_json::json;

use crate::world::{DEAD, EXCHANGE, REQUEST, REQUESTS, SOON, World, header, id, text};

fn property(value: &Option<lapin::types::ShortString>) -> Option<&str> {
    value.as_ref().map(|value| value.as_str())
}

#[test]
fn an_outcome_has_every_property_of_the_contract() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
        let properties = id("m-1").with_correlation_id("c-1".into()).with_headers(headers);
        world.publish(properties, r#"{"customer_id":191}"#).await;
        let Message { properties, routing_key, body, .. } = world.outcomes.next(SOON).await;
        assert_eq!(routing_key, "unlock.unlocked");
        assert_eq!(property(properties.message_id()), Some("m-1/0"));
        assert_eq!(property(properties.correlation_id()), Some("c-1"));
        assert_eq!(property(properties.content_type()), Some("application/json"));
        assert_eq!(property(properties.kind()), Some("trackfinity.unlock.outcome.v1"));
        assert_eq!(property(properties.app_id()), Some("trackfinity-unlocker"));
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert!(properties.timestamp().is_some());
        let headers = properties.headers().clone().expect("headers");
        let trace = headers.inner().get("traceparent").expect("a trace context");
        let AMQPValue::LongString(trace) = trace else { panic!("{trace:?} is no long string") };
        assert!(trace.to_string().starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");

        let mut outcome: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        for moment in ["first_received_at", "finished_at"] {
            let taken = text(&outcome[moment].take());
            assert_eq!((taken.len(), taken.as_bytes()[23]), (24, b'Z'), "{moment} is {taken}");
        }
        assert_eq!(
            outcome,
            json!({
                "status": "unlocked", "request_id": "m-1", "request": {"customer_id": "191"}, "attempts": 1,
                "http_status": 200, "reason": null, "detail": null, "replays": 0,
                "first_received_at": null, "finished_at": null, "requested_by": null
            })
        );
    });
}

#[test]
fn an_outcome_names_who_asked_also_after_a_retry_and_a_header_says_it_too() {
    kit::run(async |ctx| {
        let failed = AtomicBool::new(false);
        let world = World::start(ctx, move |call| match call.field("customer_id").as_deref() {
            Some("retried") if !failed.swap(true, Ordering::Relaxed) => Answer::status(503),
            _ => Answer::unlocked(),
        })
        .await;
        let url: url::Url = world.ctx.amqp_url().parse().expect("a URL");
        let user = url.username();
        for (name, properties) in [
            ("retried", id("retried").with_user_id(user.into()).with_app_id("billing".into())),
            ("by-app", id("by-app").with_app_id("billing".into())),
            ("by-nobody", id("by-nobody").with_app_id("".into())),
        ] {
            world.publish(properties, json!({"customer_id": name}).to_string()).await;
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let message = world.outcomes.next(SOON).await;
            let outcome: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
            let given = outcome["requested_by"].as_str().map(str::to_owned);
            assert_eq!(header(&message, "unlocker-requested-by"), given, "{outcome}");
            seen.push((text(&outcome["request_id"]), given));
        }
        seen.sort();
        let expected = [("by-app", Some("billing")), ("by-nobody", None), ("retried", Some(user))];
        assert_eq!(seen, expected.map(|(id, by)| (id.to_owned(), by.map(str::to_owned))));
    });
}

#[test]
fn each_status_has_its_routing_key() {
    kit::run(async |ctx| {
        let settings = [("RETRY__MAX_ATTEMPTS", "1")];
        let world = World::start_with(ctx, &settings, |call| match call.field("customer_id").as_deref() {
            Some("refused") => Answer::status(400),
            Some("abandoned") => Answer::status(503),
            _ => Answer::unlocked(),
        })
        .await;
        for status in ["unlocked", "refused", "abandoned"] {
            world.unlock(status).await;
        }
        world.publish(id("invalid"), "{}").await;
        for outcome in world.outcomes.wait_count(4, SOON).await {
            let status = text(&outcome.json()["request_id"]);
            assert_eq!(outcome.json()["status"], status);
            assert_eq!(outcome.routing_key, format!("unlock.{status}"));
        }
    });
}

#[test]
fn without_a_correlation_id_the_request_id_is_used() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.unlock("m-1").await;
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(property(outcome.properties.correlation_id()), Some("m-1"));
    });
}

#[test]
fn a_long_request_id_is_a_digest_in_the_message_id() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        for request_id in ["x".repeat(255), "y".repeat(60_000)] {
            let event = json!({"id": request_id, "data": {"customer_id": 1}}).to_string();
            let event_type = Properties::default().with_content_type("application/cloudevents+json".into());
            world.publish(event_type, event).await;
            let outcome = world.outcomes.next(SOON).await;
            assert_eq!(outcome.json()["request_id"], request_id);
            let message_id = property(outcome.properties.message_id()).expect("a message id");
            assert_eq!(message_id.len(), 66, "{message_id}");
            assert!(message_id.ends_with("/0") && message_id[..64].bytes().all(|b| b.is_ascii_hexdigit()));
        }
        world.stop().await;
    });
}

#[test]
fn a_reply_queue_that_rabbitmq_named_gets_a_copy() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        // RabbitMQ names an exclusive queue amq.gen-….
        let own = world.amqp.consume_into("amq.topic", "nothing").await;
        assert!(own.queue().starts_with("amq.gen-"), "{}", own.queue());
        world.publish(id("m-1").with_reply_to(own.queue().into()), r#"{"customer_id":1}"#).await;
        let (copy, outcome) = (own.next(SOON).await, world.outcomes.next(SOON).await);
        assert_eq!(copy.body, outcome.body);
        assert_eq!(copy.properties.message_id(), outcome.properties.message_id());
        assert_eq!(copy.properties.correlation_id(), outcome.properties.correlation_id());
        assert_eq!(copy.exchange, "");
    });
}

#[test]
fn a_reply_queue_that_is_missing_or_not_allowed_delays_nothing() {
    kit::run(async |ctx| {
        let settings = [("RESULTS__REPLY_TO_PREFIXES", "replies.,answers.")];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        world.amqp.declare_queue("replies.shop", FieldTable::default()).await;
        world.amqp.declare_queue("other", FieldTable::default()).await;
        let rows = ["amq.gen-gone", "amq.rabbitmq.reply-to.gone", "replies.shop", "other", DEAD, REQUESTS];
        for reply_to in rows {
            world.publish(id(reply_to).with_reply_to(reply_to.into()), r#"{"customer_id":1}"#).await;
            let outcome = world.outcomes.next(SOON).await.json();
            assert_eq!((&outcome["status"], &outcome["request_id"]), (&json!("unlocked"), &json!(reply_to)));
        }
        let replies = async || world.amqp.ready_count("replies.shop").await;
        kit::eventually("the reply", SOON, async || replies().await == 1).await;
        world.stop().await;
        for untouched in ["other", DEAD, REQUESTS] {
            assert_eq!(world.amqp.ready_count(untouched).await, 0, "{untouched}");
        }
        assert_eq!(world.trackfinity.count(), rows.len() as u64);
    });
}

#[test]
fn a_reply_to_that_crashes_the_brokers_connection_costs_only_a_reply() {
    kit::run(async |ctx| {
        let world =
            World::start(ctx, |_| Answer::unlocked().after(std::time::Duration::from_millis(100))).await;
        let own = world.amqp.consume_into("amq.topic", "nothing").await;
        for n in 0..60 {
            let reply_to = match n % 20 {
                10 => "amq.rabbitmq.reply-to.%%%.x",
                15 => "amq.rabbitmq.reply-to.g2dkAAFhYQ==.x",
                _ => own.queue(),
            };
            world.publish(id(&n.to_string()).with_reply_to(reply_to.into()), r#"{"customer_id":1}"#).await;
        }
        let outcomes = world.outcomes(60).await;
        assert!(outcomes.values().all(|outcome| outcome["status"] == "unlocked"));
        world.stop().await;
        assert_eq!(world.trackfinity.count(), 60, "no request was called for again");
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
        let lost = world.worker.stderr().iter().filter(|line| line.contains("not consuming")).count();
        assert_eq!(lost, 0, "the session continued");
        kit::eventually(
            "every other reply came, some of them twice because a confirm was lost",
            SOON,
            async || {
                let replies: std::collections::BTreeSet<_> =
                    own.all().iter().map(|reply| text(&reply.json()["request_id"])).collect();
                replies.len() == 54
            },
        )
        .await;
    });
}

#[test]
fn an_outcome_that_no_queue_receives_settles_the_request() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let World { ctx, trackfinity, amqp, outcomes, worker } = world;
        drop(outcomes);
        amqp.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
        trackfinity.wait_count(1, SOON).await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
        assert_eq!(amqp.ready_count(REQUESTS).await, 0);
        drop(ctx);
    });
}

#[test]
fn with_require_subscriber_an_outcome_waits_for_a_queue_that_receives_it() {
    kit::run(async |ctx| {
        let settings = [("RESULTS__REQUIRE_SUBSCRIBER", "true")];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        let World { ctx: _ctx, trackfinity, amqp, outcomes, worker } = world;
        let queue = outcomes.queue().to_owned();
        drop(outcomes);
        kit::eventually("the queue is gone", SOON, async || !amqp.queue_exists(&queue).await).await;
        amqp.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
        worker.wait_for_line(|line| line.contains("no queue receives"), SOON).await;
        let outcomes = amqp.consume_into(crate::world::RESULTS, "unlock.#").await;
        assert_eq!(outcomes.next(SOON).await.json()["status"], "unlocked");
        assert_eq!(trackfinity.count(), 1, "the request stayed unacknowledged, and was not called for again");
    });
}
