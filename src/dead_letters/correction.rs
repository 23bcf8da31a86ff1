//! Corrects an invalid dead letter on its way back to the requests: what it was, what it becomes, and
//! whether a worker can read that.

use std::fmt;

use lapin::BasicProperties;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::dead_letter::{DeadLetter, DeadLetterId};
use crate::message::{
    Correction, DeadLetterStatus, Envelope, Fault, Identifiers, Properties, Timestamp, headers,
    request::{self, Content, MAX_BODY_BYTES},
};

/// The most dead letters whose texts are in a [`Refused`].
const MAX_REASONS: usize = 20;

/// Why a dead letter cannot be replayed with a correction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is {0}; only invalid dead letters can be changed")]
    NotInvalid(DeadLetterStatus),
    #[error("it would still be invalid, {}: {}", .0.code.as_str(), .0.detail)]
    StillInvalid(Fault),
}

/// Dead letters that cannot be replayed with a correction. So nothing is planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// How many.
    pub count: usize,
    /// How many match the filter.
    pub total: usize,
    /// The oldest ones, and why.
    pub reasons: Vec<(DeadLetterId, Refusal)>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, total, reasons } = self;
        write!(f, "nothing is planned, because {count} of {total} cannot be replayed with this change:")?;
        for (id, refusal) in reasons {
            write!(f, "\n  {id}: {refusal}")?;
        }
        match count - reasons.len() {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

/// A request, as a person sees it before or after a correction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestView {
    /// The id in its outcome.
    pub request_id: String,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// The body as text, unpacked, with U+FFFD where it is not UTF-8: at most 64 KiB of it.
    pub body: String,
    /// Bytes of the body as it is sent.
    pub size: usize,
    /// Hex SHA-256 of the body as it is sent. The audit log has it, too.
    pub body_sha256: String,
    /// What a worker reads in it. Null if it is no request.
    pub request: Option<Identifiers>,
    /// Why it is no request.
    pub reason: Option<&'static str>,
    pub detail: Option<String>,
}

/// What a correction does to one dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorrectionPreview {
    pub id: DeadLetterId,
    pub before: RequestView,
    pub after: RequestView,
}

/// The part of a correction that the audit log keeps: no value that may identify a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorrectionRecord<'a> {
    /// The names of what is changed.
    set: Vec<&'a str>,
    body_sha256_before: String,
    body_sha256_after: String,
    /// The request's id from now on, if it changes: the new body has an id of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id_after: Option<&'a str>,
}

impl<'a> CorrectionRecord<'a> {
    pub(super) fn new(correction: &'a Correction, dead_letter: &DeadLetter, after: &'a Envelope) -> Self {
        let changes_id = after.request_id != dead_letter.request_id();
        Self {
            set: correction.fields(),
            body_sha256_before: sha256(&dead_letter.body),
            body_sha256_after: sha256(&after.body),
            request_id_after: changes_id.then_some(&after.request_id),
        }
    }
}

impl RequestView {
    fn new(envelope: &Envelope) -> Self {
        let Envelope { properties, body, request, .. } = envelope;
        let text = |value: Option<&str>| value.map(str::to_owned);
        Self {
            request_id: envelope.request_id.clone(),
            content_type: text(properties.content_type().as_ref().map(|given| given.as_str())),
            content_encoding: text(properties.content_encoding().as_ref().map(|given| given.as_str())),
            body: excerpt(
                &request::unpack(&Content::from_properties(properties), body).unwrap_or(body.into()),
            ),
            size: body.len(),
            body_sha256: sha256(body),
            request: request.as_ref().ok().map(|request| request.identifiers().clone()),
            reason: request.as_ref().err().map(|fault| fault.code.as_str()),
            detail: request.as_ref().err().map(|fault| fault.detail.clone()),
        }
    }
}

impl DeadLetter {
    /// What the correction makes of this dead letter. Changes nothing.
    ///
    /// # Errors
    /// If it may not be changed, or would still be no request.
    pub fn preview(&self, correction: &Correction) -> Result<CorrectionPreview, Refusal> {
        let after = self.corrected(correction)?;
        let before = self.envelope().ok_or(Refusal::NotInvalid(DeadLetterStatus::Unreadable))?;
        let (before, after) = (RequestView::new(&before), RequestView::new(&after));
        Ok(CorrectionPreview { id: self.summary.id.clone(), before, after })
    }

    /// The request that a worker reads once the correction is made, by the worker's own decoder.
    pub(super) fn corrected(&self, correction: &Correction) -> Result<Envelope, Refusal> {
        let properties: &BasicProperties = match (&self.properties, self.summary.status) {
            (Properties::Readable(properties), DeadLetterStatus::Invalid) => properties,
            (_, status) => return Err(Refusal::NotInvalid(status)),
        };
        let (properties, body) = correction.apply(properties, &self.body).map_err(Refusal::StillInvalid)?;
        let envelope = Envelope::decode(properties, body, Timestamp::now(), || self.derived_id());
        match envelope.request {
            Ok(_) => Ok(envelope),
            Err(fault) => Err(Refusal::StillInvalid(fault)),
        }
    }
}

/// Collects refusals of dead letters that come oldest first.
pub(super) fn refused(
    total: usize,
    refusals: impl Iterator<Item = (DeadLetterId, Refusal)>,
) -> Result<(), Refused> {
    let mut refused = Refused { count: 0, total, reasons: Vec::new() };
    for refusal in refusals {
        refused.count += 1;
        if refused.reasons.len() < MAX_REASONS {
            refused.reasons.push(refusal);
        }
    }
    if refused.count == 0 { Ok(()) } else { Err(refused) }
}

/// The beginning, as text. Not UTF-8 grows: one byte becomes three.
fn excerpt(body: &[u8]) -> String {
    let body = body.get(..MAX_BODY_BYTES).unwrap_or(body);
    headers::truncate(String::from_utf8_lossy(body).into_owned(), MAX_BODY_BYTES)
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
