//! What is searched.

use crate::message::{RecordedOutcome, Status, Timestamp, outcome::filter_value, request::Identifiers};

/// Selects the outcomes that meet every condition. An empty one selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub customer_id: Option<String>,
    pub subscription_id: Option<String>,
    pub orderid: Option<String>,
    pub request_id: Option<String>,
    /// One of these.
    pub status: Vec<Status>,
    /// One of these.
    pub reason: Vec<String>,
    /// Decided at this time or later.
    pub since: Option<Timestamp>,
    /// Decided at this time or earlier.
    pub until: Option<Timestamp>,
}

impl Query {
    fn identifiers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = [&self.customer_id, &self.subscription_id, &self.orderid];
        Identifiers::FIELDS
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Whether an outcome meets every condition.
    pub fn matches(&self, outcome: &RecordedOutcome) -> bool {
        self.identifiers().all(|(name, value)| outcome.identifier(name) == Some(value))
            && self.request_id.as_ref().is_none_or(|id| *id == outcome.request_id)
            && (self.status.is_empty() || self.status.iter().any(|status| status.as_str() == outcome.status))
            && (self.reason.is_empty()
                || self.reason.iter().any(|reason| Some(reason) == outcome.reason.as_ref()))
            && self.since.is_none_or(|since| outcome.finished_at >= since)
            && self.until.is_none_or(|until| outcome.finished_at <= until)
    }

    /// The filter value that every outcome with one identifier has if it matches. All others that match
    /// have none.
    pub(super) fn filter_value(&self) -> Option<String> {
        let (name, value) = self.identifiers().next()?;
        filter_value(name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> RecordedOutcome {
        RecordedOutcome::parse(text.as_bytes()).expect("an outcome")
    }

    #[test]
    fn an_outcome_must_meet_every_condition() {
        let outcome = outcome(
            r#"{"status":"refused","reason":"http_404","request_id":"r-1","request":{"customer_id":"191","orderid":"7"},
            "finished_at":"2026-11-23T09:00:00Z"}"#,
        );
        let at = |text: &str| Some(text.parse().expect("a time"));
        let text = |text: &str| Some(text.to_owned());
        let matching = Query {
            customer_id: text("191"),
            orderid: text("7"),
            request_id: text("r-1"),
            status: vec![Status::Abandoned, Status::Refused],
            reason: vec!["http_404".to_owned()],
            since: at("2026-11-23T09:00:00Z"),
            until: at("2026-11-23T09:00:00Z"),
            ..Query::default()
        };
        assert!(matching.matches(&outcome) && Query::default().matches(&outcome));
        for other in [
            Query { customer_id: text("7"), ..matching.clone() },
            Query { subscription_id: text("191"), ..matching.clone() },
            Query { request_id: text("r-2"), ..matching.clone() },
            Query { status: vec![Status::Unlocked], ..matching.clone() },
            Query { reason: vec!["http_400".to_owned()], ..matching.clone() },
            Query { since: at("2026-11-23T09:00:01Z"), ..matching.clone() },
            Query { until: at("2026-11-23T08:59:59Z"), ..matching.clone() },
        ] {
            assert!(!other.matches(&outcome), "{other:?}");
        }
    }

    #[test]
    fn the_filter_value_is_the_outcomes_own() {
        let query = Query { subscription_id: Some("7".to_owned()), ..Query::default() };
        assert_eq!(query.filter_value().as_deref(), Some("subscription_id=7"));
        assert_eq!(Query::default().filter_value(), None);
        let long = Query { subscription_id: Some("7".repeat(255)), ..Query::default() };
        assert_eq!(long.filter_value(), None, "it would be longer than RabbitMQ allows");
    }
}
