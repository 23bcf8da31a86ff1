//! Logging in, with a name and a token, and out.

use std::{net::SocketAddr, time::Instant};

use askama::Template;
use axum::{
    Router,
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header::SET_COOKIE},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

use super::{
    App,
    access::{self, Person, random, same_text},
    frame::Frame,
    problem::{Problem, render},
    visitor::{COOKIE_NAME, Fields, Signed, cookie},
};

/// Ties the form of a login to the browser that it was written for.
const LOGIN_COOKIE: &str = "unlocker_login";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    /// What was wrong with the last attempt.
    wrong: Option<String>,
    name: String,
    to: String,
    looking_is_free: bool,
    operator_is_set: bool,
}

pub(super) fn router() -> Router<App> {
    Router::new().route("/login", get(form).post(log_in)).route("/logout", post(log_out))
}

async fn form(State(app): State<App>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    page(&app, &headers, StatusCode::OK, None, "", fields.get("to").unwrap_or("/"))
}

async fn log_in(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let get = |name| fields.get(name).unwrap_or_default();
    let (name, to) = (get("name"), get("to"));
    let wrong = |status, wrong: &str| page(&app, &headers, status, Some(wrong.to_owned()), name, to);
    let written_for_this =
        cookie(&headers, LOGIN_COOKIE).is_some_and(|cookie| same_text(cookie, get("csrf")));
    if !written_for_this {
        return wrong(
            StatusCode::FORBIDDEN,
            "This form was not written for this browser, or cookies are off. Try again.",
        );
    }
    let Some(name) = access::name(name) else {
        return wrong(StatusCode::BAD_REQUEST, "Give your name, of at most 64 characters.");
    };
    let role = match app.attempts.attempt(peer.ip(), Instant::now(), || app.tokens.role_of(get("token"))) {
        Ok(Some(role)) => role,
        Ok(None) => {
            tracing::warn!(address = %peer.ip(), "somebody gave a wrong token at the dead-letter page");
            return wrong(StatusCode::UNAUTHORIZED, "This token is neither the viewer's nor the operator's.");
        }
        Err(wait) => {
            let said = format!("There were {wait}.");
            let mut response = wrong(StatusCode::TOO_MANY_REQUESTS, &said);
            response.headers_mut().insert("retry-after", wait.0.as_secs().max(1).into());
            return response;
        }
    };
    // Whoever was logged in here before no longer is.
    if let Some(key) = cookie(&headers, COOKIE_NAME) {
        app.sessions.end(key);
    }
    match app.sessions.begin(Person { name, role }, &app.tokens, Instant::now()) {
        Ok(key) => {
            let mut response = Redirect::to(local(to)).into_response();
            set_cookie(&mut response, &headers, COOKIE_NAME, &key, "/");
            response
        }
        Err(error) => Problem::internal(&error).page(),
    }
}

async fn log_out(State(app): State<App>, headers: HeaderMap, _signed: Signed) -> Response {
    if let Some(key) = cookie(&headers, COOKIE_NAME) {
        app.sessions.end(key);
    }
    let mut response = Redirect::to("/login").into_response();
    set_cookie(&mut response, &headers, COOKIE_NAME, "; Max-Age=0", "/");
    response
}

fn page(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    wrong: Option<String>,
    name: &str,
    to: &str,
) -> Response {
    let csrf = match random() {
        Ok(csrf) => csrf,
        Err(error) => return Problem::internal(&error).page(),
    };
    let page = LoginPage {
        frame: Frame { title: "Log in".to_owned(), csrf: csrf.clone(), ..Frame::default() },
        wrong,
        name: name.to_owned(),
        to: local(to).to_owned(),
        looking_is_free: app.tokens.looking_is_free(),
        operator_is_set: app.tokens.operator_is_set(),
    };
    let mut response = (status, render(&page)).into_response();
    set_cookie(&mut response, headers, LOGIN_COOKIE, &csrf, "/login");
    response
}

/// A path of this page, and nothing that leads elsewhere.
fn local(to: &str) -> &str {
    let plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if plain && to.starts_with('/') && !to.starts_with("//") { to } else { "/" }
}

/// Over TLS, as a proxy in front says, the cookie is for TLS alone.
fn set_cookie(response: &mut Response, headers: &HeaderMap, name: &str, value: &str, path: &str) {
    let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes() == b"https");
    let secure = if is_tls { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn after_a_login_nobody_is_led_elsewhere() {
        for own in ["/", "/letters?status=refused&page=2"] {
            assert_eq!(local(own), own);
        }
        for other in
            ["", "letters", "//evil.example", "https://evil.example/", "/\\evil.example", "/\r\nx: y"]
        {
            assert_eq!(local(other), "/", "{other:?}");
        }
    }
}
