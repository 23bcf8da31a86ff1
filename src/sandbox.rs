//! A fake Trackfinity for development and staging: its two endpoints, with configurable latency and
//! failures.

mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

use self::script::Script;
use crate::message::{Identifiers, Timestamp};

/// How the fake Trackfinity behaves.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// How long each response takes.
    pub latency: Duration,
    /// Which shares of the calls fail, and with which status.
    pub fail: Vec<Failure>,
    /// The identifiers that exist; all others get a 404. `None`: all exist.
    pub locked_customers: Option<BTreeSet<String>>,
    /// The statuses of the first calls with an identifier.
    pub first: Vec<FirstAnswers>,
    /// Identifiers such as `refused-1` or `404404` say how they are answered; see docs/testing.md. The
    /// slow ones are answered after this long. `None`: they are identifiers as all others.
    pub scripted: Option<Duration>,
    /// The expected key; any other gets a 401. `None`: any key is accepted.
    pub api_key: Option<String>,
    /// Print nothing.
    pub quiet: bool,
}

/// `STATUS:SHARE`, such as `503:0.1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failure {
    pub status: StatusCode,
    /// 0 to 1.
    pub share: f64,
}

impl FromStr for Failure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (status, share) = text.split_once(':').ok_or("not STATUS:SHARE, such as 503:0.1")?;
        let share = share.parse().map_err(|_error| format!("{share} is not a number"))?;
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("{share} is not between 0 and 1"));
        }
        Ok(Self { status: parse_status(status)?, share })
    }
}

/// `IDENTIFIER=STATUS,STATUS…`, such as `191=503,503`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAnswers {
    pub identifier: String,
    pub statuses: Vec<StatusCode>,
}

impl FromStr for FirstAnswers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (identifier, statuses) =
            text.rsplit_once('=').ok_or("not IDENTIFIER=STATUS,STATUS…, such as 191=503,503")?;
        let statuses = statuses.split(',').map(parse_status).collect::<Result<_, _>>()?;
        Ok(Self { identifier: identifier.to_owned(), statuses })
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    text.trim().parse().map_err(|_error| format!("{text} is not an HTTP status"))
}

struct Reply {
    status: StatusCode,
    /// JSON.
    text: String,
    latency: Duration,
}

struct Running {
    sandbox: Sandbox,
    /// The number of calls per identifier, for the first answers and the scripted ones.
    calls: Mutex<BTreeMap<String, usize>>,
}

impl Sandbox {
    /// Serves on `listener` until `stop` is done.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let running = Arc::new(Running { sandbox: self, calls: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(running);
        axum::serve(listener, router).with_graceful_shutdown(stop).await
    }

    /// Binds `address`, port 0 for a free one.
    ///
    /// # Errors
    /// If the address is in use, or does not belong to this machine.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }
}

async fn answer(
    State(running): State<Arc<Running>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let Reply { status, text, latency } = running.decide(&method, uri.path(), &headers, &form);
    tokio::time::sleep(latency).await;
    if !running.sandbox.quiet {
        print_call(&method, uri.path(), &form, status, &text);
    }
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

impl Running {
    fn decide(&self, method: &Method, path: &str, headers: &HeaderMap, form: &[(String, String)]) -> Reply {
        let latency = self.sandbox.latency;
        let reply = |status, text: String| Reply { status, text, latency };
        let error = |status, text: &str| reply(status, serde_json::json!({ "error": text }).to_string());
        let unlock = path.ends_with("/api/customer/unlock");
        if !unlock && !path.ends_with("/api/service/ping") {
            return error(StatusCode::NOT_FOUND, "no such endpoint");
        }
        if let Err(text) = self.authorize(headers) {
            return error(StatusCode::UNAUTHORIZED, text);
        }
        if !unlock {
            return reply(StatusCode::OK, "true".to_owned());
        }
        if method != Method::PATCH {
            return error(StatusCode::METHOD_NOT_ALLOWED, "PATCH is the method");
        }
        let given: Vec<&str> = form
            .iter()
            .filter(|(name, value)| Identifiers::FIELDS.contains(&name.as_str()) && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect();
        if given.is_empty() {
            return error(StatusCode::BAD_REQUEST, "customer_id, subscription_id or orderid is needed");
        }
        if let Some(scripted) = self.scripted(&given) {
            return scripted;
        }
        if let Some(status) = self.first_answer(&given).or_else(|| self.failure()) {
            return error(status, "failing on demand");
        }
        match &self.sandbox.locked_customers {
            Some(known) if !given.iter().any(|identifier| known.contains(*identifier)) => {
                error(StatusCode::NOT_FOUND, "no such customer")
            }
            _ => reply(StatusCode::OK, "true".to_owned()),
        }
    }

    fn scripted(&self, given: &[&str]) -> Option<Reply> {
        let slow = self.sandbox.scripted?;
        let (script, identifier) =
            given.iter().find_map(|identifier| Some((Script::parse(identifier)?, *identifier)))?;
        let status = script.status(self.count_call(identifier));
        let text = match status {
            StatusCode::OK => "true".to_owned(),
            _ => serde_json::json!({ "error": format!("{identifier} asks for it") }).to_string(),
        };
        let latency = if script.is_slow { slow } else { self.sandbox.latency };
        Some(Reply { status, text, latency })
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let key = headers.get("api-key").ok_or("the header api-key is missing")?;
        if !headers.contains_key("api-username") {
            return Err("the header api-username is missing");
        }
        match &self.sandbox.api_key {
            Some(expected) if key.as_bytes() != expected.as_bytes() => Err("this is not the key"),
            _ => Ok(()),
        }
    }

    fn first_answer(&self, given: &[&str]) -> Option<StatusCode> {
        let first = self.sandbox.first.iter().find(|first| given.contains(&first.identifier.as_str()))?;
        first.statuses.get(self.count_call(&first.identifier)).copied()
    }

    /// How many calls with this identifier there were before this one.
    fn count_call(&self, identifier: &str) -> usize {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(identifier.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    fn failure(&self) -> Option<StatusCode> {
        let mut dice = fastrand::f64();
        self.sandbox.fail.iter().find_map(|failure| {
            dice -= failure.share;
            (dice < 0.0).then_some(failure.status)
        })
    }
}

fn print_call(method: &Method, path: &str, form: &[(String, String)], status: StatusCode, text: &str) {
    let fields: Vec<_> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let line =
        format!("{}  {method} {path}  {}  {}  {text}\n", Timestamp::now(), fields.join(" "), status.as_u16());
    // If no one reads stdout any more, the sandbox continues without it.
    drop(std::io::stdout().lock().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(sandbox: Sandbox) -> Running {
        Running { sandbox, calls: Mutex::default() }
    }

    fn unlock(running: &Running, form: &[(&str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert("api-key", "k".parse().expect("a header"));
        headers.insert("api-username", "u".parse().expect("a header"));
        let form: Vec<_> =
            form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        running.decide(&Method::PATCH, "/api/customer/unlock", &headers, &form).status.as_u16()
    }

    #[test]
    fn it_answers_as_trackfinity_does() {
        let locked_customers = Some(BTreeSet::from(["191".to_owned()]));
        let sandbox = running(Sandbox { locked_customers, ..Sandbox::default() });
        assert_eq!(unlock(&sandbox, &[("customer_id", "191")]), 200);
        assert_eq!(unlock(&sandbox, &[("orderid", "191")]), 200);
        assert_eq!(unlock(&sandbox, &[("customer_id", "192")]), 404);
        assert_eq!(unlock(&sandbox, &[("customer_id", "")]), 400);
        let reply = sandbox.decide(&Method::GET, "/api/service/ping", &HeaderMap::new(), &[]);
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn the_first_answers_come_first() {
        let first = vec!["7=503,429".parse().expect("first answers")];
        let sandbox = running(Sandbox { first, ..Sandbox::default() });
        let statuses: Vec<_> = (0..3).map(|_| unlock(&sandbox, &[("orderid", "7")])).collect();
        assert_eq!(statuses, [503, 429, 200]);
    }

    #[test]
    fn scripted_identifiers_are_answered_as_they_say_only_where_it_is_asked_for() {
        let by_script = running(Sandbox { scripted: Some(Duration::ZERO), ..Sandbox::default() });
        let calls = |sandbox: &Running| [0; 3].map(|_| unlock(sandbox, &[("customer_id", "flaky-1")]));
        assert_eq!(calls(&by_script), [503, 200, 503]);
        assert_eq!(unlock(&by_script, &[("customer_id", "191"), ("orderid", "refused-1")]), 404);
        assert_eq!(unlock(&by_script, &[("customer_id", "191")]), 200);
        assert_eq!(calls(&running(Sandbox::default())), [200; 3]);
    }

    #[test]
    fn a_share_of_one_always_fails_and_nonsense_is_named() {
        let fail = vec!["503:1".parse().expect("a failure")];
        let sandbox = running(Sandbox { fail, ..Sandbox::default() });
        assert_eq!(unlock(&sandbox, &[("orderid", "7")]), 503);
        for nonsense in ["503", "503:2", "5:0.1", "x:0.1", "503:x"] {
            assert!(nonsense.parse::<Failure>().is_err(), "{nonsense}");
        }
    }
}
