//! What pages show of dead letters. Nothing here is masked data.

use crate::{
    dead_letters::{Coverage, DeadLetterSummary, StepResult},
    message::Timestamp,
};

/// The longest reason in a table, in characters.
const MAX_REASON_CHARS: usize = 80;

/// A time, and how long ago it was.
#[derive(Debug)]
pub(super) struct TimeView {
    /// For machines; empty if there is no time.
    pub(super) iso: String,
    /// To the minute, without the year if that is this year.
    pub(super) text: String,
    /// To the millisecond.
    pub(super) full: String,
    pub(super) ago: String,
}

impl TimeView {
    /// With seconds.
    pub(super) fn precise(at: Option<Timestamp>) -> Self {
        let mut view = Self::from(at);
        if let Some(seconds) = view.iso.get(16..19) {
            view.text.push_str(seconds);
        }
        view
    }
}

impl From<Option<Timestamp>> for TimeView {
    fn from(at: Option<Timestamp>) -> Self {
        let Some(at) = at else {
            return Self {
                iso: String::new(),
                text: "–".to_owned(),
                full: String::new(),
                ago: String::new(),
            };
        };
        let (iso, now) = (at.to_string(), Timestamp::now());
        let full = iso.replace('T', " ").replace('Z', " UTC");
        Self { text: day_and_minute_in(at, now), full, ago: ago(now.since(at).as_secs()), iso }
    }
}

/// `24 Nov 17:05`, with the year if that is not this year.
pub(super) fn day_and_minute(at: Timestamp) -> String {
    day_and_minute_in(at, Timestamp::now())
}

fn day_and_minute_in(at: Timestamp, now: Timestamp) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (iso, now) = (at.to_string(), now.to_string());
    // Timestamps are written with four digits of the year.
    let part = |range: std::ops::Range<usize>| iso.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let Some(month) = month else { return iso };
    let day = part(8..10).trim_start_matches('0');
    let year = if now.get(..4) == Some(part(0..4)) { String::new() } else { format!(" {}", part(0..4)) };
    format!("{day} {month}{year} {}", part(11..16))
}

/// `17:05`
pub(super) fn minute_of_day(at: Timestamp) -> String {
    at.to_string().get(11..16).unwrap_or_default().to_owned()
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
            reason: dead_letter.reason.as_deref().map(short),
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

/// A reason in a table. Workers' own are short; others may have written anything.
pub(super) fn short(reason: &str) -> String {
    let text = readable(reason);
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The body as it is: formatting JSON could hide what is wrong with it. Replaces characters that
/// change the text direction.
pub(super) fn readable(body: &str) -> String {
    body.chars()
        .map(|c| match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_short_and_has_its_year_only_if_that_is_another() {
        let at: Timestamp = "2026-11-04T17:05:30Z".parse().expect("a time");
        let short = |now: &str| day_and_minute_in(at, now.parse().expect("a time"));
        assert_eq!(short("2026-12-31T00:00:00Z"), "4 Nov 17:05");
        assert_eq!(short("2027-01-01T00:00:00Z"), "4 Nov 2026 17:05");
        let precise = TimeView::precise(Some(at));
        assert!(precise.text.ends_with(" 17:05:30"), "{precise:?}");
        assert_eq!(
            (precise.full.as_str(), minute_of_day(at).as_str()),
            ("2026-11-04 17:05:30.000 UTC", "17:05")
        );
    }

    #[test]
    fn a_reason_in_a_table_is_short_and_does_not_change_the_direction_of_the_text() {
        assert_eq!(short("http_404"), "http_404");
        assert_eq!(short("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(short(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(short(&"ü".repeat(4000)), format!("{}…", "ü".repeat(80)));
    }

    #[test]
    fn an_age_is_shown_in_its_largest_unit() {
        for (seconds, text) in
            [(0, "0 s ago"), (61, "1 min ago"), (7_200, "2 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(ago(seconds), text);
        }
    }
}
