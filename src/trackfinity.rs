//! The client of Trackfinity's API: one call gives one reply. It decides nothing and never retries.

#[cfg(test)]
mod tests;

use std::{error::Error as _, sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    message::UnlockRequest,
    policy::{HttpResponse, MAX_RESPONSE_BYTES, Reply, RetryAfter},
    secret::Secret,
    settings,
    telemetry::{LogThrottle, TraceContext, semconv},
};

const API_KEY: HeaderName = HeaderName::from_static("api-key");
const API_USERNAME: HeaderName = HeaderName::from_static("api-username");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long reading a secret's file may take.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// The endpoints that are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unlock,
    Ping,
}

impl Endpoint {
    /// The path behind the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Unlock => "api/customer/unlock",
            Self::Ping => "api/service/ping",
        }
    }

    pub fn method(self) -> &'static str {
        match self {
            Self::Unlock => "PATCH",
            Self::Ping => "GET",
        }
    }

    /// The name of a call's span.
    pub fn span_name(self) -> &'static str {
        match self {
            Self::Unlock => "PATCH /api/customer/unlock",
            Self::Ping => "GET /api/service/ping",
        }
    }
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be built: {0}")]
pub struct BuildError(#[from] reqwest::Error);

/// Identifies the credentials in use; changes when they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialsVersion {
    api_key: u64,
    api_username: u64,
}

/// A client for one Trackfinity install. Keeps connections open and reuses them.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    unlock_url: url::Url,
    ping_url: url::Url,
    api_key: Secret,
    api_username: Secret,
    timeout: Duration,
    throttle: Arc<LogThrottle>,
}

impl Client {
    /// Builds the client; does not connect yet.
    ///
    /// # Errors
    /// If TLS cannot be set up because there is no root certificate.
    pub fn new(settings: &settings::Trackfinity) -> Result<Self, BuildError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("trackfinity-unlocker/", env!("CARGO_PKG_VERSION")))
            // Following a redirect would send the key to any host that it names.
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(usize::MAX)
            .tcp_nodelay(true)
            .http1_only();
        if settings.base_url.as_url().scheme() == "http" {
            // A proxy would see the key in clear text.
            builder = builder.no_proxy();
        }
        Ok(Self {
            http: builder.build()?,
            unlock_url: settings.base_url.endpoint(Endpoint::Unlock.path()),
            ping_url: settings.base_url.endpoint(Endpoint::Ping.path()),
            api_key: settings.api_key.clone(),
            api_username: settings.api_username.clone(),
            timeout: settings.timeout,
            throttle: Arc::default(),
        })
    }

    /// `PATCH /api/customer/unlock`, once.
    pub async fn unlock(&self, request: &UnlockRequest, trace: Option<&TraceContext>) -> Reply {
        let call = self
            .http
            .patch(self.unlock_url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(request.to_form());
        self.send(call, trace).await
    }

    /// `GET /api/service/ping`, once: shows whether Trackfinity is at this address.
    pub async fn ping(&self, trace: Option<&TraceContext>) -> Reply {
        self.send(self.http.get(self.ping_url.clone()), trace).await
    }

    /// The attributes of a call's span.
    pub fn attributes(&self, endpoint: Endpoint) -> Vec<KeyValue> {
        let url = match endpoint {
            Endpoint::Unlock => &self.unlock_url,
            Endpoint::Ping => &self.ping_url,
        };
        let port = i64::from(url.port_or_known_default().unwrap_or_default());
        vec![
            KeyValue::new(semconv::HTTP_REQUEST_METHOD, endpoint.method()),
            KeyValue::new(semconv::SERVER_ADDRESS, url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new(semconv::SERVER_PORT, port),
            KeyValue::new(semconv::URL_FULL, url.as_str().to_owned()),
        ]
    }

    /// Reads the key and the user name again if they come from files. Waits at most
    /// `REFRESH_TIMEOUT`, in case the disk hangs.
    pub async fn refresh_secrets(&self) {
        let refresh = async {
            self.api_key.refresh().await;
            self.api_username.refresh().await;
        };
        if tokio::time::timeout(REFRESH_TIMEOUT, refresh).await.is_err()
            && let Some(left_out) = self.throttle.due("secret_file_slow")
        {
            tracing::warn!(
                event = "secret_file_slow",
                left_out,
                "reading the files of trackfinity.api_key and api_username takes too long: keeping the last \
                 values. Check their volume"
            );
        }
    }

    /// The API key as it is now.
    pub(crate) fn api_key(&self) -> std::sync::Arc<SecretString> {
        self.api_key.current()
    }

    /// Changes whenever the key or the user name changes.
    pub fn credentials_version(&self) -> CredentialsVersion {
        CredentialsVersion { api_key: self.api_key.version(), api_username: self.api_username.version() }
    }

    /// Waits until the key or the user name differs from those of `since`.
    pub async fn credentials_changed(&self, since: CredentialsVersion) -> CredentialsVersion {
        tokio::select! {
            _version = self.api_key.changed_since(since.api_key) => {}
            _version = self.api_username.changed_since(since.api_username) => {}
        }
        self.credentials_version()
    }

    async fn send(&self, call: reqwest::RequestBuilder, trace: Option<&TraceContext>) -> Reply {
        let headers = match self.headers(trace) {
            Ok(headers) => headers,
            Err(error) => return Reply::Connection(error.to_string()),
        };
        let exchange = async { read(call.headers(headers).send().await?).await };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(response)) => Reply::Response(response),
            Ok(Err(error)) if error.is_timeout() => Reply::Timeout,
            Ok(Err(error)) if is_proxy_authorization_required(&error) => Reply::Response(HttpResponse {
                status: StatusCode::PROXY_AUTHENTICATION_REQUIRED.as_u16(),
                body: Vec::new(),
                cut: false,
                retry_after: None,
            }),
            Ok(Err(error)) => Reply::Connection(causes(error)),
            Err(_elapsed) => Reply::Timeout,
        }
    }

    fn headers(&self, trace: Option<&TraceContext>) -> Result<HeaderMap, InvalidHeaderValue> {
        let mut headers = HeaderMap::with_capacity(8);
        for (name, secret) in [(API_KEY, &self.api_key), (API_USERNAME, &self.api_username)] {
            let mut value = HeaderValue::from_str(secret.current().expose_secret())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT, HeaderValue::from_str(trace.traceparent())?);
        }
        if let Some(state) = trace.and_then(TraceContext::tracestate) {
            headers.insert(TRACESTATE, HeaderValue::from_str(state)?);
        }
        Ok(headers)
    }
}

/// Reads a response, at most [`MAX_RESPONSE_BYTES`] of its body.
async fn read(mut response: Response) -> Result<HttpResponse, reqwest::Error> {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).and_then(RetryAfter::parse);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let mut cut = false;
    while let Some(chunk) = response.chunk().await? {
        let remaining = MAX_RESPONSE_BYTES - body.len();
        cut = chunk.len() > remaining;
        body.extend_from_slice(chunk.get(..remaining).unwrap_or(&chunk));
        if cut {
            break;
        }
    }
    Ok(HttpResponse { status, body, cut, retry_after })
}

/// Whether a proxy answered CONNECT with 407. hyper-util turns this into an error of a private type,
/// so only its text shows it.
fn is_proxy_authorization_required(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.to_string().contains("proxy authorization required") {
            return true;
        }
        source = cause.source();
    }
    false
}

/// An error and its causes in one line, without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
