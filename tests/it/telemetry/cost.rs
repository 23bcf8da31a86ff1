//! The CPU cost of traces.

use std::time::Duration;

use kit::{Answer, Otlp, Trackfinity};

use super::*;
use crate::world::{EXCHANGE, REQUEST, id};

const WARM_UP: usize = 300;
const REQUESTS: usize = 3_000;
const ROUNDS: usize = 3;

fn requests(count: usize) -> impl Iterator<Item = (kit::Properties, Vec<u8>)> {
    (0..count).map(|n| {
        let properties = id(&n.to_string()).with_headers(traced());
        (properties, format!(r#"{{"customer_id":{n}}}"#).into_bytes())
    })
}

/// CPU time per request of a worker that is warm; with a collector, until it has every span.
async fn cost(ctx: &Context, otlp: Option<&Otlp>) -> Duration {
    let trackfinity = Trackfinity::start(|_| Answer::unlocked().after(Duration::from_millis(5)));
    trackfinity.record(false);
    // The default intervals, because most people run with them.
    let env: Vec<_> = otlp.map(|otlp| ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url())).into_iter().collect();
    let worker = ctx.start(&settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), &env));
    worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    let (mut before, mut sent, mut ended) = (Duration::ZERO, otlp.map_or(0, Otlp::count), 0);
    for count in [WARM_UP, REQUESTS] {
        before = worker.cpu_time();
        amqp.publish_all(EXCHANGE, REQUEST, requests(count)).await;
        ended += count;
        outcomes.wait_count(ended, SOON).await;
        sent += 3 * count;
        if let Some(otlp) = otlp {
            otlp.wait_spans(sent, SOON).await;
        }
    }
    let used = worker.cpu_time() - before;
    worker.signal(kit::Signal::TERM);
    assert!(worker.wait_exit(SOON).await.success());
    assert_eq!(otlp.map_or(sent, Otlp::count), sent, "three spans a request, none twice");
    used / REQUESTS as u32
}

#[test]
fn traces_of_every_request_take_at_most_half_as_much_cpu_again() {
    kit::run_alone_within(Duration::from_secs(240), async |ctx| {
        let otlp = Otlp::start();
        otlp.record(false);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _round in 0..ROUNDS {
            without.push(cost(&ctx, None).await);
            with.push(cost(&ctx, Some(&otlp)).await);
        }
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort();
            times[times.len() / 2].as_secs_f64()
        };
        let ratio = median(&with) / median(&without);
        eprintln!("CPU a request without an endpoint {without:?}, with every span sent {with:?}: {ratio:.2}");
        assert!(ratio <= 1.5, "{ratio:.2}: {with:?} against {without:?}");
    });
}
