//! The user of a page, found by a cookie; and forms that this page itself has written.

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};

use super::{
    access::User, app::App, fields::Fields, page_layout::PageLayout, problem::Problem,
    session_cookie::session, sessions::Session,
};
use crate::dead_letters::Actor;

/// A user who may read the page.
#[derive(Clone, Debug)]
pub(super) struct PageUser {
    pub(super) user: User,
    /// None where reading needs no token.
    pub(super) session: Option<Session>,
    pub(super) may_log_in: bool,
}

impl PageUser {
    pub(super) fn actor(&self) -> Actor {
        self.user.actor("page")
    }

    /// The layout of a page for this user.
    pub(super) fn layout(&self, title: impl Into<String>) -> PageLayout {
        PageLayout {
            title: title.into(),
            user: self.session.as_ref().map(|_| self.actor().name),
            is_operator: self.user.is_operator(),
            may_log_in: self.may_log_in,
            csrf: self.session.as_ref().map(|session| session.csrf().to_owned()).unwrap_or_default(),
            is_inside: true,
            search: String::new(),
        }
    }

    /// The user of a request. `None` if they may not read the page.
    fn from_headers(app: &App, headers: &HeaderMap) -> Option<Self> {
        let session = session(app, headers);
        let user = match &session {
            Some(session) => session.user.clone(),
            None if app.tokens.anyone_may_read() => User::anonymous(),
            None => return None,
        };
        Some(Self { user, session, may_log_in: app.tokens.are_set() })
    }
}

impl FromRequestParts<App> for PageUser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        Self::from_headers(app, &parts.headers).ok_or_else(|| {
            let requested = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut query = form_urlencoded::Serializer::new(String::new());
            Redirect::to(&format!("/login?{}", query.append_pair("to", requested).finish())).into_response()
        })
    }
}

/// Shows problems in the layout of their users, so that they find the way back.
pub(super) async fn with_layout(State(app): State<App>, request: Request, next: Next) -> Response {
    let page_user = PageUser::from_headers(&app, request.headers());
    let mut response = next.run(request).await;
    match (response.extensions_mut().remove::<Problem>(), page_user) {
        (Some(problem), Some(page_user)) => problem.page_in(page_user.layout("")),
        _ => response,
    }
}

/// A form that a logged-in user sent from one of this page's own forms.
#[derive(Debug)]
pub(super) struct SignedForm {
    pub(super) page_user: PageUser,
    pub(super) fields: Fields,
}

impl SignedForm {
    /// The user who sent the form. An error if they are not an operator.
    pub(super) fn operator(&self) -> Result<Actor, Problem> {
        match self.page_user.user.is_operator() {
            true => Ok(self.page_user.actor()),
            false => Err(Problem::no_operator()),
        }
    }
}

impl FromRequest<App> for SignedForm {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let page_user = PageUser::from_headers(app, request.headers());
        let fields = Fields::from_request(request, app).await?;
        let Some((page_user, session)) =
            page_user.and_then(|page_user| page_user.session.clone().map(|session| (page_user, session)))
        else {
            let advice = match app.tokens.operator_is_set() {
                true => "Log in with the operator's token, and try again.",
                false => {
                    "No one can log in yet: set console.operator_token (or console.operator_token_file)."
                }
            };
            let what = "You are not logged in, or your session has ended.";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "not_logged_in", what, advice));
        };
        if !session.has_csrf(fields.get("csrf").unwrap_or_default()) {
            let what = "This form does not belong to your session.";
            let advice = "Nothing was done. Go back, reload the page, and try again.";
            return Err(Problem::new(StatusCode::FORBIDDEN, "csrf", what, advice));
        }
        Ok(Self { page_user, fields })
    }
}
