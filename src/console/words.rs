//! What happened to a request, in the words of support.

use crate::message::{RecordedOutcome, Status};

/// An outcome in a sentence. `by`: who replayed or discarded it, if that is known.
pub(super) fn outcome(outcome: &RecordedOutcome, by: Option<&str>) -> String {
    let what = match Status::named(&outcome.status) {
        Some(Status::Unlocked) => "Unlocked".to_owned(),
        Some(Status::Refused) => format!("Refused: {}", reason(outcome)),
        Some(Status::Abandoned) => format!("Given up: {}", reason(outcome)),
        Some(Status::Invalid) => format!("Not a valid request: {}", reason(outcome)),
        Some(Status::Discarded) => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            return format!("Discarded{by}: {}", outcome.reason.as_deref().unwrap_or("no reason"));
        }
        None => format!("Ended as {}", outcome.status),
    };
    let attempts = match outcome.attempts {
        0 | 1 => String::new(),
        attempts => format!(", after {attempts} attempts"),
    };
    match (outcome.replays, by) {
        (0, _) => format!("{what}{attempts}"),
        (_, Some(by)) => format!("Replayed by {by}. {what}{attempts}"),
        (_, None) => format!("Replayed. {what}{attempts}"),
    }
}

fn reason(outcome: &RecordedOutcome) -> String {
    match outcome.reason.as_deref() {
        None => "no reason".to_owned(),
        Some(reason) => self::explain(reason),
    }
}

/// A reason in words; one that is not known stays as it is.
pub(super) fn explain(reason: &str) -> String {
    let words = match reason {
        "not_true" => "Trackfinity answered, but not with true",
        "timeout" => "Trackfinity did not answer in time",
        "connection" => "Trackfinity could not be reached",
        "rate_limited" => "Trackfinity answered 429, too many requests",
        "unexpected_reply" => "Trackfinity's answer made no sense",
        "expired" => "its time was over",
        "delivery_limit" => "workers crashed on it again and again",
        "rejected" => "a consumer rejected it",
        "malformed" => "it is not JSON, or no object",
        "no_identifier" => "it names no customer, subscription or order",
        "bad_identifier" => "an identifier cannot be used",
        "too_large" => "it is larger than 64 KiB",
        "unsupported_content_type" => "its content type is not supported",
        "unreadable" => "its properties cannot be read",
        _ => match (reason.strip_prefix("http_"), reason.strip_prefix("proxy_")) {
            (Some(status), _) => return format!("Trackfinity answered {status}"),
            (None, Some(status)) => return format!("the HTTP proxy answered {status}"),
            (None, None) => reason,
        },
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_a_sentence() {
        let say = |fields: &str, by: Option<&str>| {
            let text = format!(r#"{{"request_id":"r","finished_at":"2026-11-23T09:00:00Z",{fields}}}"#);
            outcome(&RecordedOutcome::parse(text.as_bytes()).expect("an outcome"), by)
        };
        assert_eq!(say(r#""status":"unlocked","attempts":1"#, None), "Unlocked");
        assert_eq!(
            say(r#""status":"refused","reason":"http_404","attempts":1"#, None),
            "Refused: Trackfinity answered 404"
        );
        assert_eq!(
            say(r#""status":"abandoned","reason":"timeout","attempts":12"#, None),
            "Given up: Trackfinity did not answer in time, after 12 attempts"
        );
        assert_eq!(
            say(r#""status":"unlocked","replays":1,"attempts":2"#, Some("Anna (operator)")),
            "Replayed by Anna (operator). Unlocked, after 2 attempts"
        );
        assert_eq!(
            say(
                r#""status":"discarded","reason":"the customer has left","replays":1"#,
                Some("Bob (operator)")
            ),
            "Discarded by Bob (operator): the customer has left"
        );
        assert_eq!(say(r#""status":"invalid","reason":"new_one""#, None), "Not a valid request: new_one");
        assert_eq!(say(r#""status":"parked""#, None), "Ended as parked");
    }
}
