//! The metrics of the gateway. No label contains an identifier.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue, StringValue,
    metrics::{Counter, Histogram},
};

use super::meters::{CALL_BUCKETS, Meters, durations, keep};

/// All metrics of the gateway. Clones share them.
#[derive(Clone, Debug)]
pub struct GatewayMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Counter<u64>,
    request_duration: Histogram<f64>,
    confirm: Histogram<f64>,
    observed: Arc<Observed>,
}

/// Values that are read when metrics are collected.
#[derive(Debug, Default)]
struct Observed {
    waiters: AtomicI64,
    connections: AtomicI64,
    ready: AtomicBool,
}

impl From<&Meters> for GatewayMetrics {
    fn from(meters: &Meters) -> Self {
        let meter = meters.meter();
        let observed = Arc::new(Observed::default());
        let gauge = |name, description, value| meters.gauge::<Observed>(&observed, name, description, value);
        gauge("unlocker.gateway.waiters", "Requests that wait for their outcome", |observed| {
            observed.waiters.load(Ordering::Relaxed)
        });
        gauge("unlocker.gateway.connections", "Open connections of clients", |observed| {
            observed.connections.load(Ordering::Relaxed)
        });
        gauge("unlocker.gateway.ready", "Whether requests can be published now", |observed| {
            observed.ready.load(Ordering::Relaxed).into()
        });
        Self(Arc::new(Inner {
            requests: meter
                .u64_counter("unlocker.gateway.requests")
                .with_description("HTTP requests that were answered, by client and HTTP status")
                .build(),
            request_duration: durations(
                &meter,
                "unlocker.gateway.request.duration",
                "From the head of an HTTP request to its answer, without the wait for an outcome",
                &CALL_BUCKETS,
            ),
            confirm: durations(
                &meter,
                "unlocker.gateway.confirm",
                "From the publish of a request to RabbitMQ's confirm",
                &CALL_BUCKETS,
            ),
            observed,
        }))
    }
}

impl GatewayMetrics {
    /// An HTTP request was answered. `client` is `None` if it is unknown; `took` is `None` if the time
    /// includes the wait for an outcome.
    pub fn answered(&self, client: Option<Arc<str>>, status: u16, took: Option<Duration>) {
        let client = client.map_or_else(|| StringValue::from(""), StringValue::from);
        let labels = [KeyValue::new("client", client), KeyValue::new("code", i64::from(status))];
        self.0.requests.add(1, &labels);
        if let Some(took) = took {
            self.0.request_duration.record(took.as_secs_f64(), &[]);
        }
    }

    /// RabbitMQ has confirmed a publish.
    pub fn confirmed(&self, took: Duration) {
        self.0.confirm.record(took.as_secs_f64(), &[]);
    }

    /// How many requests wait for their outcome.
    pub fn waiters(&self, count: usize) {
        keep(&self.0.observed.waiters, count);
    }

    /// How many connections of clients are open.
    pub fn connections(&self, count: usize) {
        keep(&self.0.observed.connections, count);
    }

    /// Whether requests can be published.
    pub fn ready(&self, ready: bool) {
        self.0.observed.ready.store(ready, Ordering::Relaxed);
    }
}
