//! What people see of the worker: traces and metrics at a real collector, logs, health. Each test has
//! a worker with OpenTelemetry's own variables.

mod cost;
mod export;
mod health;
mod logs;
mod metrics;
mod propagation;
mod python;
mod request_lines;
mod scrapes;
mod traces;

pub use self::metrics::{sample, scrape};

use std::time::Duration;

use kit::{Answer, Call, Context, FieldTable, Message, Otlp, OtlpSpan, OtlpValue, Program, Trackfinity};

use crate::world::{RESULTS, SOON, World, unlocker};

/// The context a producer gives: sampled.
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACESTATE: &str = "shop=1,other=two";

const PROCESS: &str = "process trackfinity.unlock.requests";
const PATCH: &str = "PATCH /api/customer/unlock";
const PUBLISH_RESULT: &str = "publish trackfinity.unlock.results";
const PUBLISH_RETRY: &str = "publish trackfinity.unlock.retry";
const PUBLISH_DEAD: &str = "publish trackfinity.unlock.dead";

/// The variables that send everything to a collector, soon.
fn to(otlp: &Otlp) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200".to_owned()),
    ]
}

fn settings(program: Program, env: &[(&str, String)]) -> Program {
    env.iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// A world whose worker has these environment variables, by their whole names.
async fn world(
    ctx: Context,
    env: &[(&str, String)],
    answer: impl Fn(&Call) -> Answer + Send + Sync + 'static,
) -> World {
    let trackfinity = Trackfinity::start(answer);
    let worker = ctx.start(&settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), env));
    worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    World { ctx, trackfinity, amqp, outcomes, worker }
}

/// The first two calls are answered 503.
fn two_503s(call: &Call) -> Answer {
    if call.n <= 2 { Answer::status(503) } else { Answer::unlocked() }
}

fn long(text: &str) -> kit::AMQPValue {
    kit::AMQPValue::LongString(text.into())
}

fn table(entries: impl IntoIterator<Item = (&'static str, kit::AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// Headers as an instrumented producer sets them.
fn traced() -> FieldTable {
    table([("traceparent", long(TRACEPARENT)), ("tracestate", long(TRACESTATE))])
}

/// The spans of a name, in the order of their start.
fn named<'a>(spans: &'a [OtlpSpan], name: &str) -> Vec<&'a OtlpSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'a>(spans: &'a [OtlpSpan], name: &str) -> &'a OtlpSpan {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name} among {:?}", names(spans));
    found[0]
}

fn names(spans: &[OtlpSpan]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

/// Names and values of a span's attributes, types included, are these and no others.
#[track_caller]
fn assert_attributes<const N: usize>(span: &OtlpSpan, expected: [(&str, OtlpValue); N]) {
    let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(span.attributes, expected, "{}", span.name);
    assert!(span.repeated.is_empty(), "{}: {:?} stand there twice", span.name, span.repeated);
}

/// `00-TRACE-SPAN-01`
fn traceparent(span: &OtlpSpan) -> String {
    format!("00-{}-{}-01", span.trace_id, span.span_id)
}

fn traceparent_of(message: &Message) -> String {
    message.text_header("traceparent").expect("a traceparent")
}

/// The body of a `GET` with its status; a panic if there is no answer.
async fn get(url: &str) -> (u16, String) {
    try_get(url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn try_get(url: &str) -> Result<(u16, String), reqwest::Error> {
    let reply = http().get(url).send().await?;
    Ok((reply.status().as_u16(), reply.text().await?))
}

fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(10));
    client.build().expect("a client without options that fail")
}

/// A free address for `ops.listen`, and the URL that goes with it.
fn ops() -> ((&'static str, String), String) {
    let address = format!("127.0.0.1:{}", kit::free_port());
    (("UNLOCKER__OPS__LISTEN", address.clone()), format!("http://{address}"))
}
