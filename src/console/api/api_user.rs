//! The user of an API call, found by a token in a header. Cookies are ignored, because other sites
//! can make a browser send cookies but not this header.

use std::time::Instant;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::{
    console::{
        access::{self, User},
        app::App,
        problem::Problem,
    },
    dead_letters::Actor,
    http::{self, Peer},
};

/// A user who may call the API.
#[derive(Debug)]
pub(super) struct ApiUser(User);

impl ApiUser {
    pub(super) fn actor(&self) -> Actor {
        self.0.actor("api")
    }

    /// The user. An error if they are not an operator.
    pub(super) fn operator(&self) -> Result<Actor, Problem> {
        if self.0.is_operator() { Ok(self.actor()) } else { Err(Problem::no_operator()) }
    }
}

impl FromRequestParts<App> for ApiUser {
    type Rejection = http::Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, http::Problem> {
        let unauthorized = |what: &str| {
            let advice = "Send `Authorization: Bearer TOKEN` with the viewer's or the operator's token.";
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", what, advice)
        };
        let token = match parts.headers.get(AUTHORIZATION) {
            None if app.tokens.anyone_may_read() => return Ok(Self(User::anonymous())),
            None => return Err(unauthorized("The token is missing.").into()),
            Some(header) => bearer(header.to_str().unwrap_or_default()),
        };
        let token =
            token.ok_or_else(|| unauthorized("The header Authorization contains no bearer token."))?;
        let address = parts.extensions.get::<Peer>().map_or([0, 0, 0, 0].into(), |peer| peer.ip());
        let role = app
            .throttle
            .attempt(address, Instant::now(), || app.tokens.role_of(token))
            .map_err(Problem::from)?;
        let role =
            role.ok_or_else(|| unauthorized("The token is neither the viewer's nor the operator's."))?;
        Ok(Self(User { name: name(&parts.headers)?, role }))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// serde names the type that a body was to become, which tells a caller nothing.
fn without_types(text: &str) -> String {
    match text.split_once("expected struct ") {
        None => text.to_owned(),
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            format!("{before}expected an object{rest}")
        }
    }
}

/// The name that the caller gives.
fn name(headers: &HeaderMap) -> Result<String, Problem> {
    match headers.get("x-actor") {
        None => Ok("a script".to_owned()),
        Some(header) => std::str::from_utf8(header.as_bytes())
            .ok()
            .and_then(access::name)
            .ok_or_else(|| Problem::bad_request("X-Actor is not a name of at most 64 characters.")),
    }
}

/// A path in a body as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    let segments = path.iter().map(|segment| match segment {
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Seq { index } => format!("/{index}"),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    });
    segments.collect()
}

/// The JSON body of a request.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = http::Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, http::Problem> {
        let bad = |status, what: &str| {
            let advice = "Send JSON with its content type, as /api/v1/openapi.json describes it.";
            Problem::new(status, "bad_request", what, advice)
        };
        let axum::Json(body): axum::Json<serde_json::Value> = axum::Json::from_request(request, app)
            .await
            .map_err(|rejection| bad(rejection.status(), &format!("{}.", rejection.body_text())))?;
        serde_path_to_error::deserialize(body).map(Self).map_err(|error| {
            let what = format!("{}: {}.", error.path(), without_types(&error.inner().to_string()));
            bad(StatusCode::UNPROCESSABLE_ENTITY, &what).at(pointer(error.path())).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_problem_names_a_type_of_the_program() {
        let text =
            "data did not match: invalid type: integer `1`, expected struct PlanRequest at line 1 column 1";
        let shown = "data did not match: invalid type: integer `1`, expected an object at line 1 column 1";
        assert_eq!(without_types(text), shown);
        assert_eq!(without_types("missing field `action`"), "missing field `action`");
    }
}
