//! `trackfinity.proxy`: the address of an HTTP proxy, perhaps with a login.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::values::{Parsed, is_blank, refuse_if};

const BAD_PORT: &str = "it has a port that is not a number up to 65535; in user and password write / as %2F, # as %23, \
                        ? as %3F";

/// The address of an HTTP proxy. `Display` and `Debug` show it without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Reads `http://[user:password@]host:port`.
    ///
    /// # Errors
    /// What is wrong, as a phrase that never repeats any part of the address.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        // The calls themselves have TLS, inside the tunnel.
        refuse_if(text.starts_with("https://"), "it starts with https://: a proxy is called over http://")?;
        refuse_if(!text.starts_with("http://"), "it does not start with http://")?;
        let proxy = Self::read(text)?;
        let end = text.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
        // Programs disagree about the usual port.
        refuse_if(end.is_empty() || !end.bytes().all(|byte| byte.is_ascii_digit()), "it names no port")?;
        let has_path = !matches!(proxy.0.path(), "" | "/") || proxy.0.query().is_some();
        refuse_if(has_path || proxy.0.fragment().is_some(), "it has something behind the port")?;
        Ok(proxy)
    }

    /// Reads the value of a variable such as `HTTPS_PROXY`, as most programs do: the scheme, which may
    /// also be `https`, and the port may be missing.
    ///
    /// # Errors
    /// See [`parse`](Self::parse).
    pub fn from_variable(text: &str) -> Result<Self, &'static str> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let proxy = Self::read(&with_scheme)?;
        refuse_if(!["http", "https"].contains(&proxy.0.scheme()), "it is not the address of an HTTP proxy")?;
        Ok(proxy)
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        refuse_if(text.contains(is_blank), "it contains a blank or a control character")?;
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::EmptyHost => "it names no host",
            url::ParseError::InvalidPort => BAD_PORT,
            _ => "it is not a URL",
        })?;
        refuse_if(matches!(url.host(), None | Some(Host::Domain(""))), "it names no host")?;
        refuse_if(url.port() == Some(0), "it names port 0")?;
        let login = [url.username(), url.password().unwrap_or_default()].map(decoded);
        let [Some(user), Some(_)] = login else {
            return Err("its user or password is not UTF-8 when it is percent-decoded");
        };
        refuse_if(user.contains(':'), "its user contains a colon, which HTTP does not allow there")?;
        Ok(Self(url))
    }

    /// The whole address, with the login.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The host, and the port behind a colon.
    pub fn address(&self) -> String {
        let port = self.0.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.0.host_str().unwrap_or_default())
    }

    /// The user and the password, if there is a login.
    pub fn login(&self) -> Option<(String, String)> {
        let login = [self.0.username(), self.0.password().unwrap_or_default()].map(decoded);
        match login {
            [Some(user), Some(password)] if !(user.is_empty() && password.is_empty()) => {
                Some((user, password))
            }
            _ => None,
        }
    }

    pub(super) fn check(text: &str) -> Parsed<()> {
        Ok(Self::parse(text).map(drop)?)
    }

    /// The address without its password, for people; `***` alone if it cannot be read.
    pub(super) fn masked(text: &str) -> String {
        let Ok(Self(mut url)) = Self::parse(text) else { return "***".to_owned() };
        let masked = match (url.username(), url.password()) {
            ("", None) => Ok(()),
            // A user without a password is a token.
            (_, None) => url.set_username("***"),
            (_, Some(_)) => url.set_password(Some("***")),
        };
        masked.map_or_else(|()| "***".to_owned(), |()| url.as_str().trim_end_matches('/').to_owned())
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_and_login_are_read() {
        let proxy = ProxyUrl::parse("http://us%40er:p%2Fass%3Aword@proxy.example.com:3128/").unwrap();
        assert_eq!(proxy.address(), "proxy.example.com:3128");
        assert_eq!(proxy.login().unwrap(), ("us@er".to_owned(), "p/ass:word".to_owned()));
        assert_eq!(ProxyUrl::parse("http://10.0.0.7:80").unwrap().address(), "10.0.0.7:80");
        assert_eq!(ProxyUrl::parse("http://[::1]:8080").unwrap().address(), "[::1]:8080");
        assert_eq!(ProxyUrl::parse("http://proxy:8080").unwrap().login(), None);
        assert_eq!(ProxyUrl::parse("http://token@proxy:8080").unwrap().login().unwrap().0, "token");
    }

    #[test]
    fn what_is_no_address_of_a_proxy_is_refused_without_being_shown() {
        for (text, wrong) in [
            ("proxy:3128", "it does not start with http://"),
            ("socks5://hunter2@proxy:1080", "it does not start with http://"),
            ("https://u:hunter2@proxy:3128", "it starts with https://: a proxy is called over http://"),
            ("http://u:hunter2@proxy", "it names no port"),
            ("http://[::1]", "it names no port"),
            ("http://proxy:3128:", "it has a port"),
            ("http://u:hunter2@:3128", "it names no host"),
            ("http://u:hunter2@proxy:0", "it names port 0"),
            ("http://u:hun#ter2@proxy:3128", "it has a port that"),
            ("http://u:hun/ter2@proxy:3128", "it has a port that"),
            ("http://u:hunter2@proxy:3128/path", "it names no port"),
            ("http://u:hunter2@proxy:3128/?a=:1", "it has something behind the port"),
            ("http://proxy:3128\n", "it contains a blank"),
            ("http://u%3A:hunter2@proxy:3128", "its user contains a colon"),
            ("http://u:%ff@proxy:3128", "its user or password is not UTF-8"),
        ] {
            let error = ProxyUrl::parse(text).unwrap_err();
            assert!(error.starts_with(wrong), "{text}: {error}");
            assert!(!error.contains("hunter2"));
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("http://u:hunter2@proxy:3128", "http://u:***@proxy:3128"),
            ("http://hunter2@proxy:3128/", "http://***@proxy:3128"),
            ("http://:hunter2@proxy:3128", "http://:***@proxy:3128"),
            ("http://proxy:3128", "http://proxy:3128"),
            ("hunter2", "***"),
        ] {
            assert_eq!(ProxyUrl::masked(text), shown);
            if let Ok(proxy) = ProxyUrl::parse(text) {
                assert_eq!(format!("{proxy} {proxy:?}"), "proxy:3128 ProxyUrl(proxy:3128)");
            }
        }
    }

    #[test]
    fn a_variable_may_leave_out_scheme_and_port() {
        let address = |text| ProxyUrl::from_variable(text).map(|proxy| proxy.address());
        assert_eq!(address("proxy:3128").unwrap(), "proxy:3128");
        assert_eq!(address("u:p@proxy:3128").unwrap(), "proxy:3128");
        assert_eq!(address("http://proxy").unwrap(), "proxy:80");
        assert_eq!(address("https://proxy/").unwrap(), "proxy:443");
        assert!(address("socks5://proxy:1080").is_err());
        assert!(address("a b").is_err());
    }
}
