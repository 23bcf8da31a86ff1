//! What travels with a request: its trace, who asked, and nothing that a sender could forge.

use kit::{Answer, Otlp, OtlpSpan, SpanKind, Trackfinity};

use super::world::{Front, Gateway, json};
use crate::world::{REQUESTS, RESULTS, SOON, World, header, unlocker};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACESTATE: &str = "shop=1,other=two";
const BODY: &str = r#"{"customer_id":191}"#;

fn traced() -> crate::console::http::Request {
    json(BODY).header("traceparent", TRACEPARENT).header("tracestate", TRACESTATE)
}

fn one<'a>(spans: &'a [OtlpSpan], name: &str, kind: SpanKind) -> &'a OtlpSpan {
    let names: Vec<_> = spans.iter().map(|span| (&span.name, span.kind)).collect();
    let mut found = spans.iter().filter(|span| span.name == name && span.kind == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {name} in {names:?}"));
    assert!(found.next().is_none(), "more than one {name} in {names:?}");
    first
}

#[test]
fn one_trace_runs_from_the_caller_to_the_outcome() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let url = otlp.url();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ];
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let mut program = unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run");
        for (name, value) in variables {
            program = program.env(name, value);
        }
        let worker = ctx.start(&program);
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let gateway = Gateway::start(&ctx, ctx.amqp_url(), &variables).await;
        let answer = gateway.post(traced().header("prefer", "wait=20")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let spans = otlp.wait_spans(6, SOON).await;
        assert!(spans.iter().all(|span| span.trace_id == TRACE_ID), "{spans:#?}");
        let server = one(&spans, "POST /v1/unlocks", SpanKind::Server);
        let producer = one(&spans, "publish trackfinity.unlock", SpanKind::Producer);
        let consumer = one(&spans, "process trackfinity.unlock.requests", SpanKind::Consumer);
        let call = one(&spans, "PATCH /api/customer/unlock", SpanKind::Client);
        let result = one(&spans, "publish trackfinity.unlock.results", SpanKind::Producer);
        let reply = one(&spans, "publish (temporary)", SpanKind::Producer);
        let below = [server, producer, consumer, call, result, reply];
        let parents: Vec<_> = below.iter().map(|span| span.parent.as_deref()).collect();
        let [server_id, producer_id, consumer_id] =
            [server, producer, consumer].map(|span| span.span_id.as_str());
        let ids = [PARENT_ID, server_id, producer_id, consumer_id, consumer_id, consumer_id];
        assert_eq!(parents, ids.map(Some));
        assert!(
            spans.iter().all(|span| span.error.is_none() && span.trace_state == TRACESTATE),
            "{spans:#?}"
        );
        assert_eq!(server.int("http.response.status_code"), Some(200));
        assert_eq!(server.text("http.route"), Some("/v1/unlocks"));
        assert_eq!(producer.text("messaging.message.id"), answer.json()["request_id"].as_str());
        // No attribute has the body's identifier.
        assert!(!spans.iter().any(|span| format!("{:?}", span.attributes).contains("\"191\"")), "{spans:#?}");
        let outcome = outcomes.next(SOON).await;
        let parent = format!("00-{TRACE_ID}-{}-01", result.span_id);
        assert_eq!(header(&outcome, "traceparent"), Some(parent));
        let sent = async || otlp.metric("unlocker.gateway.requests").is_some();
        kit::eventually("metrics are sent", SOON, sent).await;
    });
}

#[test]
fn a_rejected_request_is_an_answer_with_its_trace_and_no_publish() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let url = otlp.url();
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
        let gateway = Gateway::begin(&ctx, ctx.amqp_url(), &variables).await;
        gateway.wait_ready(200).await;
        let wrong = json("{}").header("traceparent", TRACEPARENT);
        let answer = gateway.post(wrong).await;
        assert_eq!((answer.status, answer.json()["trace_id"].as_str()), (422, Some(TRACE_ID)));
        let refused = gateway.post(traced()).await;
        assert_eq!((refused.status, refused.json()["trace_id"].as_str()), (503, Some(TRACE_ID)));
        let spans = otlp.wait_spans(3, SOON).await;
        let statuses: Vec<_> = spans
            .iter()
            .filter(|span| span.kind == SpanKind::Server)
            .map(|span| (span.int("http.response.status_code"), span.text("error.type").map(str::to_owned)))
            .collect();
        assert_eq!(statuses, [(Some(422), None), (Some(503), Some("exchange_refused".to_owned()))]);
        let publish = one(&spans, "publish trackfinity.unlock", SpanKind::Producer);
        assert_eq!(publish.text("error.type"), Some("exchange_refused"));
    });
}

#[test]
fn without_an_endpoint_the_callers_trace_is_passed_on_unchanged() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        assert_eq!(front.gateway.post(traced().header("prefer", "wait=20")).await.status, 200);
        let call = &front.world.trackfinity.calls()[0];
        assert_eq!(
            (call.header("traceparent"), call.header("tracestate")),
            (Some(TRACEPARENT), Some(TRACESTATE))
        );
        let outcome = front.world.outcomes.next(SOON).await;
        assert_eq!(header(&outcome, "traceparent").as_deref(), Some(TRACEPARENT));
        assert_eq!(front.unlock(BODY).await.status, 202);
        let outcome = front.world.outcomes.next(SOON).await;
        assert_eq!(header(&outcome, "traceparent"), None, "a trace was invented");
    });
}

#[test]
fn metrics_count_what_clients_were_answered() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        for _ in 0..3 {
            assert_eq!(front.unlock(BODY).await.status, 202);
        }
        assert_eq!(front.gateway.post(json(BODY).header("prefer", "wait=20")).await.status, 200);
        assert_eq!(front.unlock("{}").await.status, 422);
        let metric = async |line: &str| front.gateway.metric(line).await;
        for (code, count) in [(200, 1.0), (202, 3.0), (422, 1.0)] {
            let line = format!(r#"unlocker_gateway_requests_total{{client="local",code="{code}"}}"#);
            assert_eq!(metric(&line).await, Some(count), "{line}");
        }
        assert_eq!(metric("unlocker_gateway_confirm_seconds_count").await, Some(4.0));
        // Without the one that waited.
        assert_eq!(metric("unlocker_gateway_request_duration_seconds_count").await, Some(4.0));
        assert_eq!(metric("unlocker_gateway_ready").await, Some(1.0));
        assert_eq!(metric("unlocker_gateway_waiters").await, Some(0.0));
    });
}

#[test]
fn a_sender_cannot_forge_who_asked() {
    const FORGED: [&str; 14] = [
        "unlocker-original-user-id",
        "unlocker-requested-by",
        "unlocker-attempts",
        "unlocker-status",
        "unlocker-request-id",
        "unlocker-replays",
        "unlocker-canary",
        "x-death",
        "user-id",
        "app-id",
        "message-id",
        "reply-to",
        "cookie",
        "baggage",
    ];
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let body = r#"{"customer_id":191,"requested_by":"mallory","user_id":"mallory","app_id":"mallory"}"#;
        let forged = |request| {
            FORGED.iter().fold(request, |request: crate::console::http::Request, name| {
                request.header(name, "mallory").header(&format!("ce-{name}"), "mallory")
            })
        };
        let post = forged(json(body)).header("ce-id", "e-1").header("idempotency-key", "k");
        assert_eq!(gateway.post(post).await.status, 202);
        let messages = world.amqp.drain(REQUESTS).await;
        let [message] = &messages[..] else { panic!("{} messages", messages.len()) };
        let properties = &message.properties;
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(|text| text.to_string());
        assert_eq!(text(properties.message_id()).as_deref(), Some("local/k"));
        assert_eq!(text(properties.app_id()).as_deref(), Some("local"));
        assert_eq!((text(properties.user_id()), text(properties.reply_to())), (None, None));
        assert_eq!(text(properties.expiration()), None);
        let headers = properties.headers().clone().unwrap_or_default();
        let names: Vec<_> = headers.inner().keys().map(|name| name.as_str()).collect();
        assert!(!names.iter().any(|name| FORGED.contains(name)), "{names:?}");

        let trackfinity = &world.trackfinity;
        let worker =
            crate::world::start_worker(&world.ctx, world.ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let post = forged(json(body)).header("idempotency-key", "l").header("prefer", "wait=20");
        let answer = gateway.post(post).await;
        assert_eq!((answer.status, &answer.json()["requested_by"]), (200, &"local".into()));
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(header(&outcome, "unlocker-requested-by").as_deref(), Some("local"));
        assert_eq!(answer.json()["request_id"], "local/l");
        drop(worker);
    });
}
