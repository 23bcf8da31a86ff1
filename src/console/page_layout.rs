//! The layout around every page.

/// The title, the user, and when to reload.
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
    /// Seconds until the browser reloads the page; zero means never.
    pub(super) refresh_s: u32,
}
