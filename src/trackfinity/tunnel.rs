//! Why an HTTP proxy opens no tunnel: reqwest does not tell the status of its answer, so the proxy is
//! asked again.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::Empty;
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue, PROXY_AUTHORIZATION},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use url::Url;

use super::causes::cause_texts;
use crate::settings::ProxyUrl;

/// What a proxy did with a CONNECT.
#[derive(Debug)]
enum Answer {
    /// It opened the tunnel.
    Opened,
    /// It answered with this status.
    Refused(u16),
    /// There is no connection to it.
    Unreachable(std::io::Error),
    /// Its answer is not HTTP.
    Unreadable(hyper::Error),
}

/// Whether the proxy is the reason why there is no connection to the host of `url`: the status with which
/// it refused the tunnel, if it did, and the failure for people.
pub(super) async fn failure(
    error: &reqwest::Error,
    proxy: &ProxyUrl,
    url: &Url,
    deadline: Instant,
) -> Option<(Option<u16>, String)> {
    let refused =
        |status| Some((Some(status), format!("the HTTP proxy {proxy} answered {status} to CONNECT")));
    if has_cause(error, "proxy authorization required") {
        return refused(407);
    }
    if has_cause(error, "tunnel error") && proxy.as_url().scheme() != "http" {
        return Some((None, format!("the HTTP proxy {proxy} opens no tunnel")));
    }
    // reqwest can use a proxy over TLS, and `ask` cannot.
    if proxy.as_url().scheme() != "http" {
        return None;
    }
    let port = url.port_or_known_default().unwrap_or_default();
    let target = format!("{}:{port}", url.host_str().unwrap_or_default());
    match timeout_at(deadline, ask(proxy, &target)).await {
        Ok(Answer::Refused(status)) => refused(status),
        Ok(Answer::Unreachable(error)) => {
            Some((None, format!("the HTTP proxy {proxy} cannot be reached: {error}")))
        }
        Ok(Answer::Unreadable(error)) => {
            Some((None, format!("the HTTP proxy {proxy} gave no HTTP answer to CONNECT: {error}")))
        }
        // It is silent, or waits for Trackfinity's host.
        Err(_elapsed) if error.is_timeout() => {
            Some((None, format!("the HTTP proxy {proxy} gave no answer to CONNECT in time")))
        }
        // What failed is behind the proxy, such as TLS; or the proxy is well again.
        Ok(Answer::Opened) | Err(_) => None,
    }
}

/// Whether this text is among the causes. hyper-util turns a proxy's refusal into an error of a private
/// type, so only its text shows it.
fn has_cause(error: &reqwest::Error, text: &str) -> bool {
    cause_texts(error).any(|cause| cause.contains(text))
}

/// Asks the proxy for a tunnel to `target` (host and port), and closes it at once.
async fn ask(proxy: &ProxyUrl, target: &str) -> Answer {
    let stream = match TcpStream::connect(proxy.address()).await {
        Ok(stream) => stream,
        Err(error) => return Answer::Unreachable(error),
    };
    match connect(stream, proxy, target).await {
        Ok(200..=299) => Answer::Opened,
        Ok(status) => Answer::Refused(status),
        Err(error) => Answer::Unreadable(error),
    }
}

async fn connect(stream: TcpStream, proxy: &ProxyUrl, target: &str) -> Result<u16, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    // Never fails: it is the host and port of a URL.
    *request.uri_mut() = target.parse().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(target) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some((user, password)) = proxy.login()
        && let Ok(mut login) =
            HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    {
        login.set_sensitive(true);
        request.headers_mut().insert(PROXY_AUTHORIZATION, login);
    }
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let response = tokio::select! {
        biased;
        response = &mut answer => response?,
        _ended = &mut connection => answer.await?,
    };
    Ok(response.status().as_u16())
}
