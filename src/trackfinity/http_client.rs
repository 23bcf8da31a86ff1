//! The HTTP client, built again when the authorities to trust have changed.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Certificate, redirect};
use secrecy::ExposeSecret;

use super::route::Route;
use crate::{secret::Secret, settings};

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be built: {0}")]
pub struct HttpClientError(#[from] reqwest::Error);

/// Keeps connections open and reuses them. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    settings: settings::Trackfinity,
    route: Route,
    current: Arc<Mutex<Built>>,
}

#[derive(Debug)]
struct Built {
    http: reqwest::Client,
    /// The version of the authorities that it trusts.
    version: u64,
}

impl HttpClient {
    pub(super) fn new(settings: &settings::Trackfinity, route: &Route) -> Result<Self, HttpClientError> {
        let current = Built { version: version(settings), http: build(settings, route)? };
        Ok(Self { settings: settings.clone(), route: route.clone(), current: Arc::new(Mutex::new(current)) })
    }

    /// The client for the authorities as they are now. A new one shares no connection with the last
    /// one: a server whose authority is gone is not trusted any more.
    pub(super) fn current(&self) -> reqwest::Client {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let version = version(&self.settings);
        if current.version != version {
            current.version = version;
            // Not expected to fail: the file was checked when it was read.
            match build(&self.settings, &self.route) {
                Ok(http) => current.http = http,
                Err(error) => tracing::warn!(
                    event = "authorities_unusable",
                    %error,
                    "the new content of trackfinity.ca_file cannot be used: the last authorities are still trusted"
                ),
            }
        }
        current.http.clone()
    }
}

fn version(settings: &settings::Trackfinity) -> u64 {
    settings.ca_file.as_ref().map_or(0, Secret::version)
}

fn build(settings: &settings::Trackfinity, route: &Route) -> Result<reqwest::Client, HttpClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("trackfinity-unlocker/", env!("CARGO_PKG_VERSION")))
        // Following a redirect would send the key to any host that it names.
        .redirect(redirect::Policy::none())
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(usize::MAX)
        .tcp_nodelay(true)
        .http1_only();
    builder = match route.proxy().cloned() {
        None => builder.no_proxy(),
        // Asked at each new connection, because the file of its address may have changed.
        Some(proxy) => builder.proxy(reqwest::Proxy::custom(move |_| Some(proxy.url()?.as_url().clone()))),
    };
    if let Some(authorities) = &settings.ca_file {
        let pem = authorities.current();
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem.expose_secret().as_bytes())?);
    }
    Ok(builder.build()?)
}
