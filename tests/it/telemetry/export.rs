//! OpenTelemetry's own variables decide what is sent and where; and collectors that fail or hang.

use std::time::{Duration, Instant};

use kit::{Answer, Otlp, Process, Trackfinity};

use super::*;
use crate::world::{EXCHANGE, REQUEST, id, start_worker};

/// Unlocks one customer and stops the worker, which sends its last spans and metrics.
async fn unlock_and_stop(ctx: &Context, env: &[(&str, String)]) -> (Process, Call) {
    let world = world(ctx.clone(), env, |_| Answer::unlocked()).await;
    world.publish(id("1").with_headers(traced()), r#"{"customer_id":1}"#).await;
    assert_eq!(world.outcome().await["status"], "unlocked");
    world.stop().await;
    let call = world.trackfinity.calls().remove(0);
    (world.worker, call)
}

/// A name, the variables, and whether traces and metrics are sent.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool, bool);

#[test]
fn nothing_is_sent_that_is_switched_off() {
    kit::run(async |ctx| {
        let rows: [Row; 6] = [
            ("all", &[], true, true),
            ("the SDK", &[("OTEL_SDK_DISABLED", "true")], false, false),
            ("the SDK, in capitals", &[("OTEL_SDK_DISABLED", "TRUE")], false, false),
            ("no traces", &[("OTEL_TRACES_EXPORTER", "none")], false, true),
            ("no metrics", &[("OTEL_METRICS_EXPORTER", "none")], true, false),
            ("neither", &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")], false, false),
        ];
        for (row, variables, traces, metrics) in rows {
            let otlp = Otlp::start();
            let mut env = to(&otlp);
            env.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
            let (_worker, call) = unlock_and_stop(&ctx, &env).await;
            assert_eq!(otlp.count(), if traces { 3 } else { 0 }, "{row}");
            assert_eq!(!otlp.metric_names().is_empty(), metrics, "{row}");
            assert_eq!(otlp.exports() > 0, traces || metrics, "{row}");
            // Without spans the producer's context is passed on unchanged.
            assert_eq!(call.header("traceparent") == Some(TRACEPARENT), !traces, "{row}");
        }
    });
}

#[test]
fn without_an_endpoint_nothing_is_sent_anywhere() {
    kit::run(async |ctx| {
        for env in [vec![], vec![("OTEL_EXPORTER_OTLP_ENDPOINT", String::new())]] {
            let (worker, call) = unlock_and_stop(&ctx, &env).await;
            assert_eq!(call.header("traceparent"), Some(TRACEPARENT), "no span is made");
            assert_eq!(call.header("tracestate"), Some(TRACESTATE));
            // An export to the default address would fail, and be logged.
            let logged =
                worker.stderr().into_iter().filter(|line| line.to_lowercase().contains("opentelemetry"));
            assert_eq!(logged.collect::<Vec<_>>(), [] as [&str; 0]);
        }
    });
}

#[test]
fn a_signals_own_endpoint_sends_that_signal_alone() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", otlp.url()));
        unlock_and_stop(&ctx, &[traces]).await;
        assert_eq!((otlp.count(), otlp.metric_names().len()), (3, 0));
    });
}

#[test]
fn a_proxy_for_trackfinity_sees_nothing_that_is_sent_to_a_collector() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", proxy.local_addr().expect("an address"));
        let mut env = to(&otlp);
        env.push(("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2".to_owned()));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            env.push((name, url.clone()));
        }
        env.extend(["NO_PROXY", "no_proxy"].map(|name| (name, String::new())));
        unlock_and_stop(&ctx, &env).await;
        assert_eq!(otlp.count(), 3);
        assert!(!otlp.metric_names().is_empty());
        proxy.set_nonblocking(true).expect("an option");
        assert_eq!(proxy.accept().expect_err("no connection").kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn the_service_is_named_by_the_environment_or_by_default() {
    kit::run(async |ctx| {
        let rows: [(&[(&str, &str)], &str); 5] = [
            (&[], "trackfinity-unlocker"),
            (&[("OTEL_SERVICE_NAME", "")], "trackfinity-unlocker"),
            (&[("OTEL_SERVICE_NAME", "unlocks-eu")], "unlocks-eu"),
            (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=by-attribute,team=access")], "by-attribute"),
            (&[("OTEL_RESOURCE_ATTRIBUTES", "peer.service.name=other")], "trackfinity-unlocker"),
        ];
        for (variables, name) in rows {
            let otlp = Otlp::start();
            let mut env = to(&otlp);
            env.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
            unlock_and_stop(&ctx, &env).await;
            let spans = otlp.wait_spans(3, SOON).await;
            for span in spans {
                assert_eq!(span.resource.get("service.name"), Some(&name.into()), "{variables:?}");
                assert!(span.resource.contains_key("service.version"), "{:?}", span.resource);
                let team = variables.iter().any(|(_, value)| value.contains("team=access"));
                assert_eq!(span.resource.get("team"), team.then_some(&"access".into()));
            }
        }
    });
}

#[test]
fn log_levels_never_silence_spans() {
    kit::run(async |ctx| {
        for level in ["error", "off", "trackfinity_unlocker=off"] {
            let otlp = Otlp::start();
            let (listen, base) = ops();
            let mut env = to(&otlp);
            env.extend([("RUST_LOG", level.to_owned()), listen]);
            let trackfinity = Trackfinity::start(|_| Answer::unlocked());
            let program = settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), &env);
            let worker = ctx.start(&program);
            let ready =
                async || try_get(&format!("{base}/readyz")).await.is_ok_and(|(status, _)| status == 200);
            kit::eventually("ready", SOON, ready).await;
            ctx.amqp().await.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
            let spans = otlp.wait_spans(3, SOON).await;
            assert_eq!(spans.len(), 3, "{level}: {:?}", names(&spans));
            assert_eq!(worker.stderr(), [] as [&str; 0], "{level}");
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success());
        }
    });
}

#[test]
fn the_last_spans_and_metrics_are_sent_when_the_worker_stops() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url()),
            ("OTEL_BSP_SCHEDULE_DELAY", "3600000".to_owned()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "3600000".to_owned()),
        ];
        unlock_and_stop(&ctx, &env).await;
        assert_eq!(otlp.count(), 3);
        assert!(otlp.metric_names().contains(&"unlocker.requests".to_owned()), "{:?}", otlp.metric_names());
    });
}

#[test]
fn a_collector_that_fails_is_logged_now_and_then_and_blocks_nothing() {
    kit::run(async |ctx| {
        let otlp = Otlp::failing();
        let world = world(ctx, &to(&otlp), |_| Answer::unlocked()).await;
        for n in 0..300 {
            world.unlock(&n.to_string()).await;
        }
        world.outcomes.wait_count(300, SOON).await;
        kit::eventually("exports are tried", SOON, async || otlp.exports() >= 5).await;
        let stopped = Instant::now();
        world.stop().await;
        assert!(stopped.elapsed() < Duration::from_secs(6), "{:?}", stopped.elapsed());
        let mut lines = world.worker.stderr();
        lines.retain(|line| !line.contains("trackfinity_unlocker"));
        assert!(lines.len() < 10, "each different line once a minute: {lines:#?}");
        assert!(lines.iter().any(|line| line.to_lowercase().contains("export")), "{lines:#?}");
    });
}

/// The latency of a call: with 64 in flight, about 640 per second, which even a busy machine can do.
const LATENCY: Duration = Duration::from_millis(250);

/// Requests per second of one worker with a backlog, from the first outcome to the last.
async fn throughput(ctx: &Context, requests: usize, env: &[(&str, String)]) -> (f64, Process, Trackfinity) {
    let trackfinity = Trackfinity::start(|_| Answer::unlocked().after(LATENCY));
    trackfinity.record(false);
    let amqp = ctx.amqp().await;
    let waiting =
        (0..requests).map(|n| (id(&n.to_string()), format!(r#"{{"customer_id":{n}}}"#).into_bytes()));
    amqp.publish_all(EXCHANGE, REQUEST, waiting).await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    let worker = ctx.start(&settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), env));
    outcomes.wait_count(1, SOON).await;
    let first = Instant::now();
    outcomes.wait_count(requests, SOON).await;
    (requests as f64 / first.elapsed().as_secs_f64(), worker, trackfinity)
}

/// Declares the topology, for workers that are started later.
async fn declare(ctx: &Context) {
    let declaring = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
    declaring.signal(kit::Signal::TERM);
    assert!(declaring.wait_exit(SOON).await.success());
}

#[test]
fn a_hung_collector_slows_nothing() {
    const REQUESTS: usize = 800;
    const ROUNDS: usize = 3;
    kit::run_within(Duration::from_secs(180), async |ctx| {
        declare(&ctx).await;
        let otlp = Otlp::hung();
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _round in 0..ROUNDS {
            for (env, rates) in [(vec![], &mut without), (to(&otlp), &mut with)] {
                let (rate, worker, _trackfinity) = throughput(&ctx, REQUESTS, &env).await;
                rates.push(rate);
                worker.signal(kit::Signal::TERM);
                assert_eq!(worker.wait_exit(SOON).await.code(), Some(0));
            }
        }
        assert!(otlp.exports() > 0, "the collector was called");
        // The machine is shared, so the best of several rounds counts.
        let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let ratio = best(&with) / best(&without);
        eprintln!(
            "requests a second without an endpoint {without:.0?}, with a hung collector {with:.0?}: {ratio:.2}"
        );
        assert!(ratio >= 0.8, "{ratio:.2}: {with:.0?} against {without:.0?}");
    });
}

/// How long a worker needs to end after SIGTERM when its collector hangs and its last call takes longer
/// than the drain of one second.
async fn time_to_end(ctx: &Context, amqp_url: &str, before: impl AsyncFnOnce()) -> Duration {
    const REQUESTS: usize = 1_000;
    let otlp = Otlp::hung();
    let mut env = to(&otlp);
    env.extend([
        ("UNLOCKER__WORKER__DRAIN_TIMEOUT", "1s".to_owned()),
        ("UNLOCKER__BROKER__URL", amqp_url.to_owned()),
    ]);
    let (_rate, worker, trackfinity) = throughput(ctx, REQUESTS, &env).await;
    trackfinity.answer_with(|_| Answer::unlocked().after(SOON));
    let amqp = ctx.amqp().await;
    amqp.publish(EXCHANGE, REQUEST, id("last"), br#"{"customer_id":1}"#).await;
    trackfinity.wait_count(REQUESTS as u64 + 1, SOON).await;
    before().await;
    worker.signal(kit::Signal::TERM);
    let stopped = Instant::now();
    assert_eq!(worker.wait_exit(SOON).await.code(), Some(0));
    let took = stopped.elapsed();
    assert!(otlp.exports() > 0, "the collector was called");
    took
}

#[test]
fn sigterm_ends_in_time_though_the_collector_hangs() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        declare(&ctx).await;
        for _time in 0..5 {
            let took = time_to_end(&ctx, ctx.amqp_url(), async || ()).await;
            eprintln!("SIGTERM with a hung collector: ended after {took:?}");
            assert!(took < Duration::from_secs(1 + 5), "{took:?}");
            let amqp = ctx.amqp().await;
            let back = async || !amqp.drain(crate::world::REQUESTS).await.is_empty();
            kit::eventually("what was in flight is requeued", SOON, back).await;
        }
    });
}

#[test]
fn sigterm_ends_in_time_though_neither_the_collector_nor_the_broker_answers() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let (cutter, url) = ctx.cutter().await;
        let took = time_to_end(&ctx, &url, async || {
            cutter.half_open();
        })
        .await;
        eprintln!("SIGTERM with a hung collector and a silent broker: ended after {took:?}");
        assert!(took < Duration::from_secs(1 + 5), "{took:?}");
    });
}
