//! The layout around every page.

/// The title and the user.
#[derive(Debug, Default)]
pub(super) struct PageLayout {
    pub(super) title: String,
    /// `Anna (operator)`, if someone is logged in.
    pub(super) user: Option<String>,
    pub(super) is_operator: bool,
    pub(super) may_log_in: bool,
    pub(super) csrf: String,
    /// Whether it leads to the other pages: not before the login.
    pub(super) is_inside: bool,
    /// What is in the search field.
    pub(super) search: String,
}
