//! What every request has to pass, whatever it asks for: the host it names, where it comes from, how
//! long it takes; and the headers that every answer carries.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Site, answers};

/// How long anything may take, the request's body included.
const LONGEST: Duration = Duration::from_secs(60);
const SITE: &str = "sec-fetch-site";

const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer` browsers would send `Origin: null` with our own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&site.hosts, &request) {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => match tokio::time::timeout(LONGEST, next.run(request)).await {
            Ok(response) => response,
            Err(_elapsed) => {
                (StatusCode::GATEWAY_TIMEOUT, "it takes too long; try again\n").into_response()
            }
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<(StatusCode, &'static str)> {
    let headers = request.headers();
    let Some(host) = host(headers, request.uri()).filter(|host| hosts.allow(host)) else {
        let why = "this host is not known here: name it in admin.allowed_hosts";
        return Some((StatusCode::MISDIRECTED_REQUEST, why));
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    // Scripts name no origin; a browser that is led to the API by another site does.
    let is_script = answers::is_api(request.uri().path())
        && !headers.contains_key(SITE)
        && !headers.contains_key(header::ORIGIN);
    let refused = "this was sent from another site, or from a browser that does not say from where";
    (!is_script && !is_same_origin(headers, &host)).then_some((StatusCode::FORBIDDEN, refused))
}

/// The one host that the request names, in lower case.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let mut named = headers.get_all(header::HOST).iter();
    let host = named.next()?.to_str().ok()?.to_ascii_lowercase();
    let other = named.next().is_some()
        || uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(&host));
    (!other).then_some(host)
}

/// Whether the browser says that one of our own pages sent this. Each header that is there has to.
fn is_same_origin(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let site = text(SITE).map(|site| site == "same-origin");
    let origin = text(header::ORIGIN.as_str()).map(|origin| {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    match (site, origin) {
        (None, None) => false,
        (site, origin) => site.unwrap_or(true) && origin.unwrap_or(true),
    }
}

/// The hosts that the page answers to. A name that leads here and is none of them may be a stranger's
/// (DNS rebinding), whose pages could then read ours.
#[derive(Debug)]
pub(super) struct Hosts {
    own: std::net::SocketAddr,
    allowed: Vec<String>,
}

impl Hosts {
    pub(super) fn new(own: std::net::SocketAddr, allowed: Vec<String>) -> Self {
        Self { own, allowed }
    }

    fn allow(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(port))
            }
            _ => (host, None),
        };
        if self.allowed.iter().any(|allowed| allowed == host || allowed == name) {
            return true;
        }
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        match address {
            // Nobody's name leads to a number. The port may be another, as with `kubectl port-forward`.
            Some(address) if address.is_loopback() => true,
            Some(address) => {
                let own = self.own.ip();
                (own.is_unspecified() || own == address) && port == Some(&self.own.port().to_string())
            }
            None => name == "localhost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(own: &str) -> Hosts {
        Hosts::new(own.parse().expect("an address"), vec!["unlocker.example.com".to_owned()])
    }

    #[test]
    fn the_own_address_localhost_and_what_is_allowed_are_answered() {
        for host in
            ["127.0.0.1:8080", "localhost:8080", "localhost:9000", "[::1]:8080", "unlocker.example.com", "unlocker.example.com:443"]
        {
            assert!(hosts("127.0.0.1:8080").allow(host), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "192.0.2.1:8080", "localhost.evil.example", "", ":80"] {
            assert!(!hosts("127.0.0.1:8080").allow(host), "{host}");
        }
        assert!(hosts("0.0.0.0:8080").allow("192.0.2.1:8080"));
        assert!(!hosts("0.0.0.0:8080").allow("evil.example:8080"));
    }

    #[test]
    fn only_what_a_browser_calls_our_own_is_same_origin() {
        let is = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            is_same_origin(&pairs.collect(), "localhost:8080")
        };
        assert!(is(&[("origin", "http://localhost:8080")]));
        assert!(is(&[("origin", "https://localhost:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(!is(&[]));
        assert!(!is(&[("origin", "null")]));
        assert!(!is(&[("origin", "http://localhost:8081")]));
        assert!(!is(&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-site")]));
        assert!(!is(&[("sec-fetch-site", "cross-site")]));
    }
}
