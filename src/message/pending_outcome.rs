//! An outcome that could not be published yet: it waits in a retry queue, in the headers of the request
//! that it ends, and only it is published when the request comes back.
//!
//! A sender could write such headers, too, and so have an outcome published that never was. So a
//! worker proves by a keyed digest (RFC 2104, HMAC) of the outcome that it wrote them, with a key that
//! all workers have and no sender has. Without that proof the request is a request like any other.

use hmac::{Hmac, Mac};
use lapin::BasicProperties;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{
    Envelope, Outcome, Status, Timestamp,
    headers::{self, Stamp},
};

/// An outcome that is still to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingOutcome {
    pub outcome: Outcome,
    /// How often the request has come back for it, this time not counted.
    pub retries: u32,
}

impl PendingOutcome {
    /// The properties of the request while its outcome waits. `trace` is the context to carry where
    /// the message came without one. Takes at most `max_len` bytes. `None` if the outcome cannot be
    /// encoded, which its types do not let happen.
    #[must_use]
    pub fn properties(
        &self,
        envelope: &Envelope,
        trace: Option<&str>,
        key: &[u8],
        max_len: usize,
    ) -> Option<BasicProperties> {
        let outcome = &self.outcome;
        let mut stamp: Stamp = envelope.stamp(outcome.attempts);
        stamp.fact(headers::STATUS, outcome.status.as_str());
        stamp.fact(headers::FINISHED_AT, outcome.finished_at.to_string());
        stamp.fact(headers::OUTCOME_MAC, digest(outcome, key)?);
        stamp.count(headers::OUTCOME_RETRIES, self.retries);
        if let Some(reason) = &outcome.reason {
            stamp.fact(headers::REASON, reason.as_str());
        }
        if let Some(detail) = &outcome.detail {
            stamp.fact(headers::DETAIL, detail.as_str());
        }
        if let Some(http_status) = outcome.http_status {
            stamp.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(trace) = trace {
            stamp.fact(headers::TRACEPARENT, trace);
        }
        Some(headers::succeed(&envelope.properties, stamp, max_len))
    }

    /// Reads the outcome that a request carries; `None` if it carries none, or one that no worker
    /// wrote with this key.
    #[must_use]
    pub fn read(envelope: &Envelope, key: &[u8]) -> Option<Self> {
        let table = envelope.properties.headers().as_ref()?.inner();
        let text = |name| table.get(name).and_then(headers::text);
        let count = |name| table.get(name).and_then(headers::count);
        let mac = text(headers::OUTCOME_MAC)?;
        let time = |name| text(name).and_then(|at| at.parse::<Timestamp>().ok());
        let given = match &envelope.request {
            Ok(request) => Some(request.identifiers().clone()),
            Err(fault) => fault.readable.clone(),
        };
        let mut outcome = Outcome {
            status: Status::named(text(headers::STATUS)?)?,
            request_id: envelope.request_id.clone(),
            request: given,
            attempts: envelope.attempts,
            http_status: count(headers::HTTP_STATUS).and_then(|status| status.try_into().ok()),
            reason: text(headers::REASON).map(str::to_owned),
            detail: text(headers::DETAIL).map(str::to_owned),
            replays: envelope.replays,
            // As it was written: another machine's clock may be behind.
            first_received_at: time(headers::FIRST_RECEIVED_AT)?,
            finished_at: time(headers::FINISHED_AT)?,
        };
        let is_proven = |outcome: &Outcome| {
            digest(outcome, key).is_some_and(|digest| digest.as_bytes().ct_eq(mac.as_bytes()).into())
        };
        if !is_proven(&outcome) {
            // An outcome may name none of the identifiers that the request has.
            outcome.request = None;
            if !is_proven(&outcome) && !is_given_up(envelope, &outcome) {
                return None;
            }
        }
        Some(Self { outcome, retries: count(headers::OUTCOME_RETRIES).unwrap_or_default() })
    }
}

/// Whether it ends a request that RabbitMQ gave up, whose body is in its dead letter alone. Such an
/// outcome needs no proof, which is gone when the key was changed: a sender that forges one abandons its
/// own request, as it can by an expiration.
fn is_given_up(envelope: &Envelope, outcome: &Outcome) -> bool {
    let is_given_up =
        matches!(outcome.reason.as_deref(), Some("delivery_limit" | "expired" | "undeliverable"));
    envelope.body.is_empty() && outcome.status == Status::Abandoned && is_given_up
}

/// In hex.
fn digest(outcome: &Outcome, key: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(b"trackfinity-unlocker outcome\0");
    mac.update(&outcome.encode().ok()?);
    Some(format!("{:x}", mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"the key";
    const MAX_LEN: usize = 64 * 1024;

    fn envelope(properties: BasicProperties, body: &[u8]) -> Envelope {
        let now = Timestamp::from_millis(1_795_424_400_000);
        Envelope::open(properties, body.to_vec(), now, || "given".to_owned())
    }

    fn pending(envelope: &Envelope, status: Status) -> PendingOutcome {
        let request = envelope.request.as_ref().ok();
        let outcome = Outcome {
            status,
            request_id: envelope.request_id.clone(),
            request: request.map(|request| request.identifiers().clone()),
            attempts: 3,
            http_status: Some(404),
            reason: Some("http_404".to_owned()),
            detail: Some("Trackfinity answered 404: no such customer".to_owned()),
            replays: 0,
            first_received_at: envelope.first_received_at,
            finished_at: Timestamp::from_millis(1_795_424_400_120),
        };
        PendingOutcome { outcome, retries: 2 }
    }

    fn waiting(status: Status) -> (PendingOutcome, Envelope) {
        let taken = envelope(BasicProperties::default(), br#"{"customer_id":191}"#);
        let pending = pending(&taken, status);
        let properties = pending.properties(&taken, None, KEY, MAX_LEN).expect("encodes");
        (pending, envelope(properties, &taken.body))
    }

    #[test]
    fn an_outcome_comes_back_as_it_was() {
        for status in [Status::Unlocked, Status::Refused, Status::Abandoned] {
            let (pending, back) = waiting(status);
            assert_eq!(PendingOutcome::read(&back, KEY), Some(pending));
        }
    }

    #[test]
    fn an_outcome_without_identifiers_comes_back_also_where_the_body_has_some() {
        let taken = envelope(BasicProperties::default(), br#"{"customer_id":191}"#);
        let mut pending = pending(&taken, Status::Abandoned);
        pending.outcome.request = None;
        let properties = pending.properties(&taken, None, KEY, MAX_LEN).expect("encodes");
        for body in [taken.body.as_slice(), b""] {
            let back = envelope(properties.clone(), body);
            assert_eq!(PendingOutcome::read(&back, KEY).as_ref(), Some(&pending));
        }
    }

    #[test]
    fn the_outcome_of_a_request_that_rabbitmq_gave_up_survives_a_change_of_the_key() {
        let taken = envelope(BasicProperties::default(), b"poison");
        let mut pending = pending(&taken, Status::Abandoned);
        pending.outcome.request = None;
        pending.outcome.reason = Some("delivery_limit".to_owned());
        let properties = pending.properties(&taken, None, KEY, MAX_LEN).expect("encodes");
        let back = envelope(properties, b"");
        assert_eq!(PendingOutcome::read(&back, b"another key").as_ref(), Some(&pending));
    }

    #[test]
    fn what_no_worker_wrote_is_no_outcome() {
        let (_, back) = waiting(Status::Refused);
        assert_eq!(PendingOutcome::read(&back, b"another key"), None);
        let mut forged = back.clone();
        let mut table = forged.properties.headers().clone().expect("headers");
        table.insert(headers::STATUS.into(), lapin::types::AMQPValue::LongString("unlocked".into()));
        forged.properties = forged.properties.with_headers(table);
        assert_eq!(PendingOutcome::read(&forged, KEY), None);
        let other_customer = envelope(back.properties.clone(), br#"{"customer_id":192}"#);
        assert_eq!(PendingOutcome::read(&other_customer, KEY), None);
        let plain = envelope(BasicProperties::default(), br#"{"customer_id":191}"#);
        assert_eq!(PendingOutcome::read(&plain, KEY), None);
    }
}
