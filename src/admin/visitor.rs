//! Who a page's request comes from, by its cookie; and forms that this page itself wrote.

use std::time::Instant;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header::COOKIE, request::Parts},
    response::{IntoResponse, Redirect, Response},
};

use super::{App, access::Person, problem::Problem, sessions::Session};
use crate::dead_letters::Actor;

/// The cookie of a session.
pub(super) const COOKIE_NAME: &str = "unlocker_session";

/// One who may look.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) person: Person,
    /// None where looking is free.
    pub(super) session: Option<Session>,
    pub(super) may_log_in: bool,
}

impl Visitor {
    pub(super) fn actor(&self) -> Actor {
        self.person.actor("page")
    }

    /// The visitor of a request, if they may look.
    fn of(app: &App, headers: &HeaderMap) -> Option<Self> {
        let session =
            cookie(headers, COOKIE_NAME).and_then(|key| app.sessions.find(key, &app.tokens, Instant::now()));
        let person = match &session {
            Some(session) => session.person.clone(),
            None if app.tokens.looking_is_free() => Person::unknown(),
            None => return None,
        };
        Some(Self { person, session, may_log_in: app.tokens.are_set() })
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        Self::of(app, &parts.headers).ok_or_else(|| {
            let asked = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut query = form_urlencoded::Serializer::new(String::new());
            Redirect::to(&format!("/login?{}", query.append_pair("to", asked).finish())).into_response()
        })
    }
}

/// A form that somebody logged in sent from one of this page's own forms.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) visitor: Visitor,
    pub(super) fields: Fields,
}

impl Signed {
    /// Its sender, who has to be an operator.
    pub(super) fn operator(&self) -> Result<Actor, Problem> {
        if self.visitor.person.is_operator() { Ok(self.visitor.actor()) } else { Err(Problem::no_operator()) }
    }
}

impl FromRequest<App> for Signed {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let visitor = Visitor::of(app, request.headers());
        let fields = Fields::from_request(request, app).await?;
        let Some((visitor, session)) =
            visitor.and_then(|visitor| visitor.session.clone().map(|session| (visitor, session)))
        else {
            let advice = match app.tokens.operator_is_set() {
                true => "Log in with the operator's token, and try again.",
                false => "Nobody can: set admin.operator_token (or admin.operator_token_file) first.",
            };
            let what = "You are not logged in, or no longer.";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "not_logged_in", what, advice));
        };
        if !session.wrote(fields.get("csrf").unwrap_or_default()) {
            let what = "This form was not written for you.";
            let advice = "Nothing was done. Go back, load the page again, and retry.";
            return Err(Problem::new(StatusCode::FORBIDDEN, "csrf", what, advice));
        }
        Ok(Self { visitor, fields })
    }
}

/// The fields of a form or a query, in their order; a name may come several times.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first field of this name that holds something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().filter(|(own, _)| own == name);
        named.map(|(_, value)| value.trim()).find(|value| !value.is_empty())
    }

    /// All fields of this name that hold something.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(own, _)| own == name);
        named.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(axum::http::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
            return Err(Problem::bad_request("This is not a form."));
        }
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| {
            let what = format!("The form cannot be read: {}.", rejection.body_text());
            Problem::new(
                rejection.status(),
                "bad_request",
                what,
                "Tick fewer letters, or filter them instead.",
            )
        })?;
        Ok(Self::parse(&body))
    }
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
}
