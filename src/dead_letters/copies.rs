//! What is published in place of a dead letter: its request again, or the outcome of a discard.

use super::{correction::CorrectionRecord, dead_letter::DeadLetter, plan::Action};
use crate::message::{DeadLetterHeaders, Envelope, Outcome, Status, Timestamp};

/// What a dead letter becomes.
pub(super) enum Copy {
    /// Of a replay.
    Request(Box<Envelope>),
    /// Of a discard.
    Outcome(Box<Outcome>),
}

impl Copy {
    /// The error says why the dead letter cannot become anything.
    pub(super) fn of(dead_letter: &DeadLetter, action: &Action) -> Result<Self, String> {
        match action {
            Action::Discard { reason } => {
                Ok(Self::Outcome(Box::new(discarded(dead_letter, reason.as_str()))))
            }
            Action::Replay { correction } if correction.is_empty() => match dead_letter.envelope() {
                Some(request) => Ok(Self::Request(Box::new(request))),
                None => Err("it is unreadable, so it cannot be replayed".to_owned()),
            },
            Action::Replay { correction } => {
                let corrected = dead_letter.corrected(correction);
                corrected
                    .map(|request| Self::Request(Box::new(request)))
                    .map_err(|refusal| refusal.to_string())
            }
        }
    }

    /// What the audit log keeps of the correction, if there is one.
    pub(super) fn correction<'a>(
        &'a self,
        dead_letter: &DeadLetter,
        action: &'a Action,
    ) -> Option<CorrectionRecord<'a>> {
        let correction = action.correction().filter(|correction| !correction.is_empty())?;
        match self {
            Self::Request(request) => Some(CorrectionRecord::new(correction, dead_letter, request)),
            Self::Outcome(_) => None,
        }
    }
}

fn discarded(dead_letter: &DeadLetter, reason: &str) -> Outcome {
    let record = DeadLetterHeaders::from_properties(&dead_letter.properties);
    let now = Timestamp::now();
    let envelope = dead_letter.envelope();
    let request = envelope.as_ref().and_then(|envelope| envelope.request.as_ref().ok());
    Outcome {
        status: Status::Discarded,
        request_id: envelope.as_ref().map_or_else(|| dead_letter.request_id(), |of| of.request_id.clone()),
        request: request.map(|request| request.identifiers().clone()),
        attempts: record.attempts,
        http_status: record.http_status,
        reason: Some(reason.to_owned()),
        detail: None,
        replays: record.replays,
        // A time in the future is forged, or from a clock that is ahead of this one.
        first_received_at: record.first_received_at.map_or(now, |first| first.min(now)),
        finished_at: now,
        requested_by: envelope.as_ref().and_then(|of| of.requested_by()).map(str::to_owned),
    }
}
