//! An outcome as it is read again, by whoever wrote it: this release, an older or a newer one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Timestamp;

/// An outcome that was published. Fields that are not known are ignored, and a status may be any.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RecordedOutcome {
    pub status: String,
    pub request_id: String,
    /// The identifiers, by their names.
    #[serde(default)]
    pub request: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default)]
    pub http_status: Option<u16>,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub detail: Option<String>,
    #[serde(default)]
    pub replays: u32,
    pub finished_at: Timestamp,
    #[serde(default)]
    pub requested_by: Option<String>,
}

impl RecordedOutcome {
    /// The outcome in a message's body; `None` if it is none.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The identifier of this name.
    pub fn identifier(&self, name: &str) -> Option<&str> {
        self.request.as_ref()?.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Outcome, Status};

    #[test]
    fn what_was_published_is_read_again() {
        let outcome = Outcome {
            status: Status::Refused,
            request_id: "m-1".to_owned(),
            request: None,
            attempts: 1,
            http_status: Some(404),
            reason: Some("http_404".to_owned()),
            detail: None,
            replays: 2,
            first_received_at: Timestamp::EPOCH,
            finished_at: Timestamp::from_millis(1_795_424_400_120),
            requested_by: Some("shop".to_owned()),
        };
        let read = RecordedOutcome::parse(&outcome.encode().expect("encodes")).expect("an outcome");
        assert_eq!((read.status.as_str(), read.replays, read.http_status), ("refused", 2, Some(404)));
        assert_eq!((read.finished_at, read.requested_by.as_deref()), (outcome.finished_at, Some("shop")));
    }

    #[test]
    fn an_older_and_a_newer_one_are_read_and_what_is_none_is_not() {
        let older = br#"{"status":"unlocked","request_id":"a","finished_at":"2026-11-23T09:00:00Z"}"#;
        assert_eq!(RecordedOutcome::parse(older).expect("an outcome").requested_by, None);
        let newer = br#"{"status":"new","request_id":"a","finished_at":"2026-11-23T09:00:00Z","more":[1],
            "request":{"customer_id":"1","other":"2"}}"#;
        let newer = RecordedOutcome::parse(newer).expect("an outcome");
        assert_eq!((newer.identifier("customer_id"), newer.identifier("orderid")), (Some("1"), None));
        for other in [&b""[..], b"{}", b"[]", b"\xff"] {
            assert_eq!(RecordedOutcome::parse(other), None);
        }
    }
}
