//! The correction of an invalid dead letter: what a form says, and the request before and after it.

use crate::{
    console::{app::App, fields::Fields, problem::Problem},
    dead_letters::{Actor, Plan, RequestView},
    message::Correction,
};

/// The field of a form with the new body; those of the other values have the same beginning.
const PREFIX: &str = "set_";
const BODY: &str = "set_body";

/// What a correction does, ready to be shown.
pub(super) struct CorrectionView {
    /// The names of what it changes.
    pub(super) fields: Vec<String>,
    /// Before and after; empty if this user may not see it, or it is not there any more.
    pub(super) sides: Vec<Side>,
    /// How many dead letters are changed.
    pub(super) count: usize,
}

pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) content_type: String,
    pub(super) body: String,
    /// What a worker reads, or why it reads nothing.
    pub(super) reads: String,
    pub(super) is_valid: bool,
}

/// What the form changes. Fields that are left empty change nothing.
pub(super) fn read(fields: &Fields) -> Result<Correction, Problem> {
    let mut correction = Correction::default();
    let wrong = |error: crate::message::InvalidCorrection| Problem::bad_request(format!("{error}."));
    for field in Correction::FIELDS {
        if let Some(value) = fields.get(&format!("{PREFIX}{field}")) {
            correction.set(field, value).map_err(wrong)?;
        }
    }
    if let Some(body) = fields.get(BODY) {
        correction.set_body(body.as_bytes().to_vec()).map_err(wrong)?;
    }
    Ok(correction)
}

/// What the plan's correction does; `None` if there is none. An operator sees the request of a plan with a single
/// one, before and after, which is written to the audit log first.
pub(super) async fn view(
    app: &App,
    operator: Option<&Actor>,
    plan: &Plan,
) -> Result<Option<CorrectionView>, Problem> {
    let Some(correction) = plan.action.correction().filter(|correction| !correction.is_empty()) else {
        return Ok(None);
    };
    let mut sides = Vec::new();
    if let (Some(actor), [id]) = (operator, plan.ids.as_slice()) {
        let shown = app.reader.show(actor, id.as_str()).await?;
        let preview = shown.dead_letters.first().and_then(|of| of.preview(correction).ok());
        sides.extend(
            preview.into_iter().flat_map(|preview| {
                [Side::new("Before", &preview.before), Side::new("After", &preview.after)]
            }),
        );
    }
    let fields = correction.fields().into_iter().map(str::to_owned).collect();
    Ok(Some(CorrectionView { fields, sides, count: plan.ids.len() }))
}

impl Side {
    fn new(name: &'static str, view: &RequestView) -> Self {
        let given = view.request.as_ref().map(|request| {
            let given: Vec<_> = request.given().map(|(name, value)| format!("{name} = {value}")).collect();
            given.join(", ")
        });
        let reason = || view.detail.as_deref().or(view.reason).unwrap_or("it is no request").to_owned();
        Self {
            name,
            content_type: view.content_type.clone().unwrap_or_else(|| "none".to_owned()),
            body: super::view::readable(&view.body),
            is_valid: given.is_some(),
            reads: given.unwrap_or_else(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_changes_what_is_filled_in() {
        let read = |form: &str| read(&Fields::parse(form.as_bytes()));
        let correction =
            read("set_customer_id=191&set_orderid=&set_content_type=application%2Fjson&set_body=");
        assert_eq!(correction.expect("a correction").fields(), ["content_type", "customer_id"]);
        let correction = read("set_body=%7B%22customer_id%22%3A1%7D");
        assert_eq!(correction.expect("a correction").fields(), ["body"]);
        assert!(read("action=replay").expect("none").is_empty());
        let problem = read(&format!("set_customer_id={}", "x".repeat(256))).expect_err("too long");
        assert!(problem.what.starts_with("customer_id "), "{problem:?}");
    }
}
