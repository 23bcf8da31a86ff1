//! The fields of a request, whatever form they came in, and what they give.

use std::borrow::Cow;

use super::{
    content::{EventAttributes, EventTime},
    fault::{Fault, FaultCode, quoted},
    identifiers::{Identifier, Identifiers, UnlockRequest, check, is_blank},
};
use crate::message::Timestamp;

/// How many names of fields a detail lists, and how long they may be together, in bytes.
const MAX_NAMES: usize = 6;
const MAX_NAMES_BYTES: usize = 150;

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The id that the request gives itself: the CloudEvent's, or else its `request_id`. Read even if
    /// the request is faulty; any length.
    pub given_id: Option<String>,
    /// From then on the request is not tried any more.
    pub expires_at: Option<Timestamp>,
    pub request: Result<UnlockRequest, Fault>,
}

impl From<Fault> for Decoded {
    fn from(fault: Fault) -> Self {
        Self { given_id: None, expires_at: None, request: Err(fault) }
    }
}

impl Decoded {
    /// Adds what a CloudEvent's attributes say. Its id counts more than the `request_id` in its data,
    /// and the earlier time counts.
    pub(super) fn with_event(mut self, event: &EventAttributes<'_>) -> Self {
        if let Some(id) = event.id {
            self.given_id = Some(id.to_owned());
        }
        let moment = match event.expirytime {
            None => return self,
            Some(EventTime::Moment(moment)) => Ok(Some(moment)),
            Some(EventTime::Text(text)) => moment(Some(text)),
        };
        match moment {
            Ok(moment) => self.expires_at = self.expires_at.into_iter().chain(moment).min(),
            Err(why) => {
                self.request = self.request.and_then(|request| {
                    let fault = Fault::malformed(format!("the CloudEvent's expirytime {why}"));
                    Err(Fault { readable: Some(request.identifiers().clone()), ..fault })
                });
            }
        }
        self
    }
}

/// The text of a field, if it is given; or why it has none.
pub(super) type Given<'a> = Result<Option<Cow<'a, str>>, &'static str>;

/// The fields of a request, not validated.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) customer_id: Given<'a>,
    pub(super) subscription_id: Given<'a>,
    pub(super) orderid: Given<'a>,
    pub(super) request_id: Given<'a>,
    pub(super) expires_at: Given<'a>,
}

impl Fields<'_> {
    /// Validates the fields. One fault names everything that is wrong. `found` is only asked if there
    /// is no identifier.
    pub(super) fn validate(self, found: impl FnOnce() -> FoundNames) -> Decoded {
        let mut wrong = Vec::new();
        let mut note = |name, why| wrong.push((name, why));
        let mut identifier = |name, given: Given<'_>| {
            let parsed = given.and_then(|text| text.map_or(Ok(None), Identifier::parse));
            parsed.unwrap_or_else(|why| {
                note(name, why);
                None
            })
        };
        let identifiers = Identifiers {
            customer_id: identifier("customer_id", self.customer_id),
            subscription_id: identifier("subscription_id", self.subscription_id),
            orderid: identifier("orderid", self.orderid),
        };
        // Also a bad one is the id, if it is a text: by it the sender recognises the outcome.
        let given_id = match self.request_id {
            Ok(id) => id.filter(|id| !is_blank(id)).map(Cow::into_owned),
            Err(why) => {
                note("request_id", why);
                None
            }
        };
        if let Some(Err(why)) = given_id.as_deref().map(check) {
            note("request_id", why);
        }
        let code = if wrong.is_empty() { FaultCode::Malformed } else { FaultCode::BadIdentifier };
        let expires_at = self.expires_at.and_then(|text| moment(text.as_deref())).unwrap_or_else(|why| {
            wrong.push(("expires_at", why));
            None
        });
        let request = if wrong.is_empty() {
            UnlockRequest::new(identifiers)
                .ok_or_else(|| Fault::new(FaultCode::NoIdentifier, found().no_identifier()))
        } else {
            let readable = UnlockRequest::new(identifiers).map(|request| request.identifiers().clone());
            let detail: Vec<_> = wrong.iter().map(|(name, why)| format!("{name} {why}")).collect();
            Err(Fault { readable, fields: wrong.into(), ..Fault::new(code, detail.join("; ")) })
        };
        Decoded { given_id, expires_at, request }
    }
}

/// Reads a time. A blank text counts as absent.
fn moment(text: Option<&str>) -> Result<Option<Timestamp>, &'static str> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| "is not a time as RFC 3339 writes it"),
    }
}

/// The names of the fields in a body without identifiers.
#[derive(Debug, Default)]
pub(super) struct FoundNames {
    listed: Vec<String>,
    bytes: usize,
    /// How many fields are not listed.
    others: usize,
    /// Whether there is a field that each CloudEvent has, and hardly anything else.
    has_specversion: bool,
}

impl FoundNames {
    pub(super) fn add(&mut self, name: &str) {
        self.has_specversion |= name == "specversion";
        let is_known = Identifiers::FIELDS.contains(&name);
        if is_name(name) && self.listed.len() < MAX_NAMES && self.bytes + name.len() <= MAX_NAMES_BYTES {
            self.bytes += name.len();
            self.listed.push(if is_known { format!("{name} (blank)") } else { quoted(name) });
        } else {
            self.others += 1;
        }
    }

    fn no_identifier(self) -> String {
        let mut found = self.listed;
        match self.others {
            0 => {}
            1 => found.push("one more".to_owned()),
            others => found.push(format!("{others} more")),
        }
        let found = if found.is_empty() { "no field".to_owned() } else { found.join(", ") };
        let event = match self.has_specversion {
            true => "; it looks like a CloudEvent: send it as application/cloudevents+json",
            false => "",
        };
        format!("none of customer_id, subscription_id and orderid is given; found: {found}{event}")
    }
}

/// Whether a text looks like the name of a field. If it has many digits, or more than words, it may
/// be an identifier in the wrong place.
fn is_name(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let is_usual = |c: char| c.is_alphabetic() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.' | ' ');
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(is_usual)
        && digits <= 2
        && text.len() <= 40
}
