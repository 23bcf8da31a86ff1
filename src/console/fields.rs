//! The fields of a form or a query.

use axum::extract::{FromRequest, Request};

use super::problem::Problem;

/// The fields of a form or a query, in their order. A name may be repeated.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first field of this name that is not blank.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All fields of this name that are not blank.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
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
                "Select fewer dead letters, or use a filter.",
            )
        })?;
        Ok(Self::parse(&body))
    }
}
