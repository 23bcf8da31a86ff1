//! What pages show of letters: nothing that is masked.

use crate::{
    dead_letters::{Brief, Extent, StepResult},
    message::Timestamp,
};

/// A time, and how long ago that is.
#[derive(Debug)]
pub(super) struct Age {
    /// For machines; empty if there is none.
    pub(super) iso: String,
    /// To the second.
    pub(super) text: String,
    pub(super) ago: String,
}

impl Age {
    pub(super) fn of(at: Option<Timestamp>) -> Self {
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

/// A letter in a table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) request_id: Option<String>,
    pub(super) status: &'static str,
    pub(super) reason: Option<String>,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) dead: Age,
}

impl Row {
    pub(super) fn of(letter: &Brief) -> Self {
        Self {
            id: letter.id.to_string(),
            request_id: letter.request_id.clone(),
            status: letter.status.as_str(),
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            replays: letter.replays,
            dead: Age::of(letter.dead_at),
        }
    }
}

/// Addresses of letters.
pub(super) struct LetterLinks;

impl LetterLinks {
    /// The list of those with this status and reason.
    pub(super) fn group(status: &str, reason: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("status", status).extend_pairs(reason.map(|reason| ("reason", reason)));
        format!("/letters?{}", query.finish())
    }

    /// The trace of a letter, where there is one and somewhere to see it.
    pub(super) fn trace(template: Option<&str>, trace_id: Option<&str>) -> Option<String> {
        Some(template?.replace("{trace_id}", trace_id?))
    }
}

/// Says so where not all letters were looked at.
pub(super) fn short(extent: &Extent) -> Option<String> {
    extent.is_short().then(|| format!("Not all were looked at: {extent}."))
}

/// What became of a letter, in words; and the kind of it, for its looks.
pub(super) fn result(result: &StepResult) -> (String, &'static str) {
    match result {
        StepResult::Unlocked => ("unlocked".to_owned(), "good"),
        StepResult::FailedAgain { status, reason } => {
            (format!("failed again: {status}, {}", reason.as_deref().unwrap_or("no reason")), "bad")
        }
        StepResult::Pending => {
            ("replayed; no outcome yet: it is queued, or waits for a retry".to_owned(), "open")
        }
        StepResult::Discarded { heard: true } => ("discarded".to_owned(), "good"),
        StepResult::Discarded { heard: false } => {
            ("discarded; no queue receives the outcome".to_owned(), "good")
        }
        StepResult::Vanished => ("vanished: it is no longer among the dead letters".to_owned(), "open"),
        StepResult::OutOfReach => {
            ("out of reach: too many letters lie before it; it stays".to_owned(), "bad")
        }
        StepResult::Kept { why } => (format!("kept: {why}"), "bad"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_in_its_largest_unit() {
        for (seconds, said) in
            [(0, "0 s ago"), (61, "1 min ago"), (7_200, "2 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(ago(seconds), said);
        }
    }
}
