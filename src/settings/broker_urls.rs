//! `broker.url`: reads the addresses of RabbitMQ, and refuses what lapin would misread.

use lapin::uri::AMQPUri;
use url::{Host, Url};

use super::values::{Parsed, is_blank, refuse_if};

/// Seconds between heartbeats where the URL names none. A frozen broker is noticed after about
/// twice as long.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin would ignore others.
const PARAMETERS: [&str; 5] =
    ["heartbeat", "frame_max", "channel_max", "connection_timeout", "auth_mechanism"];

/// The value of `broker.url`: one URL, or several separated by commas, which are tried one after
/// the other.
#[derive(Clone, Copy, Debug)]
pub struct BrokerUrls;

/// Which URL of `broker.url` is wrong, and why. Never repeats any part of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {wrong}", which(*.position, *.count))]
pub struct BrokerUrlsError {
    /// From 1.
    pub position: usize,
    /// How many URLs there are.
    pub count: usize,
    /// What is wrong with it, as a phrase for people.
    pub wrong: &'static str,
}

fn which(position: usize, count: usize) -> String {
    if count == 1 { "it".to_owned() } else { format!("URL {position} of {count}") }
}

/// What is wrong with one URL. The phrases show nothing of it.
type Wrong = &'static str;

const NO_HOST: Wrong = "names no host";
/// Also for a password with one of these, which ends the URL or the host early.
const BAD_PORT: Wrong = "has a port that is not a number up to 65535; in user and password write , as %2C, / as %2F, \
                         # as %23, ? as %3F";
const BAD_VALUE: Wrong = "has a parameter, a user, a password or a vhost whose value cannot be used";

impl BrokerUrls {
    /// The URLs in the order in which they are tried; never an empty list.
    ///
    /// No path, or a bare `/`, is the vhost `/`. Without a user or a password, lapin uses `guest`.
    /// The URLs hold passwords, and `AMQPUri`'s `Debug` and `Display` show them.
    ///
    /// # Errors
    /// If one of them is not an AMQP URL, or lapin would silently read it as something else.
    pub fn parse(text: &str) -> Result<Vec<AMQPUri>, BrokerUrlsError> {
        each(text, |item| read(item).map(|(_, uri)| uri))
    }

    /// As [`parse`](Self::parse), with this password in the place of the URLs' own. Without a user in a URL, its user
    /// is empty: RabbitMQ takes the name from the token.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_with_password(text: &str, password: &str) -> Result<Vec<AMQPUri>, BrokerUrlsError> {
        each(text, |item| {
            let (url, mut uri) = read(item)?;
            let login = &mut uri.authority.userinfo;
            password.clone_into(&mut login.password);
            if url.username().is_empty() {
                login.username.clear();
            }
            Ok(uri)
        })
    }

    /// Whether each of the URLs has a password.
    pub(super) fn have_passwords(text: &str) -> Vec<bool> {
        each(text, |item| Ok(read(item)?.0.password().is_some())).unwrap_or_default()
    }

    /// The URLs with their passwords masked, for people; `***` alone if they cannot be read.
    pub fn masked(text: &str) -> String {
        let masked = each(text, |item| {
            let (mut url, _) = read(item)?;
            if url.password().is_some() {
                url.set_password(Some("***")).map_err(|()| NO_HOST)?;
            }
            Ok(url.to_string())
        });
        masked.map_or_else(|_| "***".into(), |urls| urls.join(","))
    }

    pub(super) fn check(text: &str) -> Parsed<()> {
        Self::parse(text).map(drop).map_err(|error| error.to_string())
    }
}

fn each<T>(text: &str, read: impl Fn(&str) -> Result<T, Wrong>) -> Result<Vec<T>, BrokerUrlsError> {
    let count = text.split(',').count();
    let one = |(item, position): (&str, usize)| {
        read(item.trim()).map_err(|wrong| BrokerUrlsError { position, count, wrong })
    };
    text.split(',').zip(1..).map(one).collect()
}

fn read(item: &str) -> Result<(Url, AMQPUri), Wrong> {
    // The URL parser would drop line breaks: two URLs on two lines would become one.
    let has_blank = item.contains(is_blank);
    let is_amqp = item.starts_with("amqp://") || item.starts_with("amqps://");
    refuse_if(item.is_empty(), "is empty: two commas in a row, or one at an end")?;
    refuse_if(has_blank, "contains a blank or a control character; several URLs are separated by commas")?;
    refuse_if(
        !is_amqp,
        "starts with neither amqp:// nor amqps://; a comma in user or password has to be written %2C",
    )?;
    let url = Url::parse(item).map_err(|error| match error {
        url::ParseError::EmptyHost => NO_HOST,
        url::ParseError::InvalidPort => BAD_PORT,
        _ => "is not a URL; in user and password these have to be percent-encoded: , / @ # ? % :",
    })?;
    // A password with a bare `/`, `?` or `#` ends the host early: the rest would be read as a vhost
    // or a parameter.
    let has_stray_at = [url.path(), url.query().unwrap_or_default()].iter().any(|part| part.contains('@'));
    let is_known = url.query_pairs().all(|(name, _)| PARAMETERS.contains(&&*name));
    refuse_if(url.port() == Some(0), "names port 0")?;
    refuse_if(
        url.fragment().is_some(),
        "contains a # after the host; in user and password it has to be written %23",
    )?;
    refuse_if(
        has_stray_at,
        "contains an @ after the host; in user and password write / as %2F and ? as %3F, in a vhost @ as %40",
    )?;
    refuse_if(
        !is_known,
        "has a parameter other than heartbeat, frame_max, channel_max, connection_timeout, auth_mechanism",
    )?;
    let mut uri: AMQPUri = item.parse().map_err(|_| BAD_VALUE)?;
    match url.host() {
        None | Some(Host::Domain("")) => return Err(NO_HOST),
        Some(Host::Domain(_)) => {}
        // lapin knows only names and would connect to localhost.
        Some(Host::Ipv6(address)) => uri.authority.host = address.to_string(),
        Some(Host::Ipv4(address)) => uri.authority.host = address.to_string(),
    }
    refuse_if(uri.authority.host.contains(is_blank), NO_HOST)?;
    // lapin reads "amqp://host/" as the vhost "", which does not exist.
    if uri.vhost.is_empty() {
        uri.vhost = "/".into();
    }
    refuse_if(uri.vhost.len() > 255, BAD_VALUE)?;
    // RabbitMQ 4 refuses smaller frames. 0 is "no limit".
    let has_small_frames = uri.query.frame_max.is_some_and(|bytes| (1..8192).contains(&bytes));
    refuse_if(has_small_frames, "has a frame_max below 8192, the smallest that RabbitMQ accepts")?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok((url, uri))
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

    fn wrong(text: &str) -> Wrong {
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
        for (text, expected) in [
            ("", "is empty"),
            ("amqp://a,", "is empty"),
            ("amqp://a,,amqp://b", "is empty"),
            ("amqp://a\namqp://b", "contains a blank"),
            ("http://a", "starts with neither"),
            ("a:5672", "starts with neither"),
            ("amqp://u:p,q@a", "has a port that"),
            ("amqp://", "names no host"),
            ("amqp:///v", "names no host"),
            ("amqp://u:p@/v", "names no host"),
            ("amqp://a:0", "names port 0"),
            ("amqp://a:99999", "has a port that"),
            ("amqp://u:pass/word@a", "has a port that"),
            ("amqp://u:1#2@a", "contains a #"),
            ("amqp://u:1/2@a", "contains an @"),
            ("amqp://u:1?2@a", "contains an @"),
            ("amqp://a?heartbeats=3", "has a parameter other"),
            ("amqp://a?heartbeat=fast", "has a parameter, a user"),
            ("amqp://a?heartbeat=", "has a parameter, a user"),
            ("amqp://u:%ff@a", "has a parameter, a user"),
            ("amqp://a?frame_max=100", "has a frame_max"),
        ] {
            assert!(wrong(text).starts_with(expected), "{text}: {}", wrong(text));
        }
    }

    #[test]
    fn an_error_names_the_position_and_never_shows_the_url() {
        let error = BrokerUrls::parse("amqp://a,hunter2:hunter2@hunter2").unwrap_err();
        assert!(error.to_string().starts_with("URL 2 of 2 starts with neither"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn a_token_takes_the_place_of_the_password_and_never_of_the_user_guest() {
        let urls = BrokerUrls::parse_with_password("amqp://h,amqps://u@h,amqp://u:p@h", "token").unwrap();
        let users: Vec<_> = urls.iter().map(|url| url.authority.userinfo.username.as_str()).collect();
        assert_eq!(users, ["", "u", "u"]);
        assert!(urls.iter().all(|url| url.authority.userinfo.password == "token"));
        assert_eq!(BrokerUrls::have_passwords("amqp://h,amqp://u:p@h"), [false, true]);
        assert_eq!(BrokerUrls::have_passwords("amqp://h,amqp://u@h"), [false, false]);
    }

    #[test]
    fn masking_hides_the_passwords_alone() {
        let shown =
            BrokerUrls::masked("amqp://u:hunter2@a:5672/v,amqps://u:hunter2@[::1]/?heartbeat=5, amqp://b");
        assert_eq!(shown, "amqp://u:***@a:5672/v,amqps://u:***@[::1]/?heartbeat=5,amqp://b");
        assert_eq!(BrokerUrls::masked("hunter2"), "***");
    }
}
