//! An outcome that could not be published yet. It waits in a retry queue, in the headers of its
//! request. When the request comes back, the worker publishes the outcome and calls nothing.
//!
//! A sender could forge such headers to have a false outcome published. So the worker adds a keyed
//! digest of the outcome (HMAC, RFC 2104). All workers have the key, senders do not. Without a valid
//! digest the message is treated as an ordinary request (decision 49).

use hmac::{Hmac, Mac};
use lapin::BasicProperties;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{Envelope, Outcome, Status, Timestamp, headers};

/// An outcome that is not published yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingOutcome {
    pub outcome: Outcome,
    /// How often the request has come back for it, not counting this time.
    pub retries: u32,
}

impl PendingOutcome {
    /// The properties of the request while its outcome waits, at most `max_len` bytes. `trace` is the
    /// trace context to add if the message has none. `None` if the outcome cannot be encoded, which
    /// its types rule out.
    pub fn properties(
        &self,
        envelope: &Envelope,
        trace: Option<&str>,
        key: &[u8],
        max_len: usize,
    ) -> Option<BasicProperties> {
        let outcome = &self.outcome;
        // The envelope's time is corrected by this machine's clock, and the digest holds for the outcome's.
        let mut added = envelope.history_headers(outcome.attempts, outcome.first_received_at, trace);
        added.required(headers::STATUS, outcome.status.as_str());
        added.required(headers::FINISHED_AT, outcome.finished_at.to_string());
        added.required(headers::OUTCOME_MAC, digest(outcome, key)?);
        added.count(headers::OUTCOME_RETRIES, self.retries);
        if let Some(reason) = &outcome.reason {
            added.required(headers::REASON, reason.as_str());
        }
        if let Some(detail) = &outcome.detail {
            added.required(headers::DETAIL, detail.as_str());
        }
        if let Some(http_status) = outcome.http_status {
            added.count(headers::HTTP_STATUS, http_status.into());
        }
        Some(headers::copy_for_next_queue(&envelope.properties, added, max_len))
    }

    /// Reads the outcome that a request carries. `None` if there is none, or if no worker wrote it
    /// with this key.
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
            // Not corrected by this machine's clock, which may be behind.
            first_received_at: time(headers::FIRST_RECEIVED_AT)?,
            finished_at: time(headers::FINISHED_AT)?,
            requested_by: envelope.requested_by().map(str::to_owned),
        };
        let is_proven = |outcome: &Outcome| {
            digest(outcome, key).is_some_and(|digest| digest.as_bytes().ct_eq(mac.as_bytes()).into())
        };
        if !is_proven(&outcome) {
            // The outcome may have been written without the request's identifiers.
            outcome.request = None;
            if !is_proven(&outcome) && !is_given_up(envelope, &outcome) {
                return None;
            }
        }
        Some(Self { outcome, retries: count(headers::OUTCOME_RETRIES).unwrap_or_default() })
    }
}

/// Whether this is the outcome of a request that RabbitMQ gave up, whose body is only in its
/// dead letter. It needs no proof, so that it survives a change of the key. A sender who forges one
/// only abandons its own request, which it can also do with an expiration.
fn is_given_up(envelope: &Envelope, outcome: &Outcome) -> bool {
    let is_given_up =
        matches!(outcome.reason.as_deref(), Some("delivery_limit" | "expired" | "undeliverable"));
    envelope.body.is_empty() && outcome.status == Status::Abandoned && is_given_up
}

/// The HMAC of an outcome, in hex.
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
        Envelope::decode(properties, body.to_vec(), now, || "given".to_owned())
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
            requested_by: envelope.requested_by().map(str::to_owned),
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
    fn an_outcome_that_waits_again_at_a_worker_whose_clock_is_behind_comes_back_as_it_was() {
        let (pending, back) = waiting(Status::Unlocked);
        let an_hour_before = Timestamp::from_millis(1_795_424_400_000 - 3_600_000);
        let behind = Envelope::decode(back.properties, back.body, an_hour_before, || "given".to_owned());
        let read = PendingOutcome::read(&behind, KEY).expect("proven");
        let properties = read.properties(&behind, None, KEY, MAX_LEN).expect("encodes");
        assert_eq!(PendingOutcome::read(&envelope(properties, &behind.body), KEY), Some(pending));
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
