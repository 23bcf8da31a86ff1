//! The HTTP client that sends traces and metrics to a collector.

use std::{env, thread, time::Duration};

use opentelemetry_otlp::ExporterBuildError;
use reqwest::blocking::Client;

/// A client that never goes through the proxy of `HTTPS_PROXY` or `HTTP_PROXY`: that one is for Trackfinity,
/// and would see the headers for the collector in clear text. It waits as long as the variables allow for
/// this signal.
pub(super) fn http_client(signal: &str) -> Result<Client, ExporterBuildError> {
    let names = [format!("OTEL_EXPORTER_OTLP_{signal}_TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT".to_owned()];
    let timeout = names.iter().find_map(|name| env::var(name).ok()?.parse().ok());
    let timeout =
        timeout.map_or(opentelemetry_otlp::OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis);
    let failed = |error: &str| ExporterBuildError::InternalFailure(format!("the HTTP client: {error}"));
    // A blocking client cannot be built on a thread of the runtime.
    let building = thread::Builder::new()
        .name("otlp-client".to_owned())
        .spawn(move || Client::builder().no_proxy().timeout(timeout).build());
    let built = building.map_err(|error| failed(&error.to_string()))?.join();
    built.map_err(|_panic| failed("it panicked"))?.map_err(|error| failed(&error.to_string()))
}
