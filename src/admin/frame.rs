//! What stands around every page.

use super::visitor::Visitor;

/// The head of a page: who is here, and what may be refreshed.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) title: String,
    /// `Anna (operator)`, if somebody is logged in.
    pub(super) person: Option<String>,
    pub(super) is_operator: bool,
    pub(super) may_log_in: bool,
    pub(super) csrf: String,
    /// Seconds after which the page is to be loaded again; zero is never.
    pub(super) refresh_s: u32,
}

impl Frame {
    pub(super) fn new(title: impl Into<String>, visitor: &Visitor) -> Self {
        Self {
            title: title.into(),
            person: visitor.session.as_ref().map(|_| visitor.person.actor("page").name),
            is_operator: visitor.person.is_operator(),
            may_log_in: visitor.may_log_in,
            csrf: visitor.session.as_ref().map(|session| session.csrf.clone()).unwrap_or_default(),
            refresh_s: 0,
        }
    }
}
