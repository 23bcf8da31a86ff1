//! Logs, traces and metrics. Traces and OTLP metrics are configured by OpenTelemetry's own variables
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, …). Without an endpoint none are sent.

mod console_metrics;
pub mod context;
mod gateway_metrics;
mod log_throttle;
pub mod logs;
mod meters;
pub mod metrics;
mod otlp;
pub mod semconv;
pub mod traces;

use std::{env, time::Duration};

use opentelemetry_sdk::Resource;

pub use self::{
    console_metrics::ConsoleMetrics,
    context::TraceContext,
    gateway_metrics::GatewayMetrics,
    log_throttle::LogThrottle,
    meters::{Meters, MetricsError},
    metrics::{Metrics, QueueDepths},
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

/// Traces and metrics of a process, the worker's unless it says otherwise; clones share them.
#[derive(Clone, Debug)]
pub struct Telemetry<M = Metrics> {
    pub traces: Traces,
    pub metrics: M,
    pub meters: Meters,
}

/// Traces and metrics of the gateway.
pub type GatewayTelemetry = Telemetry<GatewayMetrics>;

/// Traces and metrics of the console.
pub type ConsoleTelemetry = Telemetry<ConsoleMetrics>;

impl<M: for<'a> From<&'a Meters>> Telemetry<M> {
    /// Sets up what the environment asks for.
    ///
    /// # Errors
    /// If an endpoint, or anything else OpenTelemetry reads from the environment, can't be used.
    pub fn from_environment() -> Result<Self, TelemetryError> {
        let traces = Traces::from_environment(resource())?;
        let meters = Meters::from_environment(resource())?;
        Ok(Self { traces, metrics: M::from(&meters), meters })
    }
}

impl<M> Telemetry<M> {
    /// Sends what is not sent yet. Both signals together take at most `timeout`.
    pub async fn shutdown(self, timeout: Duration) {
        let Self { traces, meters, .. } = self;
        // The exporters block, each on a thread of its own.
        let traces = tokio::task::spawn_blocking(move || traces.shutdown(timeout));
        let meters = tokio::task::spawn_blocking(move || meters.shutdown(timeout));
        let both = async { tokio::join!(traces, meters) };
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
