use std::error::Error;
use std::fmt::Write;

use lapin::uri::AMQPUri;
use url::{Host, Url};

/// Seconds between heartbeats where the URL names none. A frozen broker is noticed after about twice as long.
const HEARTBEAT_SECONDS: u16 = 10;
/// RabbitMQ 4 refuses smaller frames. 0 is "no limit".
const SMALLEST_FRAME_BYTES: u32 = 8192;
const PARAMETERS: [&str; 5] =
    ["heartbeat", "frame_max", "channel_max", "connection_timeout", "auth_mechanism"];

/// The value of `broker.url`: one URL, or several separated by commas, to be tried in turn.
#[derive(Clone, Copy, Debug)]
pub struct BrokerUrls;

/// Which URL of `broker.url` is wrong, and why. Never repeats any part of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("URL {position} of {count} {wrong}")]
pub struct BrokerUrlsError {
    /// From 1.
    pub position: usize,
    /// How many URLs there are.
    pub count: usize,
    /// What is wrong with it.
    pub wrong: BrokerUrlWrong,
}

/// What can be wrong with one broker URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlWrong {
    /// Two commas in a row, or one at an end.
    #[error("is empty: two commas in a row, or one at an end")]
    Empty,
    /// A blank or control character, such as a line break between two URLs.
    #[error("holds a blank or a control character; several URLs are separated by commas")]
    Blank,
    /// Not a URL.
    #[error("is not a URL; in user and password these have to be percent-encoded: , / @ # ? % :")]
    NotAUrl,
    /// Neither `amqp` nor `amqps`.
    #[error("starts with neither amqp:// nor amqps://; a comma in user or password has to be written %2C")]
    Scheme,
    /// No host, or one that no host can be called.
    #[error("names no host")]
    NoHost,
    /// Port 0.
    #[error("names port 0")]
    NoPort,
    /// A `#`: most likely a bare one in the password.
    #[error("holds a # after the host; in user and password it has to be written %23")]
    Fragment,
    /// An `@` after the host: most likely the password holds a bare `/` or `?`.
    #[error(
        "holds an @ after the host; in user and password / has to be written %2F and ? %3F, in a vhost @ is %40"
    )]
    StrayAt,
    /// A parameter that lapin would ignore.
    #[error(
        "has a parameter other than heartbeat, frame_max, channel_max, connection_timeout, auth_mechanism"
    )]
    UnknownParameter,
    /// A part whose value cannot be used, such as `heartbeat=fast`.
    #[error("has a parameter, a user, a password or a vhost whose value cannot be used")]
    Value,
    /// Frames smaller than RabbitMQ takes.
    #[error("has a frame_max below 8192, the least RabbitMQ takes")]
    FrameMax,
}

impl BrokerUrls {
    /// The URLs in the order in which they are tried; never an empty list.
    ///
    /// No path, or a bare `/`, is the vhost `/`. Without a user lapin takes `guest`, without a password `guest`.
    /// The URLs hold passwords, and `AMQPUri`'s `Debug` and `Display` show them.
    ///
    /// # Errors
    /// If one of them is not an AMQP URL, or is one that lapin would silently take for something else.
    pub fn parse(text: &str) -> Result<Vec<AMQPUri>, BrokerUrlsError> {
        each(text, |item| read(item).map(|(_, uri)| uri))
    }

    /// The URLs with their passwords masked, for people; `***` alone if they cannot be read.
    pub fn masked(text: &str) -> String {
        let masked = each(text, |item| {
            let (mut url, _) = read(item)?;
            if url.password().is_some() {
                url.set_password(Some("***")).map_err(|()| BrokerUrlWrong::NoHost)?;
            }
            Ok(url)
        });
        let Ok(urls) = masked else {
            return "***".into();
        };
        let mut shown = String::new();
        for url in urls {
            let separator = if shown.is_empty() { "" } else { "," };
            // Writing to a String never fails.
            write!(shown, "{separator}{url}").ok();
        }
        shown
    }

    pub(super) fn check(text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        Self::parse(text)?;
        Ok(())
    }
}

fn each<T>(text: &str, read: impl Fn(&str) -> Result<T, BrokerUrlWrong>) -> Result<Vec<T>, BrokerUrlsError> {
    let count = text.split(',').count();
    let numbered = text.split(',').enumerate();
    numbered
        .map(|(index, item)| {
            let position = index + 1;
            read(item.trim()).map_err(|wrong| BrokerUrlsError { position, count, wrong })
        })
        .collect()
}

fn read(item: &str) -> Result<(Url, AMQPUri), BrokerUrlWrong> {
    if item.is_empty() {
        return Err(BrokerUrlWrong::Empty);
    }
    // The URL parser would drop line breaks: two URLs on two lines would become one.
    if item.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(BrokerUrlWrong::Blank);
    }
    if !item.starts_with("amqp://") && !item.starts_with("amqps://") {
        return Err(BrokerUrlWrong::Scheme);
    }
    let url = Url::parse(item).map_err(|error| match error {
        url::ParseError::EmptyHost => BrokerUrlWrong::NoHost,
        _ => BrokerUrlWrong::NotAUrl,
    })?;
    refuse_misreadings(&url)?;
    let mut uri: AMQPUri = item.parse().map_err(|_| BrokerUrlWrong::Value)?;
    match url.host() {
        None | Some(Host::Domain("")) => return Err(BrokerUrlWrong::NoHost),
        Some(Host::Domain(_)) => {}
        // lapin knows names alone and would connect to localhost.
        Some(Host::Ipv6(address)) => uri.authority.host = address.to_string(),
        Some(Host::Ipv4(address)) => uri.authority.host = address.to_string(),
    }
    if uri.authority.host.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(BrokerUrlWrong::NoHost);
    }
    // lapin reads "amqp://host/" as the vhost "", which nobody has.
    if uri.vhost.is_empty() {
        uri.vhost = "/".into();
    }
    if uri.vhost.len() > 255 {
        return Err(BrokerUrlWrong::Value);
    }
    if uri.query.frame_max.is_some_and(|bytes| bytes != 0 && bytes < SMALLEST_FRAME_BYTES) {
        return Err(BrokerUrlWrong::FrameMax);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok((url, uri))
}

/// A password with a bare `/`, `?` or `#` ends the host early: the rest would pass for a vhost or a parameter.
fn refuse_misreadings(url: &Url) -> Result<(), BrokerUrlWrong> {
    if url.port() == Some(0) {
        return Err(BrokerUrlWrong::NoPort);
    }
    if url.fragment().is_some() {
        return Err(BrokerUrlWrong::Fragment);
    }
    if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) {
        return Err(BrokerUrlWrong::StrayAt);
    }
    let known =
        |(name, _): (_, _)| PARAMETERS.contains(&AsRef::<str>::as_ref(&name as &std::borrow::Cow<'_, str>));
    if !url.query_pairs().all(known) {
        return Err(BrokerUrlWrong::UnknownParameter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lapin::uri::AMQPScheme;

    use super::*;

    fn one(text: &str) -> AMQPUri {
        let mut uris = BrokerUrls::parse(text).unwrap();
        assert_eq!(uris.len(), 1);
        uris.remove(0)
    }

    fn wrong(text: &str) -> BrokerUrlWrong {
        BrokerUrls::parse(text).unwrap_err().wrong
    }

    #[test]
    fn an_ipv6_host_is_not_taken_for_localhost() {
        let uri = one("amqp://u:p@[::1]:5673/v");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("::1", 5673));
        assert_eq!(one("amqps://[2001:db8::7]").authority.host, "2001:db8::7");
    }

    #[test]
    fn hosts_ports_users_and_vhosts_are_read() {
        let uri = one("amqps://us%2Fer:p%40ss%2C@rabbit.example.com/v%2fh");
        assert_eq!(uri.scheme, AMQPScheme::AMQPS);
        assert_eq!(uri.authority.userinfo.username, "us/er");
        assert_eq!(uri.authority.userinfo.password, "p@ss,");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("rabbit.example.com", 5671));
        assert_eq!(uri.vhost, "v/h");
        assert_eq!(one("amqp://10.0.0.7").authority.host, "10.0.0.7");
    }

    #[test]
    fn no_path_a_bare_slash_and_percent_2f_are_the_vhost_slash() {
        for text in ["amqp://h", "amqp://h/", "amqp://h/%2f", "amqp://h?heartbeat=5", "amqp://h/?heartbeat=5"]
        {
            assert_eq!(one(text).vhost, "/", "{text}");
        }
    }

    #[test]
    fn the_heartbeat_is_ten_seconds_unless_the_url_sets_it() {
        assert_eq!(one("amqp://h").query.heartbeat, Some(10));
        assert_eq!(one("amqp://h?heartbeat=30").query.heartbeat, Some(30));
        assert_eq!(one("amqp://h?heartbeat=0").query.heartbeat, Some(0));
    }

    #[test]
    fn several_urls_keep_their_order() {
        let uris = BrokerUrls::parse("amqp://a, amqps://b ,amqp://c").unwrap();
        let hosts: Vec<_> = uris.iter().map(|uri| uri.authority.host.as_str()).collect();
        assert_eq!(hosts, ["a", "b", "c"]);
    }

    #[test]
    fn what_lapin_would_misread_is_refused() {
        use BrokerUrlWrong as Wrong;
        for (text, expected) in [
            ("", Wrong::Empty),
            ("amqp://a,", Wrong::Empty),
            ("amqp://a,,amqp://b", Wrong::Empty),
            ("amqp://a\namqp://b", Wrong::Blank),
            ("http://a", Wrong::Scheme),
            ("a:5672", Wrong::Scheme),
            ("amqp://u:p,q@a", Wrong::NotAUrl),
            ("amqp://", Wrong::NoHost),
            ("amqp:///v", Wrong::NoHost),
            ("amqp://u:p@/v", Wrong::NoHost),
            ("amqp://a:0", Wrong::NoPort),
            ("amqp://a:99999", Wrong::NotAUrl),
            ("amqp://u:1#2@a", Wrong::Fragment),
            ("amqp://u:1/2@a", Wrong::StrayAt),
            ("amqp://u:1?2@a", Wrong::StrayAt),
            ("amqp://a?heartbeats=3", Wrong::UnknownParameter),
            ("amqp://a?heartbeat=fast", Wrong::Value),
            ("amqp://a?heartbeat=", Wrong::Value),
            ("amqp://u:%ff@a", Wrong::Value),
            ("amqp://a?frame_max=100", Wrong::FrameMax),
        ] {
            assert_eq!(wrong(text), expected, "{text}");
        }
    }

    #[test]
    fn an_error_names_the_position_and_never_shows_the_url() {
        let error = BrokerUrls::parse("amqp://a,hunter2:hunter2@hunter2").unwrap_err();
        assert!(error.to_string().starts_with("URL 2 of 2 starts with neither"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn masking_hides_the_passwords_alone() {
        let shown =
            BrokerUrls::masked("amqp://u:hunter2@a:5672/v,amqps://u:hunter2@[::1]/?heartbeat=5, amqp://b");
        assert_eq!(shown, "amqp://u:***@a:5672/v,amqps://u:***@[::1]/?heartbeat=5,amqp://b");
        assert_eq!(BrokerUrls::masked("hunter2"), "***");
    }
}
