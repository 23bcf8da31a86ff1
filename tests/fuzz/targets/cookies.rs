//! Cookies of the console's sessions, from the request to the page.

use axum::{
    body::{self, Body},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use trackfinity_unlocker::{
    console::Console,
    http::{Handler, Peer, Slot},
    settings::ConsoleSettings,
    telemetry::ConsoleTelemetry,
};

use super::{Checked, text::Text};

const SESSION: &str = "unlocker_session";
/// Each role with its token.
const ROLES: [(&str, &str); 2] =
    [("viewer", "viewer-0123456789abcdef"), ("operator", "operator-0123456789abcdef")];

/// A console, and the cookies that it gave.
struct Site {
    runtime: tokio::runtime::Runtime,
    answer: Box<dyn Fn(Request) -> BoxFuture<'static, Response>>,
    host: String,
    /// By role.
    given: Vec<(&'static str, String)>,
}

thread_local! {
    static SITE: Site = Site::new();
}

impl Site {
    fn new() -> Self {
        let set = |name: &str, value: &str| (format!("UNLOCKER__{name}"), value.to_owned());
        let environment = [
            set("CONSOLE__LISTEN", "127.0.0.1:0"),
            set("CONSOLE__VIEWER_TOKEN", ROLES[0].1),
            set("CONSOLE__OPERATOR_TOKEN", ROLES[1].1),
            set("OPS__LISTEN", ""),
        ];
        let settings = ConsoleSettings::load(&[], environment).unwrap_or_else(|faults| panic!("{faults}"));
        let telemetry = ConsoleTelemetry::from_environment().expect("telemetry");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let console = Console::new(&settings, telemetry).expect("a console");
        let (host, handler) = (console.address.to_string(), console.handler());
        drop(entered);
        let answer = move |request| -> BoxFuture<'static, Response> {
            let handler = handler.clone();
            let peer = Peer(([127, 0, 0, 1], 4711).into());
            Box::pin(async move { handler.answer(request, peer, &Slot::detached()).await })
        };
        let mut site = Self { runtime, answer: Box::new(answer), host, given: Vec::new() };
        site.given = ROLES.iter().map(|(role, token)| (*role, site.log_in(role, token))).collect();
        site
    }

    fn ask(&self, method: Method, path: &str, cookies: HeaderMap, body: &str) -> Response {
        let mut request = Request::new(Body::from(body.to_owned()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        *request.headers_mut() = cookies;
        let mut set = |name: HeaderName, value: &str| {
            request.headers_mut().insert(name, value.parse().expect("a value"))
        };
        set(header::HOST, &self.host);
        set(header::ORIGIN, &format!("http://{}", self.host));
        set(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.runtime.block_on((self.answer)(request))
    }

    /// The value of the session's cookie.
    fn log_in(&self, role: &str, token: &str) -> String {
        let form = self.ask(Method::GET, "/login", HeaderMap::new(), "");
        let csrf = cookie_of(&form);
        let (name, csrf) = csrf.split_once('=').expect("a cookie");
        let cookies =
            HeaderMap::from_iter([(header::COOKIE, format!("{name}={csrf}").parse().expect("a value"))]);
        let body = format!("name=Fuzz&token={token}&csrf={csrf}&to=/");
        let answer = self.ask(Method::POST, "/login", cookies, &body);
        let given = cookie_of(&answer);
        let value = given.strip_prefix(SESSION).and_then(|rest| rest.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no session of a {role}: {answer:?}")).to_owned()
    }
}

/// The first cookie that an answer sets, without its attributes.
fn cookie_of(answer: &Response) -> String {
    let set = answer.headers().get(header::SET_COOKIE).and_then(|value| value.to_str().ok());
    set.and_then(|set| set.split(';').next()).unwrap_or_default().to_owned()
}

/// Each line is a header `Cookie`. In it, `{viewer}` and `{operator}` stand for the cookie that the console gave.
pub fn check_bytes(bytes: &[u8]) -> Checked {
    SITE.with(|site| {
        let mut headers = HeaderMap::new();
        for (name, value) in Text::parse(bytes).lines() {
            let Ok(mut value) = String::from_utf8(value.to_vec()) else { continue };
            for (role, cookie) in &site.given {
                value = value.replace(&format!("{{{role}}}"), cookie);
            }
            if let (b"cookie", Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.append(header::COOKIE, value);
            }
        }
        let expected = role(site, &headers);
        let answer = site.ask(Method::GET, "/search", headers, "");
        let (head, body) = answer.into_parts();
        prop_assert!(head.headers.contains_key(header::CONTENT_SECURITY_POLICY));
        let Some(role) = expected else {
            prop_assert_eq!(head.status, StatusCode::SEE_OTHER, "not to the login");
            prop_assert!(!head.headers.contains_key(header::SET_COOKIE));
            return Ok(());
        };
        prop_assert_eq!(head.status, StatusCode::OK);
        let body = site.runtime.block_on(body::to_bytes(body, usize::MAX)).expect("a page");
        let user = format!("Fuzz ({role})");
        prop_assert!(String::from_utf8_lossy(&body).contains(&user), "no {user}");
        Ok(())
    })
}

/// Whose session it is: the first cookie of that name counts.
fn role<'a>(site: &'a Site, headers: &HeaderMap) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = cookies.into_iter().find(|(name, _)| *name == SESSION)?.1;
    site.given.iter().find(|(_, given)| given == value).map(|(role, _)| *role)
}
