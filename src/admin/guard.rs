//! What every request has to pass, and what every answer carries.

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

/// The longest a request may take, its body included. A look takes no longer than 30 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
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

/// The names under which the page may be asked for. Another name may belong to a site that has
/// pointed it at this address, to read the page through its visitor's browser.
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

    /// Where every address is listened on, any of them is the page's own: names can be pointed
    /// elsewhere, addresses cannot.
    fn is_own_address(&self, host: &str) -> bool {
        let address = host.parse::<SocketAddr>().or_else(|_| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 80))
        });
        self.bound.ip().is_unspecified() && address.is_ok_and(|address| address.port() == self.bound.port())
    }
}

/// Lets a request through, or says why not.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let is_api = is_api(request.uri());
    let checked = check(&hosts, request.method(), request.uri(), request.headers());
    let answer = match checked {
        Ok(()) => tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.map_err(|_elapsed| {
            let advice = "What was begun may still be done; look before you try again.";
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
    // A request line with an address in it would have another host.
    if !hosts.allow(host) || uri.authority().is_some() {
        let what = "This host name is not one of this page's.";
        let advice = "Ask for the page by its own address, or add the name to admin.allowed_hosts.";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", what, advice));
    }
    // Scripts, which have to send a token in a header, name no origin; browsers do.
    let is_script = is_api(uri) && !headers.contains_key(FETCH_SITE) && !headers.contains_key(header::ORIGIN);
    if matches!(*method, Method::GET | Method::HEAD) || is_script || is_same_origin(host, headers) {
        return Ok(());
    }
    let what = "This was sent from another site, or by a browser that does not say from where.";
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "cross_site",
        what,
        "Nothing was done. Use the page's own forms.",
    ))
}

/// Whether a browser says that its request comes from this very page. Without TLS, but on this
/// machine, browsers send no `Sec-Fetch-Site`.
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
    fn a_page_answers_to_its_own_address_localhost_and_allowed_names_alone() {
        let allowed = ["unlocker.example.com".to_owned()];
        let hosts = Hosts::new("127.0.0.1:9465".parse().expect("an address"), &allowed);
        for own in ["127.0.0.1:9465", "localhost:9465", "LOCALHOST:9465", "Unlocker.example.com"] {
            assert!(hosts.allow(own), "{own}");
        }
        for other in ["", "localhost", "127.0.0.1", "10.0.0.1:9465", "evil.example:9465", "example.com"] {
            assert!(!hosts.allow(other), "{other}");
        }
    }

    #[test]
    fn where_all_addresses_are_listened_on_each_of_them_is_its_own() {
        let hosts = Hosts::new("0.0.0.0:9465".parse().expect("an address"), &[]);
        assert!(hosts.allow("10.1.2.3:9465") && hosts.allow("[::1]:9465"));
        assert!(!hosts.allow("10.1.2.3:80") && !hosts.allow("10.1.2.3") && !hosts.allow("evil.example:9465"));
    }

    #[test]
    fn only_this_page_itself_may_send_its_forms() {
        let same = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_same_origin("localhost:9465", &headers.collect())
        };
        assert!(same(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(same(&[("origin", "http://localhost:9465")]));
        for wrong in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://localhost:9466")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:9465")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!same(wrong), "{wrong:?}");
        }
    }
}
