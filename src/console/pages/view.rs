//! What pages show of dead letters. Nothing here is masked data.

use crate::{
    dead_letters::{Coverage, DeadLetterSummary, StepResult},
    message::Timestamp,
};

/// A time, and how long ago it was.
#[derive(Debug)]
pub(super) struct TimeView {
    /// For machines; empty if there is no time.
    pub(super) iso: String,
    /// To the second.
    pub(super) text: String,
    pub(super) ago: String,
}

impl From<Option<Timestamp>> for TimeView {
    fn from(at: Option<Timestamp>) -> Self {
        let Some(at) = at else {
            return Self { iso: String::new(), text: "–".to_owned(), ago: String::new() };
        };
        let iso = at.to_string();
        let text = iso.get(..19).map_or_else(|| iso.clone(), |text| text.replace('T', " "));
        Self { text, ago: ago(Timestamp::now().since(at).as_secs()), iso }
    }
}

fn ago(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3_600 => (seconds / 60, "min"),
        3_600..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}

/// A dead letter in a table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) request_id: Option<String>,
    pub(super) status: &'static str,
    pub(super) reason: Option<String>,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) dead: TimeView,
}

impl From<&DeadLetterSummary> for Row {
    fn from(dead_letter: &DeadLetterSummary) -> Self {
        Self {
            id: dead_letter.id.to_string(),
            request_id: dead_letter.request_id.clone(),
            status: dead_letter.status.as_str(),
            reason: dead_letter.reason.clone(),
            attempts: dead_letter.attempts,
            replays: dead_letter.replays,
            dead: dead_letter.dead_at.into(),
        }
    }
}

/// The path of the list of dead letters with this status and reason.
pub(super) fn group_link(status: &str, reason: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("status", status).extend_pairs(reason.map(|reason| ("reason", reason)));
    format!("/dead-letters?{}", query.finish())
}

/// The URL of a dead letter's trace, if it has one and a URL template is set.
pub(super) fn trace_link(template: Option<&str>, trace_id: Option<&str>) -> Option<String> {
    Some(template?.replace("{trace_id}", trace_id?))
}

/// A note if not all dead letters were seen.
pub(super) fn incomplete_note(coverage: &Coverage) -> Option<String> {
    coverage.is_incomplete().then(|| format!("Not all dead letters were seen: {coverage}."))
}

/// The CSS class of a result.
pub(super) fn result_class(result: &StepResult) -> &'static str {
    match result {
        StepResult::Unlocked | StepResult::Discarded { .. } => "good",
        StepResult::Pending | StepResult::Gone => "open",
        StepResult::FailedAgain { .. } | StepResult::OutOfReach | StepResult::PublishFailed { .. } => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_shown_in_its_largest_unit() {
        for (seconds, text) in
            [(0, "0 s ago"), (61, "1 min ago"), (7_200, "2 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(ago(seconds), text);
        }
    }
}
