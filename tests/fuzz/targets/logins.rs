//! What the program logs in with, to RabbitMQ and to a proxy: addresses and files.

use proptest::prelude::*;
use trackfinity_unlocker::settings::{BrokerUrls, ProxyUrl, check_certificates, check_jwt, private_key};

use super::Checked;

/// By its beginning: addresses of RabbitMQ, the address of a proxy, or a file.
pub fn check_bytes(bytes: &[u8]) -> Checked {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with("amqp") => check_broker_urls(text),
        Ok(text) if text.starts_with("http") => check_proxy(text),
        Ok(text) => check_file(text),
        // Read as text before anything else.
        Err(_) => Ok(()),
    }
}

/// What is shown of addresses has all but their passwords.
fn check_broker_urls(text: &str) -> Checked {
    let shown = BrokerUrls::masked(text);
    let Ok(urls) = BrokerUrls::parse(text) else {
        prop_assert_eq!(shown, "***");
        return Ok(());
    };
    let shown_urls = BrokerUrls::parse(&shown);
    prop_assert!(shown_urls.as_ref().is_ok_and(|shown| shown.len() == urls.len()), "{shown}");
    for (url, shown) in urls.iter().zip(shown_urls.into_iter().flatten()) {
        let (login, shown_login) = (&url.authority.userinfo, &shown.authority.userinfo);
        // Without a password in the address, it is the usual one.
        prop_assert!(["***", "guest"].contains(&shown_login.password.as_str()), "{shown_login:?}");
        prop_assert_eq!(&login.username, &shown_login.username);
        prop_assert_eq!(&url.authority.host, &shown.authority.host);
        prop_assert_eq!(url.authority.port, shown.authority.port);
        prop_assert_eq!(&url.vhost, &shown.vhost);
        prop_assert_eq!(&url.scheme, &shown.scheme);
    }
    Ok(())
}

/// What is shown of a proxy has no login.
fn check_proxy(text: &str) -> Checked {
    for read in [ProxyUrl::parse, ProxyUrl::from_variable] {
        if let Ok(proxy) = read(text) {
            let shown = ProxyUrl::from_variable(&proxy.to_string());
            let shown = shown.map_err(|wrong| TestCaseError::fail(format!("{proxy}: {wrong}")))?;
            prop_assert!(shown.login().is_none(), "{shown}");
            prop_assert_eq!(shown.address(), proxy.address());
        }
    }
    Ok(())
}

/// What is said of a file shows nothing of it, whatever it should hold.
fn check_file(content: &str) -> Checked {
    let key = private_key(content).map(drop);
    for read in [check_jwt(content), check_certificates(content), key] {
        if let Err(wrong) = read {
            // No phrase has a word as long.
            let mut words = content.split_whitespace().filter(|word| word.len() >= 24);
            prop_assert!(!wrong.is_empty() && !words.any(|word| wrong.contains(word)), "{wrong}");
        }
    }
    Ok(())
}
