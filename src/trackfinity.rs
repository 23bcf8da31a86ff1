//! The client of Trackfinity's API: one call gives one reply. It decides nothing and never retries.

mod causes;
mod http_client;
mod route;
#[cfg(test)]
mod tests;
mod tunnel;

use std::{future, sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use self::{
    causes::{cause_texts, causes},
    http_client::HttpClient,
    route::Proxy,
};
pub use self::{
    http_client::HttpClientError,
    route::{Direct, Ends, Route, RouteError},
};
use crate::{
    breaker::Cause,
    message::UnlockRequest,
    policy::{CertificateFault, HttpResponse, MAX_RESPONSE_BYTES, Reason, Reply, RetryAfter},
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

/// There can be no client for these settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Http(#[from] HttpClientError),
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// Identifies what is read from files: the credentials, the authorities and the proxy. Changes when one
/// of them changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialsVersion([u64; 4]);

/// A client for one Trackfinity install. Keeps connections open and reuses them.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient,
    route: Route,
    unlock_url: url::Url,
    ping_url: url::Url,
    api_key: Secret,
    api_username: Secret,
    ca_file: Option<Secret>,
    timeout: Duration,
    connect_timeout: Duration,
    throttle: Arc<LogThrottle>,
}

impl Client {
    /// Builds the client; does not connect yet.
    ///
    /// # Errors
    /// If TLS cannot be set up because there is no root certificate, or if a variable such as
    /// `HTTPS_PROXY` names no proxy.
    pub fn new(settings: &settings::Trackfinity) -> Result<Self, BuildError> {
        let route = Route::new(settings)?;
        Ok(Self {
            http: HttpClient::new(settings, &route)?,
            route,
            unlock_url: settings.base_url.endpoint(Endpoint::Unlock.path()),
            ping_url: settings.base_url.endpoint(Endpoint::Ping.path()),
            api_key: settings.api_key.clone(),
            api_username: settings.api_username.clone(),
            ca_file: settings.ca_file.clone(),
            timeout: settings.timeout,
            connect_timeout: settings.connect_timeout,
            throttle: Arc::default(),
        })
    }

    /// Which way calls take.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// `PATCH /api/customer/unlock`, once.
    pub async fn unlock(&self, request: &UnlockRequest, trace: Option<&TraceContext>) -> Reply {
        let call = self
            .http
            .current()
            .patch(self.unlock_url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(request.to_form());
        self.logged(self.send(call, trace).await.0)
    }

    /// `GET /api/service/ping`, once: shows whether Trackfinity is at this address.
    pub async fn ping(&self, trace: Option<&TraceContext>) -> Reply {
        self.logged(self.send(self.http.current().get(self.ping_url.clone()), trace).await.0)
    }

    /// A ping for people: with the ends of the connection if there was an answer, and without a log line.
    pub async fn ping_with_ends(&self) -> (Reply, Option<Ends>) {
        self.send(self.http.current().get(self.ping_url.clone()), None).await
    }

    /// Logs why there is no connection, where a person must help: a retry's line has only a code.
    fn logged(&self, reply: Reply) -> Reply {
        if let Reply::NoTunnel { detail, .. } = &reply
            && let Some(left_out) = self.throttle.due(detail)
        {
            tracing::warn!(event = "no_tunnel", left_out, "Trackfinity cannot be called: {detail}");
        }
        if let Reply::Certificate(fault) = &reply
            && let Some(left_out) = self.throttle.due(fault)
        {
            let reason = Reason::Certificate(*fault);
            let advice = Cause::Failures(reason).advice();
            let reason = reason.describe();
            tracing::warn!(event = "certificate_not_accepted", left_out, "{reason}. {advice}");
        }
        reply
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

    /// What may come from files.
    fn files(&self) -> [Option<&Secret>; 4] {
        let proxy = self.route.proxy().map(Proxy::secret);
        [Some(&self.api_key), Some(&self.api_username), self.ca_file.as_ref(), proxy]
    }

    /// Reads the files again. Waits at most `REFRESH_TIMEOUT`, in case the disk hangs.
    pub async fn refresh_secrets(&self) {
        let refresh = async {
            for file in self.files().into_iter().flatten() {
                file.refresh().await;
            }
        };
        if tokio::time::timeout(REFRESH_TIMEOUT, refresh).await.is_err()
            && let Some(left_out) = self.throttle.due("secret_file_slow")
        {
            tracing::warn!(
                event = "secret_file_slow",
                left_out,
                "reading the files of trackfinity.api_key, api_username, ca_file and proxy takes too long: keeping \
                 the last values. Check their volume"
            );
        }
    }

    /// The API key as it is now.
    pub(crate) fn api_key(&self) -> std::sync::Arc<SecretString> {
        self.api_key.current()
    }

    /// Changes whenever the key, the user name, an authority or the proxy changes.
    pub fn credentials_version(&self) -> CredentialsVersion {
        CredentialsVersion(self.files().map(|file| file.map_or(0, Secret::version)))
    }

    /// Waits until one of them differs from those of `since`.
    pub async fn credentials_changed(&self, since: CredentialsVersion) -> CredentialsVersion {
        let changed = self.files().into_iter().zip(since.0).map(|(file, version)| {
            Box::pin(async move {
                match file {
                    Some(file) => file.changed_since(version).await,
                    None => future::pending().await,
                }
            })
        });
        futures_util::future::select_all(changed).await;
        self.credentials_version()
    }

    async fn send(
        &self,
        call: reqwest::RequestBuilder,
        trace: Option<&TraceContext>,
    ) -> (Reply, Option<Ends>) {
        let headers = match self.headers(trace) {
            Ok(headers) => headers,
            Err(error) => return (Reply::Connection(error.to_string()), None),
        };
        let deadline = Instant::now() + self.timeout;
        let exchange = async {
            let response = call.headers(headers).send().await?;
            let ends = Ends::of(&response);
            Ok((read(response).await?, ends))
        };
        match timeout_at(deadline, exchange).await {
            Ok(Ok((response, ends))) => (Reply::Response(response), ends),
            Ok(Err(error)) => (self.failed(error, deadline).await, None),
            Err(_elapsed) => (Reply::Timeout, None),
        }
    }

    /// What it means that there is no response.
    async fn failed(&self, error: reqwest::Error, deadline: Instant) -> Reply {
        if let Some(fault) = cause_texts(&error).find_map(|text| CertificateFault::in_error(&text)) {
            return Reply::Certificate(fault);
        }
        let no_tunnel = match self.route.proxy().and_then(Proxy::url).filter(|_| error.is_connect()) {
            Some(proxy) => {
                let deadline = deadline.min(Instant::now() + self.connect_timeout);
                tunnel::failure(&error, &proxy, &self.ping_url, deadline).await
            }
            None => None,
        };
        match no_tunnel {
            Some((status, detail)) => Reply::NoTunnel { status, detail },
            None if error.is_timeout() => Reply::Timeout,
            None => Reply::Connection(causes(error)),
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
