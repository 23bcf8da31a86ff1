//! The client of Trackfinity's API: one call, one reply. It decides nothing and never retries.

#[cfg(test)]
mod tests;

use std::{error::Error as _, time::Duration};

use opentelemetry::KeyValue;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    message::UnlockRequest,
    policy::{Answer, MAX_ANSWER_BYTES, Reply, RetryAfter},
    secret::Secret,
    settings,
    telemetry::{TraceContext, names},
};

const API_KEY: HeaderName = HeaderName::from_static("api-key");
const API_USERNAME: HeaderName = HeaderName::from_static("api-username");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long it may take to read a secret's file.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unlock,
    Ping,
}

impl Endpoint {
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Unlock => "PATCH",
            Self::Ping => "GET",
        }
    }

    /// The name of a span of a call.
    #[must_use]
    pub fn span_name(self) -> &'static str {
        match self {
            Self::Unlock => "PATCH /api/customer/unlock",
            Self::Ping => "GET /api/service/ping",
        }
    }
}

/// Trackfinity could not be set up as a peer.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be built: {0}")]
pub struct BuildError(#[from] reqwest::Error);

/// Which credentials are used: it changes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialsVersion {
    api_key: u64,
    api_username: u64,
}

/// Trackfinity, as one install of it is reached. Connections are kept and reused.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    unlock_url: url::Url,
    ping_url: url::Url,
    api_key: Secret,
    api_username: Secret,
    timeout: Duration,
}

impl Client {
    /// A client for the install the settings name. Nothing is connected yet.
    ///
    /// # Errors
    /// If TLS cannot be set up, for want of any root certificate.
    pub fn new(settings: &settings::Trackfinity) -> Result<Self, BuildError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("trackfinity-unlocker/", env!("CARGO_PKG_VERSION")))
            // To follow one would carry the key to wherever it points.
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
            unlock_url: settings.base_url.unlock_url(),
            ping_url: settings.base_url.ping_url(),
            api_key: settings.api_key.clone(),
            api_username: settings.api_username.clone(),
            timeout: settings.timeout,
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

    /// `GET /api/service/ping`, once: whether there is a Trackfinity at this address at all.
    pub async fn ping(&self, trace: Option<&TraceContext>) -> Reply {
        self.send(self.http.get(self.ping_url.clone()), trace).await
    }

    /// The attributes of a call's span.
    #[must_use]
    pub fn attributes(&self, endpoint: Endpoint) -> Vec<KeyValue> {
        let url = match endpoint {
            Endpoint::Unlock => &self.unlock_url,
            Endpoint::Ping => &self.ping_url,
        };
        let port = i64::from(url.port_or_known_default().unwrap_or_default());
        vec![
            KeyValue::new(names::HTTP_REQUEST_METHOD, endpoint.method()),
            KeyValue::new(names::SERVER_ADDRESS, url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new(names::SERVER_PORT, port),
            KeyValue::new(names::URL_FULL, url.as_str().to_owned()),
        ]
    }

    /// Reads key and user name again, if they come from files. Does not wait long for a disk that hangs.
    pub async fn refresh_secrets(&self) {
        let refresh = async {
            self.api_key.refresh().await;
            self.api_username.refresh().await;
        };
        if tokio::time::timeout(REFRESH_TIMEOUT, refresh).await.is_err() {
            tracing::warn!("the secrets' files cannot be read in time: keeping the last values");
        }
    }

    /// The API key as it is now.
    pub(crate) fn api_key(&self) -> std::sync::Arc<SecretString> {
        self.api_key.current()
    }

    /// Counts the changes of key and user name.
    #[must_use]
    pub fn credentials_version(&self) -> CredentialsVersion {
        CredentialsVersion { api_key: self.api_key.version(), api_username: self.api_username.version() }
    }

    /// Waits until key or user name are others than they were.
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
            Ok(Ok(answer)) => Reply::Answer(answer),
            Ok(Err(error)) if error.is_timeout() => Reply::Timeout,
            Ok(Err(error)) if is_proxy_authorization_required(&error) => Reply::Answer(Answer {
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

/// Reads an answer to its end, or to the most that is read of one.
async fn read(mut response: Response) -> Result<Answer, reqwest::Error> {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).and_then(RetryAfter::parse);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let mut cut = false;
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES - body.len();
        cut = chunk.len() > room;
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if cut {
            break;
        }
    }
    Ok(Answer { status, body, cut, retry_after })
}

/// Whether a proxy answered CONNECT with 407. hyper-util makes an error of that answer, of a type
/// that nobody else can name: its text alone tells.
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

/// An error and what caused it, in a line, without the URL.
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
