//! Sets cookies, and writes those of sessions anew while they are used.

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue,
        header::{COOKIE, SET_COOKIE},
    },
    middleware::Next,
    response::Response,
};

use super::{
    app::App,
    sessions::{COOKIE_NAME, Session},
};
use crate::message::Timestamp;

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let pairs = all.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// The cookie is `Secure` if a proxy in front says that the browser uses TLS. Browsers send it with a link from
/// another site, such as an alert or a chat, and with nothing else from there.
pub(super) fn set_cookie(response: &mut Response, is_tls: bool, name: &str, value: &str, path: &str) {
    let secure = if is_tls { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

pub(super) fn is_tls(headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    // Each proxy may add one; the first is the browser's.
    forwarded
        .and_then(|all| all.split(',').next())
        .is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
}

/// The session of a request, if it has not ended.
pub(super) fn session(app: &App, headers: &HeaderMap) -> Option<Session> {
    let session = Session::read(cookie(headers, COOKIE_NAME)?, &app.tokens, Timestamp::now())?;
    let is_logged_out = app.log.look(|records| records.is_logged_out(session.id()));
    (!is_logged_out).then_some(session)
}

/// Writes the cookie anew from time to time, unless the answer sets another one.
pub(super) async fn renew(State(app): State<App>, request: Request, next: Next) -> Response {
    let renewed = session(&app, request.headers()).and_then(|session| session.renewed(Timestamp::now()));
    let is_tls = is_tls(request.headers());
    let mut response = next.run(request).await;
    if let Some(cookie) = renewed.and_then(|session| session.cookie(&app.tokens))
        && !response.headers().contains_key(SET_COOKIE)
    {
        set_cookie(&mut response, is_tls, COOKIE_NAME, &cookie, "/");
    }
    response
}
