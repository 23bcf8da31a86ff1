//! Log in with a name and a token, and log out.

use std::time::Instant;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

use super::{
    access::{self, User, is_random, random, same_text},
    app::App,
    events::Event,
    fields::Fields,
    page_layout::PageLayout,
    page_user::SignedForm,
    problem::{Problem, render},
    session_cookie::{cookie, is_tls, session, set_cookie},
    sessions::{COOKIE_NAME, Session},
};
use crate::{http::Peer, message::Timestamp};

/// Ties the login form to the browser that received it.
const LOGIN_COOKIE: &str = "unlocker_login";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    layout: PageLayout,
    /// Why the last attempt failed.
    wrong: Option<String>,
    name: String,
    to: String,
    anyone_may_read: bool,
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
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let get = |name| fields.get(name).unwrap_or_default();
    let (name, to) = (get("name"), get("to"));
    let wrong = |status, wrong: &str| page(&app, &headers, status, Some(wrong.to_owned()), name, to);
    let is_own_form = cookie(&headers, LOGIN_COOKIE).is_some_and(|cookie| same_text(cookie, get("csrf")));
    if !is_own_form {
        return wrong(
            StatusCode::FORBIDDEN,
            "This form belongs to another browser, or cookies are off. Try again.",
        );
    }
    let Some(name) = access::name(name) else {
        return wrong(StatusCode::BAD_REQUEST, "Enter your name, at most 64 characters.");
    };
    let role = match app.throttle.attempt(peer.ip(), Instant::now(), || app.tokens.role_of(get("token"))) {
        Ok(Some(role)) => role,
        Ok(None) => {
            tracing::warn!(event = "wrong_token", address = %peer.ip(), "wrong token at the console");
            return wrong(StatusCode::UNAUTHORIZED, "This token is neither the viewer's nor the operator's.");
        }
        Err(wait) => {
            let sentence = format!("There were {wait}.");
            let mut response = wrong(StatusCode::TOO_MANY_REQUESTS, &sentence);
            response.headers_mut().insert("retry-after", wait.seconds().into());
            return response;
        }
    };
    end_session(&app, &headers).await;
    let session = match Session::start(User { name, role }, Timestamp::now()) {
        Ok(session) => session,
        Err(error) => return Problem::internal(&error).page(),
    };
    let mut response = Redirect::to(local(to)).into_response();
    if let Some(value) = session.cookie(&app.tokens) {
        set_cookie(&mut response, is_tls(&headers), COOKIE_NAME, &value, "/");
    }
    response
}

async fn log_out(State(app): State<App>, headers: HeaderMap, _signed: SignedForm) -> Response {
    end_session(&app, &headers).await;
    let mut response = Redirect::to("/login").into_response();
    set_cookie(&mut response, is_tls(&headers), COOKIE_NAME, "; Max-Age=0", "/");
    response
}

/// Ends the session of this browser, if there is one, in all processes. While RabbitMQ is away the others learn
/// nothing, and the browser only forgets its cookie.
async fn end_session(app: &App, headers: &HeaderMap) {
    let Some(session) = session(app, headers) else { return };
    let event = Event::LoggedOut { session: session.id().to_owned() };
    app.log.note(event.clone());
    if let Err(error) = app.log.append(event).await {
        tracing::warn!(event = "logout_not_stored", %error, "a logout is not known to the other consoles");
    }
}

fn page(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    wrong: Option<String>,
    name: &str,
    to: &str,
) -> Response {
    // A form in another tab of this browser stays good.
    let known = cookie(headers, LOGIN_COOKIE).filter(|known| is_random(known)).map(str::to_owned);
    let csrf = match known.map_or_else(random, Ok) {
        Ok(csrf) => csrf,
        Err(error) => return Problem::internal(&error).page(),
    };
    let page = LoginPage {
        layout: PageLayout { title: "Log in".to_owned(), csrf: csrf.clone(), ..PageLayout::default() },
        wrong,
        name: name.to_owned(),
        to: local(to).to_owned(),
        anyone_may_read: app.tokens.anyone_may_read(),
        operator_is_set: app.tokens.operator_is_set(),
    };
    let mut response = (status, render(&page)).into_response();
    set_cookie(&mut response, is_tls(headers), LOGIN_COOKIE, &csrf, "/login");
    response
}

/// Returns the path if it stays on this page, else `/`.
fn local(to: &str) -> &str {
    let plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if plain && to.starts_with('/') && !to.starts_with("//") { to } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn a_login_never_redirects_to_another_site() {
        for own in ["/", "/dead-letters?status=refused&page=2"] {
            assert_eq!(local(own), own);
        }
        for other in
            ["", "dead_letters", "//evil.example", "https://evil.example/", "/\\evil.example", "/\r\nx: y"]
        {
            assert_eq!(local(other), "/", "{other:?}");
        }
    }
}
