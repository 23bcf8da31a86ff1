//! Trace contexts of all kinds that producers send, and what the worker passes on.

use kit::{AMQPValue, Answer, Otlp};

use super::*;
use crate::world::id;

/// The headers of a request, whether its trace is continued, and which state is passed on.
struct Row {
    name: &'static str,
    traceparent: AMQPValue,
    tracestate: Option<AMQPValue>,
    followed: bool,
    state: Option<&'static str>,
}

fn rows() -> Vec<Row> {
    let bytes = |text: &str| AMQPValue::ByteArray(text.as_bytes().to_vec().into());
    let good = || long(TRACEPARENT);
    let followed =
        |name, traceparent, tracestate, state| Row { name, traceparent, tracestate, followed: true, state };
    let ignored = |name, traceparent| Row {
        name,
        traceparent,
        tracestate: Some(long(TRACESTATE)),
        followed: false,
        state: None,
    };
    vec![
        followed("no state", good(), None, None),
        followed("an empty state", good(), Some(long("")), None),
        followed("a blank state", good(), Some(long("  ")), None),
        followed("a state without a value", good(), Some(long("no value")), None),
        followed("a state that is a number", good(), Some(AMQPValue::LongLongInt(7)), None),
        followed(
            "a state that is no UTF-8",
            good(),
            Some(AMQPValue::LongString(vec![0xff, 0xfe].into())),
            None,
        ),
        followed("a state with a line break", good(), Some(long("a=b\r\nx-evil: 1")), None),
        followed("a state of 5,000 bytes", good(), Some(long(&format!("a={}", "x".repeat(4_998)))), None),
        followed("byte arrays", bytes(TRACEPARENT), Some(bytes(TRACESTATE)), Some(TRACESTATE)),
        ignored("an empty parent", long("")),
        ignored("a parent that is a number", AMQPValue::LongLongInt(1)),
        ignored("a parent that is a list", AMQPValue::FieldArray(vec![good()].into())),
        ignored("a parent in capitals", long(&TRACEPARENT.to_uppercase())),
        ignored("a parent without a trace", long("00-00000000000000000000000000000000-b7ad6b7169203331-01")),
        ignored("a parent with a line break", long(&format!("{TRACEPARENT}\r\nx-evil: 1"))),
        ignored("a parent that is no UTF-8", AMQPValue::LongString(vec![0xff; 55].into())),
    ]
}

#[test]
fn headers_of_any_kind_break_nothing_and_lose_no_parent_with_a_collector() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::unlocked()).await;
        for (n, row) in rows().into_iter().enumerate() {
            let call = send(&world, &row, n).await;
            let spans = otlp.wait_spans(3 * (n + 1), SOON).await;
            let spans = &spans[3 * n..];
            let process = one(spans, PROCESS);
            let parent = row.followed.then_some(PARENT_ID);
            assert_eq!(process.parent.as_deref(), parent, "{}", row.name);
            assert_eq!(process.trace_id == TRACE_ID, row.followed, "{}", row.name);
            assert_eq!(process.links.len(), usize::from(row.followed), "{}", row.name);
            let sent = traceparent(one(spans, PATCH));
            assert_eq!(call.header("traceparent"), Some(sent.as_str()), "{}", row.name);
            assert_eq!(call.header("tracestate"), row.state, "{}", row.name);
        }
        world.stop().await;
    });
}

#[test]
fn headers_of_any_kind_break_nothing_without_a_collector() {
    kit::run(async |ctx| {
        let world = world(ctx, &[], |_| Answer::unlocked()).await;
        for (n, row) in rows().into_iter().enumerate() {
            let call = send(&world, &row, n).await;
            let expected = row.followed.then_some(TRACEPARENT);
            assert_eq!(call.header("traceparent"), expected, "{}", row.name);
            if row.state.is_some() || !row.followed {
                assert_eq!(call.header("tracestate"), row.state, "{}", row.name);
            }
        }
        world.stop().await;
    });
}

#[test]
fn without_a_collector_no_trace_is_made_up() {
    kit::run(async |ctx| {
        let world = world(ctx, &[], two_503s).await;
        world.unlock("1").await;
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.json()["status"], "unlocked");
        world.trackfinity.answer_with(|_| Answer::status(400));
        world.unlock("2").await;
        let refused = world.outcomes.next(SOON).await;
        assert_eq!(refused.json()["status"], "refused");
        let dead_letter = world.dead_letters().await.remove(0);
        for message in [&outcome, &refused, &dead_letter] {
            assert_eq!(message.header("traceparent"), None, "{message:?}");
        }
        let calls = world.trackfinity.calls();
        assert!(calls.len() >= 4, "two retries among them");
        for call in calls {
            assert_eq!(call.header("traceparent"), None);
        }
        world.stop().await;
    });
}

/// Publishes a request with a row's headers and baggage; returns the resulting call.
async fn send(world: &crate::world::World, row: &Row, n: usize) -> Call {
    let mut headers = table([("traceparent", row.traceparent.clone()), ("baggage", long("user=secret"))]);
    if let Some(state) = &row.tracestate {
        headers.insert("tracestate".into(), state.clone());
    }
    world.publish(id(&n.to_string()).with_headers(headers), r#"{"customer_id":1}"#).await;
    let outcome = world.outcomes.next(SOON).await;
    assert_eq!(outcome.json()["status"], "unlocked", "{}", row.name);
    assert_eq!(outcome.header("baggage"), None, "{}", row.name);
    let call = world.trackfinity.calls().pop().expect("a call");
    assert_eq!(call.header("baggage"), None, "{}: baggage stays at home", row.name);
    assert_eq!(call.header("x-evil"), None, "{}", row.name);
    call
}

#[test]
fn a_producer_that_does_not_sample_is_followed_without_spans() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), two_503s).await;
        let unsampled = format!("00-{TRACE_ID}-{PARENT_ID}-00");
        world
            .publish(id("1").with_headers(table([("traceparent", long(&unsampled))])), r#"{"customer_id":1}"#)
            .await;
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.json()["attempts"], 3);
        let mut contexts: Vec<_> = world
            .trackfinity
            .calls()
            .iter()
            .map(|call| call.header("traceparent").expect("a traceparent").to_owned())
            .collect();
        contexts.push(traceparent_of(&outcome));
        for context in contexts {
            assert!(context.starts_with(&format!("00-{TRACE_ID}-")) && context.ends_with("-00"), "{context}");
        }
        world.stop().await;
        assert_eq!(otlp.count(), 0, "{:?}", names(&otlp.spans()));
    });
}
