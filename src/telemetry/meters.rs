//! Where metrics go: to Prometheus, which reads them at `/metrics`, and by OTLP if OpenTelemetry's own
//! variables name an endpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter, MeterProvider},
};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use prometheus::{Encoder, Registry, TextEncoder};

use super::{otlp, semconv, traces::is_exported};

/// Buckets for durations from OpenTelemetry's conventions, in seconds.
pub(super) const CALL_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Keeps a count for a gauge.
pub(super) fn keep(gauge: &AtomicI64, count: usize) {
    gauge.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
}

/// The metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("OTLP metrics: {0}")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("Prometheus metrics: {0}")]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// Collects the metrics of the process.
#[derive(Clone, Debug)]
pub struct Meters {
    provider: SdkMeterProvider,
    registry: Registry,
    sent: bool,
}

impl Meters {
    /// For Prometheus, and for OTLP if the environment names an endpoint.
    ///
    /// # Errors
    /// If OTLP cannot be set up as the environment asks.
    pub(super) fn from_environment(resource: Resource) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()?;
        let mut builder = SdkMeterProvider::builder().with_resource(resource).with_reader(prometheus);
        let sent = is_exported("METRICS");
        if sent {
            let http = otlp::http_client("METRICS")?;
            let exporter =
                opentelemetry_otlp::MetricExporter::builder().with_http().with_http_client(http).build()?;
            builder = builder.with_reader(PeriodicReader::builder(exporter).build());
        }
        Ok(Self { provider: builder.build(), registry, sent })
    }

    pub(super) fn meter(&self) -> Meter {
        self.provider.meter(semconv::SCOPE)
    }

    /// A gauge whose value is read when metrics are collected.
    pub(super) fn gauge<T: Send + Sync + 'static>(
        &self,
        observed: &Arc<T>,
        name: &'static str,
        description: &'static str,
        value: fn(&T) -> i64,
    ) {
        let observed = Arc::clone(observed);
        let meter = self.meter();
        let gauge = meter.i64_observable_gauge(name).with_description(description);
        gauge.with_callback(move |gauge| gauge.observe(value(&observed), &[])).build();
    }

    /// Whether the metrics are sent by OTLP.
    pub fn are_sent(&self) -> bool {
        self.sent
    }

    /// The content type, and all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// If a metric cannot be written, which its types rule out.
    pub fn render(&self) -> Result<(String, String), prometheus::Error> {
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        Ok((encoder.format_type().to_owned(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Sends what is not sent yet, for at most `timeout`. Blocks.
    pub(super) fn shutdown(&self, timeout: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(timeout) {
            tracing::warn!(event = "telemetry_unsent", %error, "the last metrics may not have been sent");
        }
    }
}

/// A histogram of durations, in seconds.
pub(super) fn durations(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    buckets: &[f64],
) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(buckets.to_vec()).build()
}

/// Records a duration. Without an error, which is the usual case, it does not allocate.
pub(super) fn record<const N: usize>(
    histogram: &Histogram<f64>,
    took: Duration,
    labels: [KeyValue; N],
    error_type: Option<&str>,
) {
    match error_type {
        None => histogram.record(took.as_secs_f64(), &labels),
        Some(error_type) => {
            let mut labels = Vec::from(labels);
            labels.push(KeyValue::new(semconv::ERROR_TYPE, error_type.to_owned()));
            histogram.record(took.as_secs_f64(), &labels);
        }
    }
}
