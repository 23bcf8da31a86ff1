//! Logs, traces and metrics. Traces and OTLP metrics are configured by OpenTelemetry's own variables
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, …). Without an endpoint none are sent.

pub mod context;
mod log_throttle;
pub mod logs;
pub mod metrics;
pub mod semconv;
pub mod traces;

use std::{env, time::Duration};

use opentelemetry_sdk::Resource;

pub use self::{
    context::TraceContext,
    log_throttle::LogThrottle,
    metrics::{Metrics, MetricsError, QueueDepths},
    traces::{Parent, Span, Traces},
};

/// Telemetry could not be set up as the environment asks.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("OTLP traces: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Traces and metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Telemetry {
    pub traces: Traces,
    pub metrics: Metrics,
}

impl Telemetry {
    /// Sets up what the environment asks for.
    ///
    /// # Errors
    /// If an endpoint, or anything else OpenTelemetry reads from the environment, can't be used.
    pub fn from_environment() -> Result<Self, TelemetryError> {
        Ok(Self {
            traces: Traces::from_environment(resource())?,
            metrics: Metrics::from_environment(resource())?,
        })
    }

    /// Sends what is not sent yet. Both signals together take at most `timeout`.
    pub async fn shutdown(self, timeout: Duration) {
        let Self { traces, metrics } = self;
        // The exporters block, each on a thread of its own.
        let traces = tokio::task::spawn_blocking(move || traces.shutdown(timeout));
        let metrics = tokio::task::spawn_blocking(move || metrics.shutdown(timeout));
        let both = async { tokio::join!(traces, metrics) };
        if tokio::time::timeout(timeout, both).await.is_err() {
            tracing::warn!(
                event = "telemetry_unsent",
                "the last spans and metrics could not be sent in time"
            );
        }
    }
}

fn resource() -> Resource {
    let named = env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| {
            attributes.split(',').any(|attribute| attribute.trim_start().starts_with("service.name="))
        });
    let builder = Resource::builder()
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if named { builder.build() } else { builder.with_service_name(semconv::SCOPE).build() }
}
