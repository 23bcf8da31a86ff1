//! One request is one trace, from its producer to its outcome.

use kit::{Answer, Otlp, OtlpSpan, SpanKind};
use serde_json::json;

use super::*;
use crate::world::{DEAD, REQUESTS, id};

/// The producer's span, as it stands in a parent and in a link.
#[track_caller]
fn assert_below_the_producer(span: &OtlpSpan) {
    assert_eq!((span.trace_id.as_str(), span.parent.as_deref()), (TRACE_ID, Some(PARENT_ID)), "{span:#?}");
    assert_eq!(span.links, [(TRACE_ID.to_owned(), PARENT_ID.to_owned(), TRACESTATE.to_owned())]);
    assert_eq!(span.trace_state, TRACESTATE);
}

#[track_caller]
fn assert_child(child: &OtlpSpan, parent: &OtlpSpan) {
    assert_eq!(child.trace_id, parent.trace_id, "{}", child.name);
    assert_eq!(child.parent.as_deref(), Some(parent.span_id.as_str()), "{}", child.name);
    assert!(child.links.is_empty(), "{}: {:?}", child.name, child.links);
    assert!(
        parent.start_ns <= child.start_ns && child.end_ns <= parent.end_ns,
        "{} runs while {} does",
        child.name,
        parent.name
    );
}

fn result_attributes(key: &str, message_id: &str) -> [(&'static str, OtlpValue); 6] {
    [
        ("messaging.system", "rabbitmq".into()),
        ("messaging.destination.name", "trackfinity.unlock.results".into()),
        ("messaging.operation.name", "publish".into()),
        ("messaging.operation.type", "send".into()),
        ("messaging.rabbitmq.destination.routing_key", key.into()),
        ("messaging.message.id", message_id.into()),
    ]
}

#[test]
fn a_plain_unlock_is_three_spans_below_its_producers() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::unlocked()).await;
        let body = r#"{"customer_id":"191"}"#;
        world.publish(id("m-1").with_correlation_id("c-1".into()).with_headers(traced()), body).await;
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.json()["status"], "unlocked");
        let spans = otlp.wait_spans(3, SOON).await;
        let [process, patch, publish] = [PROCESS, PATCH, PUBLISH_RESULT].map(|name| one(&spans, name));

        assert_eq!(process.kind, SpanKind::Consumer);
        assert_below_the_producer(process);
        assert_attributes(
            process,
            [
                ("messaging.system", "rabbitmq".into()),
                ("messaging.destination.name", REQUESTS.into()),
                ("messaging.operation.name", "process".into()),
                ("messaging.operation.type", "process".into()),
                ("messaging.message.id", "m-1".into()),
                ("messaging.message.conversation_id", "c-1".into()),
                ("messaging.message.body.size", (body.len() as i64).into()),
                ("messaging.rabbitmq.message.delivery_tag", 1.into()),
            ],
        );

        assert_eq!(patch.kind, SpanKind::Client);
        assert_child(patch, process);
        let port = i64::from(world.trackfinity.address().port());
        assert_attributes(
            patch,
            [
                ("http.request.method", "PATCH".into()),
                ("http.response.status_code", 200.into()),
                ("server.address", "127.0.0.1".into()),
                ("server.port", port.into()),
                ("url.full", format!("{}/api/customer/unlock", world.trackfinity.url()).as_str().into()),
            ],
        );

        assert_eq!(publish.kind, SpanKind::Producer);
        assert_child(publish, process);
        assert_attributes(publish, result_attributes("unlock.unlocked", "m-1/0"));
        assert!(patch.end_ns <= publish.start_ns);
        assert!(spans.iter().all(|span| span.error.is_none()));

        let call = &world.trackfinity.calls()[0];
        assert_eq!(call.header("traceparent"), Some(traceparent(patch).as_str()));
        assert_eq!(call.header("tracestate"), Some(TRACESTATE));
        assert_eq!(traceparent_of(&outcome), traceparent(publish));
        assert_eq!(outcome.text_header("tracestate").as_deref(), Some(TRACESTATE));
        world.stop().await;
        assert_eq!(otlp.count(), 3, "{:?}", names(&otlp.spans()));
    });
}

#[test]
fn two_503s_and_a_success_are_three_process_spans_in_the_producers_trace() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), two_503s).await;
        world.publish(id("m-1").with_headers(traced()), r#"{"customer_id":1}"#).await;
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.json()["attempts"], 3);
        let spans = otlp.wait_spans(9, SOON).await;
        let (processed, calls) = (named(&spans, PROCESS), named(&spans, PATCH));
        let retries = named(&spans, PUBLISH_RETRY);
        assert_eq!((processed.len(), calls.len(), retries.len()), (3, 3, 2), "{:?}", names(&spans));
        for (n, (process, call)) in processed.iter().zip(&calls).enumerate() {
            assert_below_the_producer(process);
            assert_child(call, process);
            let resends = (n > 0).then_some(n as i64);
            assert_eq!(call.int("http.request.resend_count"), resends);
            assert_eq!(call.attributes.contains_key("http.request.resend_count"), n > 0);
            let header = world.trackfinity.calls()[n].header("traceparent").map(str::to_owned);
            assert_eq!(header, Some(traceparent(call)));
            let failed = n < 2;
            assert_eq!(call.int("http.response.status_code"), Some(if failed { 503 } else { 200 }));
            assert_eq!((call.error.is_some(), process.error.is_some()), (failed, failed));
            assert_eq!(call.text("error.type"), failed.then_some("503"));
            assert_eq!(process.text("error.type"), failed.then_some("http_503"));
        }
        for (retry, process) in retries.iter().zip(&processed) {
            assert_eq!((retry.kind, &retry.error), (SpanKind::Producer, &None));
            assert_child(retry, process);
            let tier = retry.text("messaging.rabbitmq.destination.routing_key").expect("a tier");
            assert!(["1s", "2s"].contains(&tier), "{tier}");
            assert_attributes(
                retry,
                [
                    ("messaging.system", "rabbitmq".into()),
                    ("messaging.destination.name", "trackfinity.unlock.retry".into()),
                    ("messaging.operation.name", "publish".into()),
                    ("messaging.operation.type", "send".into()),
                    ("messaging.rabbitmq.destination.routing_key", tier.into()),
                    ("messaging.message.id", "m-1".into()),
                ],
            );
        }
        let publish = one(&spans, PUBLISH_RESULT);
        assert_child(publish, processed[2]);
        assert_eq!(traceparent_of(&outcome), traceparent(publish));
        world.stop().await;
        assert_eq!(otlp.count(), 9, "{:?}", names(&otlp.spans()));
    });
}

#[test]
fn a_dead_letter_is_published_before_its_outcome_and_the_span_has_its_reason() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::json(400, r#"{"error":"no such customer"}"#)).await;
        world.publish(id("m-1").with_headers(traced()), r#"{"customer_id":1}"#).await;
        let outcome = world.outcomes.next(SOON).await;
        let spans = otlp.wait_spans(4, SOON).await;
        let [process, patch, dead, publish] =
            [PROCESS, PATCH, PUBLISH_DEAD, PUBLISH_RESULT].map(|name| one(&spans, name));
        assert_below_the_producer(process);
        assert_eq!(process.text("error.type"), Some("http_400"));
        assert_eq!(outcome.json()["reason"], "http_400");
        assert!(process.error.is_some());
        assert_child(patch, process);
        assert_eq!(
            (patch.text("error.type"), patch.int("http.response.status_code")),
            (Some("400"), Some(400))
        );
        assert!(patch.error.is_some());
        for span in [dead, publish] {
            assert_eq!((span.kind, &span.error), (SpanKind::Producer, &None), "{}", span.name);
            assert_child(span, process);
        }
        assert_attributes(
            dead,
            [
                ("messaging.system", "rabbitmq".into()),
                ("messaging.destination.name", DEAD.into()),
                ("messaging.operation.name", "publish".into()),
                ("messaging.operation.type", "send".into()),
                ("messaging.rabbitmq.destination.routing_key", "".into()),
                ("messaging.message.id", "m-1".into()),
            ],
        );
        assert_attributes(publish, result_attributes("unlock.refused", "m-1/0"));
        assert!(patch.end_ns <= dead.start_ns && dead.end_ns <= publish.start_ns, "the dead letter first");
        assert_eq!(traceparent_of(&outcome), traceparent(publish));
        let dead_letter = world.dead_letters().await.remove(0);
        assert_eq!(traceparent_of(&dead_letter), TRACEPARENT, "as the producer gave it");
        assert_eq!(dead_letter.text_header("tracestate").as_deref(), Some(TRACESTATE));
        world.stop().await;
        assert_eq!(otlp.count(), 4);
    });
}

#[test]
fn an_invalid_request_has_no_call_in_its_trace() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::unlocked()).await;
        world.publish(id("m-1").with_headers(traced()), "no JSON").await;
        assert_eq!(world.outcome().await["status"], "invalid");
        let spans = otlp.wait_spans(3, SOON).await;
        let [process, dead, publish] = [PROCESS, PUBLISH_DEAD, PUBLISH_RESULT].map(|name| one(&spans, name));
        assert_below_the_producer(process);
        assert_eq!(process.text("error.type"), Some("malformed"));
        assert_child(dead, process);
        assert_child(publish, process);
        world.stop().await;
        assert_eq!(otlp.count(), 3);
    });
}

#[test]
fn attempts_of_a_request_without_a_context_or_with_a_malformed_one_are_in_one_trace_all_the_same() {
    kit::run(async |ctx| {
        let malformed = table([("traceparent", long("00-nonsense-01")), ("tracestate", long(TRACESTATE))]);
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), two_503s).await;
        let mut arrived = 0;
        for (n, properties) in [id("m-1"), id("m-2").with_headers(malformed)].into_iter().enumerate() {
            world.trackfinity.answer_with(move |call| match call.n - 3 * n as u64 {
                1 | 2 => Answer::status(503),
                _ => Answer::unlocked(),
            });
            world.publish(properties, r#"{"customer_id":1}"#).await;
            let outcome = world.outcomes.next(SOON).await;
            assert_eq!(outcome.json()["attempts"], 3);
            arrived += 9;
            let spans = otlp.wait_spans(arrived, SOON).await;
            let spans = &spans[9 * n..];
            let processed = named(spans, PROCESS);
            assert_eq!(processed.len(), 3);
            let first = processed[0];
            assert_eq!((first.parent.as_deref(), first.links.len()), (None, 0), "a trace begins here");
            for span in spans {
                assert_eq!(span.trace_id, first.trace_id, "{}", span.name);
                assert_eq!(span.trace_state, "", "{}", span.name);
            }
            for later in &processed[1..] {
                assert_eq!(later.parent.as_ref(), Some(&first.span_id), "what the retry carries");
                let link = (first.trace_id.clone(), first.span_id.clone(), String::new());
                assert_eq!(later.links, [link]);
            }
            assert_eq!(traceparent_of(&outcome), traceparent(one(spans, PUBLISH_RESULT)));
        }
        world.stop().await;
    });
}

#[test]
fn what_is_published_by_hand_is_traced_from_the_worker_on() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::unlocked()).await;
        let publish = Program::new(env!("CARGO_BIN_EXE_unlocker")).args(["publish", "--customer-id", "191"]);
        let publish = world.ctx.start(&publish.env("UNLOCKER__BROKER__URL", world.ctx.amqp_url()));
        assert!(publish.wait_exit(SOON).await.success());
        let outcome = world.outcomes.next(SOON).await;
        let spans = otlp.wait_spans(3, SOON).await;
        assert_eq!(one(&spans, PROCESS).parent, None, "a trace begins here");
        assert_eq!(traceparent_of(&outcome), traceparent(one(&spans, PUBLISH_RESULT)));
        world.stop().await;
    });
}

#[test]
fn a_publish_that_fails_again_and_again_says_why_once() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let mut env = to(&otlp);
        env.push(("UNLOCKER__RESULTS__REQUIRE_SUBSCRIBER", "true".to_owned()));
        env.push(("UNLOCKER__RETRY__MAX_DELAY", "1s".to_owned()));
        let world = world(ctx, &env, |_| Answer::unlocked()).await;
        let crate::world::World { ctx: _ctx, trackfinity: _trackfinity, amqp, outcomes, worker } = world;
        let queue = outcomes.queue().to_owned();
        drop(outcomes);
        kit::eventually("the queue is gone", SOON, async || !amqp.queue_exists(&queue).await).await;
        amqp.publish("trackfinity.unlock", "request", id("1"), br#"{"customer_id":1}"#).await;
        kit::eventually("it is tried again and again", SOON, async || {
            let tries = otlp.metric("unlocker.publish.unroutable").unwrap_or_default();
            tries.first().is_some_and(|tries| tries.value >= 3.0)
        })
        .await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let outcome = outcomes.next(SOON).await;
        assert_eq!(outcome.json()["status"], json!("unlocked"));
        let is_published = |span: &&OtlpSpan| span.name == PUBLISH_RESULT && span.error.is_none();
        kit::eventually("the last publish", SOON, async || {
            otlp.spans().iter().any(|span| is_published(&span))
        })
        .await;
        let spans = otlp.spans();
        let failed: Vec<_> =
            spans.iter().filter(|span| span.name == PUBLISH_RESULT && span.error.is_some()).collect();
        assert!(!failed.is_empty());
        for span in failed {
            assert!(span.repeated.is_empty(), "{:?} stand there twice", span.repeated);
        }
        let published = spans.iter().find(is_published).expect("it is there");
        assert_eq!(traceparent_of(&outcome), traceparent(published));
        drop(worker);
    });
}

#[test]
fn a_ping_is_a_call_of_its_own_in_the_trace() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |call| match call.path.as_str() {
            "/api/service/ping" => Answer::json(200, "true"),
            _ => Answer::status(404),
        })
        .await;
        world.publish(id("1").with_headers(traced()), r#"{"customer_id":1}"#).await;
        assert_eq!(world.outcome().await["reason"], "http_404");
        let spans = otlp.wait_spans(5, SOON).await;
        let (process, ping) = (one(&spans, PROCESS), one(&spans, "GET /api/service/ping"));
        assert_eq!((ping.kind, &ping.error), (SpanKind::Client, &None));
        assert_child(ping, process);
        let port = i64::from(world.trackfinity.address().port());
        let url = format!("{}/api/service/ping", world.trackfinity.url());
        assert_attributes(
            ping,
            [
                ("http.request.method", "GET".into()),
                ("http.response.status_code", 200.into()),
                ("server.address", "127.0.0.1".into()),
                ("server.port", port.into()),
                ("url.full", url.as_str().into()),
            ],
        );
        assert_eq!(world.trackfinity.calls()[1].header("traceparent"), Some(traceparent(ping).as_str()));
        world.stop().await;
    });
}

#[test]
fn a_call_that_has_no_answer_has_the_kind_of_failure_as_its_error() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let mut env = to(&otlp);
        env.extend([
            ("UNLOCKER__TRACKFINITY__TIMEOUT", "300ms".to_owned()),
            ("UNLOCKER__RETRY__MAX_ATTEMPTS", "1".to_owned()),
        ]);
        let world = world(ctx, &env, |_| Answer::unlocked().after(SOON)).await;
        world.publish(id("1").with_headers(traced()), r#"{"customer_id":1}"#).await;
        assert_eq!(world.outcome().await["reason"], "timeout");
        let spans = otlp.wait_spans(4, SOON).await;
        for name in [PROCESS, PATCH] {
            let span = one(&spans, name);
            assert_eq!(span.text("error.type"), Some("timeout"), "{name}");
            assert!(span.error.is_some(), "{name}");
        }
        assert!(!one(&spans, PATCH).attributes.contains_key("http.response.status_code"));
        world.stop().await;
    });
}
