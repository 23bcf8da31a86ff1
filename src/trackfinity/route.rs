//! Which way calls to Trackfinity take: directly, or through an HTTP proxy.
//!
//! `trackfinity.proxy` names the proxy, or else the usual variables do. A call over `http://` never goes
//! through a proxy: it would see the key in clear text.

use std::{env, fmt, net::IpAddr};

use hyper_util::client::proxy::matcher::Matcher;
use secrecy::ExposeSecret;

use crate::{
    secret::Secret,
    settings::{self, ProxyUrl},
};

const SETTING: &str = "trackfinity.proxy";
/// Variables that name a proxy, the first one first.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Variables that name hosts which are called directly.
const EXCEPTION_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A variable names something that is not a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the variable {variable} cannot be used: {wrong}; write http://HOST:PORT, or set trackfinity.proxy, which comes first"
)]
pub struct RouteError {
    variable: &'static str,
    wrong: &'static str,
}

/// The way that calls take. `Display` and `Debug` never show the proxy's login.
#[derive(Clone, Debug)]
pub enum Route {
    Direct(Direct),
    Proxy(Proxy),
}

/// Why calls go directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// Nothing names a proxy.
    NoProxy,
    /// `base_url` is `http://`, so that the proxy which this names is not used.
    PlainHttp { unused: &'static str },
    /// The variable `by` names Trackfinity's host, so that the proxy of the variable `unused` is not used.
    Excepted { unused: &'static str, by: &'static str },
}

/// A proxy, and what names it: `trackfinity.proxy` or a variable.
#[derive(Clone, Debug)]
pub struct Proxy {
    url: Secret,
    parse: fn(&str) -> Result<ProxyUrl, &'static str>,
    source: &'static str,
}

impl Route {
    /// Finds the way for these settings and the variables of this process.
    ///
    /// # Errors
    /// If a variable that counts names no HTTP proxy.
    pub fn new(settings: &settings::Trackfinity) -> Result<Self, RouteError> {
        Self::find(settings, |name| env::var(name).ok())
    }

    fn find(
        settings: &settings::Trackfinity,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, RouteError> {
        let first = |names: &[&'static str]| {
            let set =
                |name: &&'static str| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?));
            names.iter().find_map(set)
        };
        let url = settings.base_url.as_url();
        let named = match &settings.proxy {
            Some(url) => Some(Proxy { url: url.clone(), parse: ProxyUrl::parse, source: SETTING }),
            None => first(&PROXY_VARIABLES).map(|(source, value)| Proxy {
                url: Secret::fixed(value.trim()),
                parse: ProxyUrl::from_variable,
                source,
            }),
        };
        let Some(proxy) = named else { return Ok(Self::Direct(Direct::NoProxy)) };
        let unused = proxy.source;
        if url.scheme() != "https" {
            return Ok(Self::Direct(Direct::PlainHttp { unused }));
        }
        if settings.proxy.is_none() {
            if let Some((by, hosts)) = first(&EXCEPTION_VARIABLES)
                && excepts(&hosts, url)
            {
                return Ok(Self::Direct(Direct::Excepted { unused, by }));
            }
            ProxyUrl::from_variable(proxy.url.current().expose_secret())
                .map_err(|wrong| RouteError { variable: unused, wrong })?;
        }
        Ok(Self::Proxy(proxy))
    }

    /// The proxy, if calls go through one.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Direct(_) => None,
            Self::Proxy(proxy) => Some(proxy),
        }
    }
}

/// Whether this value of `NO_PROXY` names the host of the URL. hyper-util reads it as curl does, but for a
/// `*`, which it does not apply to IP addresses.
fn excepts(hosts: &str, url: &url::Url) -> bool {
    if hosts.split(',').any(|host| host.trim() == "*") {
        return true;
    }
    let matcher = Matcher::builder().all("http://proxy.invalid:1").no(hosts).build();
    url.as_str().parse().is_ok_and(|uri| matcher.intercept(&uri).is_none())
}

impl Proxy {
    /// Its address now: a file of `trackfinity.proxy_file` may have changed.
    pub fn url(&self) -> Option<ProxyUrl> {
        // `None` is not expected: the value was checked when it was read.
        (self.parse)(self.url.current().expose_secret()).ok()
    }

    /// The secret that has its address, which changes with its file.
    pub(super) fn secret(&self) -> &Secret {
        &self.url
    }
}

impl fmt::Display for Proxy {
    /// Host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url() {
            Some(url) => write!(f, "{url}"),
            None => f.write_str(self.source),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(Direct::NoProxy) => f.write_str("direct"),
            Self::Direct(Direct::PlainHttp { unused }) => write!(
                f,
                "direct, not through the proxy that {unused} names: base_url is http://, and a proxy would see the key \
                 in clear text"
            ),
            Self::Direct(Direct::Excepted { unused, by }) => {
                write!(f, "direct, not through the proxy that {unused} names: {by} excepts this host")
            }
            Self::Proxy(proxy) => write!(f, "through the HTTP proxy {proxy}, which {} names", proxy.source),
        }
    }
}

/// The two ends of the connection that a call used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub local: IpAddr,
    /// Trackfinity's, or the proxy's.
    pub remote: IpAddr,
}

impl Ends {
    pub(super) fn of(response: &reqwest::Response) -> Option<Self> {
        let info = response.extensions().get::<hyper_util::client::legacy::connect::HttpInfo>()?;
        let [local, remote] =
            [info.local_addr(), info.remote_addr()].map(|address| address.ip().to_canonical());
        Some(Self { local, remote })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn route(base_url: &str, proxy: Option<&str>, variables: &[(&str, &str)]) -> Result<Route, RouteError> {
        let mut given = vec![
            ("UNLOCKER__TRACKFINITY__BASE_URL", base_url),
            ("UNLOCKER__TRACKFINITY__API_KEY", "k"),
            ("UNLOCKER__TRACKFINITY__API_USERNAME", "u"),
        ];
        given.extend(proxy.map(|proxy| ("UNLOCKER__TRACKFINITY__PROXY", proxy)));
        let given = given.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::load(&[], given).unwrap().trackfinity;
        Route::find(&settings, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn shown(base_url: &str, proxy: Option<&str>, variables: &[(&str, &str)]) -> String {
        route(base_url, proxy, variables).unwrap().to_string()
    }

    const TRACKFINITY: &str = "https://x.trackfinity.com";

    #[test]
    fn the_setting_comes_before_the_variables_and_their_exceptions() {
        let variables = [("HTTPS_PROXY", "http://other:1"), ("NO_PROXY", "*")];
        let shown = shown(TRACKFINITY, Some("http://u:hunter2@egress:3128"), &variables);
        assert_eq!(shown, "through the HTTP proxy egress:3128, which trackfinity.proxy names");
    }

    #[test]
    fn the_usual_variables_count_in_their_usual_order() {
        let from = |variables: &[(&str, &str)]| shown(TRACKFINITY, None, variables);
        let upper = ("HTTPS_PROXY", "http://u:hunter2@a:1");
        let all = ("ALL_PROXY", "b:2");
        assert_eq!(from(&[all, upper]), "through the HTTP proxy a:1, which HTTPS_PROXY names");
        assert_eq!(
            from(&[all, ("https_proxy", "c:3")]),
            "through the HTTP proxy c:3, which https_proxy names"
        );
        assert_eq!(from(&[all, ("HTTPS_PROXY", "")]), "through the HTTP proxy b:2, which ALL_PROXY names");
        assert_eq!(from(&[("HTTP_PROXY", "http://d:4")]), "direct");
        assert_eq!(from(&[("no_proxy", "*")]), "direct");
        for hosts in ["*", "trackfinity.com", ".trackfinity.com", "10.0.0.0/8, X.trackfinity.com"] {
            let expected = "direct, not through the proxy that HTTPS_PROXY names: NO_PROXY excepts this host";
            assert_eq!(from(&[upper, ("NO_PROXY", hosts)]), expected);
        }
        for hosts in ["*", "10.0.0.7", "10.0.0.0/8", "x, * "] {
            let shown = shown("https://10.0.0.7:8443/x", None, &[upper, ("NO_PROXY", hosts)]);
            assert!(shown.starts_with("direct, not"), "{hosts}: {shown}");
        }
        for hosts in ["y.trackfinity.com", "rackfinity.com", ""] {
            assert!(from(&[upper, ("no_proxy", hosts)]).starts_with("through"), "{hosts}");
        }
    }

    #[test]
    fn plain_http_never_goes_through_a_proxy() {
        let loopback = "http://127.0.0.1:8080";
        let by_setting = shown(loopback, Some("http://egress:3128"), &[]);
        assert!(
            by_setting.starts_with("direct, not through the proxy that trackfinity.proxy names: base_url is")
        );
        let variables = [("HTTP_PROXY", "http://a:1"), ("ALL_PROXY", "http://b:2")];
        assert!(
            shown(loopback, None, &variables)
                .starts_with("direct, not through the proxy that ALL_PROXY names")
        );
    }

    #[test]
    fn a_variable_that_names_no_http_proxy_is_an_error_that_does_not_show_it() {
        let error =
            route(TRACKFINITY, None, &[("ALL_PROXY", "socks5://u:hunter2@a:1080")]).unwrap_err().to_string();
        let expected =
            "the variable ALL_PROXY cannot be used: it is not the address of an HTTP proxy; write ";
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("hunter2"));
        // It would not be used.
        assert!(route(TRACKFINITY, None, &[("ALL_PROXY", "socks5://a:1"), ("NO_PROXY", "*")]).is_ok());
        assert!(route("http://localhost", None, &[("ALL_PROXY", "socks5://a:1")]).is_ok());
    }

    #[test]
    fn nothing_shows_the_login() {
        let route = route(TRACKFINITY, Some("http://hunter1:hunter2@egress:3128"), &[]).unwrap();
        assert!(!format!("{route} {route:?}").contains("hunter"));
    }
}
