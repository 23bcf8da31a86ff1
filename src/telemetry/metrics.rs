//! The metrics of the worker. No label contains an identifier.

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::{
    meters::{CALL_BUCKETS, Meters, durations, record},
    semconv,
};
use crate::breaker::CauseKind;

/// Buckets for the wait in the queue, and from the first receipt to the outcome with all retries, in
/// seconds.
const REQUEST_BUCKETS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 86_400.0];

/// All metrics of the worker. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Counter<u64>,
    attempts: Counter<u64>,
    retries_scheduled: Counter<u64>,
    dead_lettered: Counter<u64>,
    unroutable: Counter<u64>,
    outcomes_postponed: Counter<u64>,
    outcomes_given_up: Counter<u64>,
    reconnects: Counter<u64>,
    process_duration: Histogram<f64>,
    call_duration: Histogram<f64>,
    request_duration: Histogram<f64>,
    queue_wait: Histogram<f64>,
    observed: Arc<Observed>,
}

/// Values that are read when metrics are collected.
#[derive(Debug, Default)]
struct Observed {
    in_flight: AtomicI64,
    concurrency_limit: AtomicI64,
    connected: AtomicI64,
    /// Why calls are paused, if they are.
    paused: Mutex<Option<CauseKind>>,
    queues: Mutex<QueueDepths>,
}

/// How many messages wait; `None` if that is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepths {
    pub requests: Option<u64>,
    pub dead: Option<u64>,
    /// In all retry queues together.
    pub retry: Option<u64>,
}

impl QueueDepths {
    /// Whether all of them are known.
    pub fn are_known(self) -> bool {
        self.requests.is_some() && self.dead.is_some() && self.retry.is_some()
    }
}

impl From<&Meters> for Metrics {
    fn from(meters: &Meters) -> Self {
        let meter = meters.meter();
        let counter = |name, description| meter.u64_counter(name).with_description(description).build();
        let observed = Arc::new(Observed::default());
        observe(&meter, &observed);
        Self(Arc::new(Inner {
            requests: counter("unlocker.requests", "Requests that ended, by status and reason"),
            attempts: counter("unlocker.attempts", "Calls to Trackfinity, by result"),
            retries_scheduled: counter("unlocker.retries_scheduled", "Retries scheduled, by the retry queue"),
            dead_lettered: counter("unlocker.dead_lettered", "Dead letters, by status"),
            unroutable: counter("unlocker.publish.unroutable", "Publishes that no queue received, by kind"),
            outcomes_postponed: counter(
                "unlocker.outcomes.postponed",
                "Outcomes that a listener's queue refused or did not confirm, to be published again",
            ),
            outcomes_given_up: counter(
                "unlocker.outcomes.given_up",
                "Outcomes that a listener's queue did not accept for retry.give_up_after",
            ),
            reconnects: counter(
                "unlocker.broker.reconnects",
                "Sessions with RabbitMQ that were opened again",
            ),
            process_duration: durations(
                &meter,
                "messaging.process.duration",
                "From the delivery of a message to its settlement",
                &CALL_BUCKETS,
            ),
            call_duration: durations(
                &meter,
                "http.client.request.duration",
                "One call to Trackfinity, to the last byte of its response",
                &CALL_BUCKETS,
            ),
            request_duration: durations(
                &meter,
                "unlocker.request.duration",
                "From the first receipt of a request to its outcome, retries included",
                &REQUEST_BUCKETS,
            ),
            queue_wait: durations(
                &meter,
                "unlocker.queue.wait",
                "From the timestamp of a request to its first receipt",
                &REQUEST_BUCKETS,
            ),
            observed,
        }))
    }
}

impl Metrics {
    /// A request ended.
    pub fn request(&self, status: &'static str, reason: Option<&str>, duration: Duration) {
        let reason = match reason {
            None => KeyValue::new("reason", ""),
            Some(reason) => KeyValue::new("reason", reason.to_owned()),
        };
        let labels = [KeyValue::new("status", status), reason];
        self.0.requests.add(1, &labels);
        self.0.request_duration.record(duration.as_secs_f64(), &labels[..1]);
    }

    /// A request was received for the first time, and says when it was queued.
    pub fn queue_wait(&self, wait: Duration) {
        self.0.queue_wait.record(wait.as_secs_f64(), &[]);
    }

    /// Trackfinity was called.
    pub fn attempt(&self, result: Cow<'static, str>) {
        self.0.attempts.add(1, &[KeyValue::new("result", result)]);
    }

    /// A request was scheduled for a retry.
    pub fn retry_scheduled(&self, tier: String) {
        self.0.retries_scheduled.add(1, &[KeyValue::new("tier", tier)]);
    }

    /// A request was dead-lettered.
    pub fn dead_lettered(&self, status: &'static str) {
        self.0.dead_lettered.add(1, &[KeyValue::new("status", status)]);
    }

    /// No queue received a publish.
    pub fn unroutable(&self, kind: &'static str) {
        self.0.unroutable.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// An outcome will be published again later.
    pub fn outcome_postponed(&self, status: &'static str, cause: &'static str) {
        let labels = [KeyValue::new("status", status), KeyValue::new("cause", cause)];
        self.0.outcomes_postponed.add(1, &labels);
    }

    /// An outcome will not be published any more.
    pub fn outcome_given_up(&self, status: &'static str) {
        self.0.outcomes_given_up.add(1, &[KeyValue::new("status", status)]);
    }

    /// A session with RabbitMQ was opened again.
    pub fn reconnected(&self) {
        self.0.reconnects.add(1, &[]);
    }

    /// A request is in flight until the result is dropped.
    #[must_use]
    pub fn taken(&self) -> InFlight {
        self.0.observed.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { observed: Arc::clone(&self.0.observed) }
    }

    /// A message was settled.
    pub fn processed(&self, queue: &Arc<str>, took: Duration, error_type: Option<&str>) {
        let labels = [
            KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::RABBITMQ),
            KeyValue::new(semconv::MESSAGING_OPERATION_NAME, "process"),
            KeyValue::new(semconv::MESSAGING_DESTINATION, Arc::clone(queue)),
        ];
        record(&self.0.process_duration, took, labels, error_type);
    }

    /// A call to Trackfinity ended.
    pub fn called(
        &self,
        method: &'static str,
        status: Option<u16>,
        error_type: Option<&str>,
        took: Duration,
    ) {
        let method = KeyValue::new(semconv::HTTP_REQUEST_METHOD, method);
        match status {
            None => record(&self.0.call_duration, took, [method], error_type),
            Some(status) => {
                let status = KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
                record(&self.0.call_duration, took, [method, status], error_type);
            }
        }
    }

    /// How many requests may be in flight now.
    pub fn concurrency_limit(&self, limit: u16) {
        self.0.observed.concurrency_limit.store(limit.into(), Ordering::Relaxed);
    }

    /// Whether both connections are up.
    pub fn connected(&self, connected: bool) {
        self.0.observed.connected.store(connected.into(), Ordering::Relaxed);
    }

    /// Why calls are paused, if they are.
    pub fn paused(&self, cause: Option<CauseKind>) {
        *lock(&self.0.observed.paused) = cause;
    }

    /// How many messages wait in the queues.
    pub fn queues(&self, depths: QueueDepths) {
        *lock(&self.0.observed.queues) = depths;
    }

    /// Requests received and not settled yet.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.0.observed.in_flight.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The values last given to [`Metrics::queues`].
    pub fn waiting(&self) -> QueueDepths {
        *lock(&self.0.observed.queues)
    }
}

/// A request in flight; ends when dropped.
#[derive(Debug)]
pub struct InFlight {
    observed: Arc<Observed>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.observed.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn observe(meter: &Meter, shared: &Arc<Observed>) {
    let gauge = |name, description| meter.i64_observable_gauge(name).with_description(description);
    let observed = Arc::clone(shared);
    gauge("unlocker.broker.connected", "Whether both connections to RabbitMQ are up")
        .with_callback(move |gauge| gauge.observe(observed.connected.load(Ordering::Relaxed), &[]))
        .build();
    let observed = Arc::clone(shared);
    gauge("unlocker.concurrency_limit", "How many requests may be in flight now")
        .with_callback(move |gauge| gauge.observe(observed.concurrency_limit.load(Ordering::Relaxed), &[]))
        .build();
    let observed = Arc::clone(shared);
    meter
        .i64_observable_up_down_counter("unlocker.in_flight")
        .with_description("Requests received and not settled yet")
        .with_callback(move |counter| counter.observe(observed.in_flight.load(Ordering::Relaxed), &[]))
        .build();
    let observed = Arc::clone(shared);
    gauge("unlocker.paused", "Whether calls to Trackfinity are paused, by cause")
        .with_callback(move |gauge| {
            let paused = *lock(&observed.paused);
            for cause in CauseKind::ALL {
                gauge.observe((paused == Some(cause)).into(), &[KeyValue::new("cause", cause.as_str())]);
            }
        })
        .build();
    let observed = Arc::clone(shared);
    gauge("unlocker.queue.messages", "Messages ready in the queues; every worker reports the same numbers")
        .with_callback(move |gauge| {
            let QueueDepths { requests, dead, retry } = *lock(&observed.queues);
            for (queue, depth) in [("requests", requests), ("dead", dead), ("retry", retry)] {
                if let Some(depth) = depth.and_then(|depth| i64::try_from(depth).ok()) {
                    gauge.observe(depth, &[KeyValue::new("queue", queue)]);
                }
            }
        })
        .build();
}

#[cfg(test)]
mod tests;
