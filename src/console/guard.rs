//! Checks every request, and sets the security headers of every response.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};

use super::problem::Problem;
use crate::dead_letters::MAX_BROWSE_TIME;

/// The longest a request may take, including its body: three minutes. That is enough for another
/// browse, for its own after that, and for connecting. After this time the browse stops.
pub(super) const REQUEST_TIMEOUT: Duration =
    MAX_BROWSE_TIME.saturating_mul(2).saturating_add(Duration::from_secs(20));
const CSP: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CSP),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With `no-referrer` browsers would send `Origin: null` with the page's own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The host names of this page. Another name may belong to an attacker's site that resolves it to
/// this address, to read the page through a user's browser (DNS rebinding).
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    names: Arc<[String]>,
    bound: SocketAddr,
}

impl Hosts {
    pub(super) fn new(bound: SocketAddr, allowed: &[String]) -> Self {
        let own = [bound.to_string(), format!("localhost:{}", bound.port())];
        Self { names: own.into_iter().chain(allowed.iter().cloned()).collect(), bound }
    }

    fn allow(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.names.contains(&host) || self.is_own_address(&host)
    }

    /// If the server listens on all addresses, any address is its own. That is safe: an attacker
    /// can change what a name resolves to, but not an address.
    fn is_own_address(&self, host: &str) -> bool {
        let address = host.parse::<SocketAddr>().or_else(|_| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 80))
        });
        self.bound.ip().is_unspecified() && address.is_ok_and(|address| address.port() == self.bound.port())
    }
}

/// Passes a request on, or rejects it.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let is_api = is_api(request.uri());
    let checked = check(&hosts, request.method(), request.uri(), request.headers());
    let answer = match checked {
        Ok(()) => tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.map_err(|_elapsed| {
            let advice = "Nothing was changed. Try again, or use `unlocker dead-letters`.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "This takes too long.", advice)
        }),
        Err(problem) => Err(problem),
    };
    let mut response = answer.unwrap_or_else(|problem| if is_api { problem.json() } else { problem.page() });
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) fn is_api(uri: &Uri) -> bool {
    uri.path().starts_with("/api/")
}

fn check(hosts: &Hosts, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut all = headers.get_all(header::HOST).iter();
    let host = match (all.next().and_then(|host| host.to_str().ok()), all.next()) {
        (Some(host), None) => host,
        _ => "",
    };
    // A request line with an absolute URL would name a second host.
    if !hosts.allow(host) || uri.authority().is_some() {
        let what = "This host name is not allowed.";
        let advice = "Use the page's own address, or add the name to console.allowed_hosts.";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", what, advice));
    }
    // Scripts must send a token in a header and send no origin. Browsers do send one.
    let is_script = is_api(uri) && !headers.contains_key(FETCH_SITE) && !headers.contains_key(header::ORIGIN);
    if matches!(*method, Method::GET | Method::HEAD) || is_script || is_same_origin(host, headers) {
        return Ok(());
    }
    let what = "This was sent from another site, or the browser did not say from which one.";
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "cross_site",
        what,
        "Nothing was done. Use the page's own forms.",
    ))
}

/// Whether the browser says that the request comes from this page. Browsers send `Sec-Fetch-Site`
/// only over TLS or to the same machine; else `Origin` decides.
fn is_same_origin(host: &str, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(FETCH_SITE) {
        return site == "same-origin";
    }
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(scheme, authority)| {
        matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_address_localhost_and_allowed_names_are_answered() {
        let allowed = ["unlocker.example.com".to_owned()];
        let hosts = Hosts::new("127.0.0.1:8090".parse().expect("an address"), &allowed);
        for own in ["127.0.0.1:8090", "localhost:8090", "LOCALHOST:8090", "Unlocker.example.com"] {
            assert!(hosts.allow(own), "{own}");
        }
        for other in ["", "localhost", "127.0.0.1", "10.0.0.1:8090", "evil.example:8090", "example.com"] {
            assert!(!hosts.allow(other), "{other}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_answers_to_each_of_them() {
        let hosts = Hosts::new("0.0.0.0:8090".parse().expect("an address"), &[]);
        assert!(hosts.allow("10.1.2.3:8090") && hosts.allow("[::1]:8090"));
        assert!(!hosts.allow("10.1.2.3:80") && !hosts.allow("10.1.2.3") && !hosts.allow("evil.example:8090"));
    }

    #[test]
    fn only_the_page_itself_may_send_its_forms() {
        let same = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_same_origin("localhost:8090", &headers.collect())
        };
        assert!(same(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(same(&[("origin", "http://localhost:8090")]));
        for wrong in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://localhost:9466")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:8090")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!same(wrong), "{wrong:?}");
        }
    }
}
