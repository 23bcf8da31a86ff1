//! What a request unlocks: the identifiers that it gives.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

/// The longest identifier, in bytes of UTF-8.
pub const MAX_IDENTIFIER_BYTES: usize = 255;

/// One identifier: 1 to 255 bytes, not blank, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Identifier(#[schemars(length(min = 1, max = 255))] String);

impl Identifier {
    /// The text, as it is sent to Trackfinity.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `Ok(None)` for a blank text, which counts as absent.
    pub(crate) fn parse(text: Cow<'_, str>) -> Result<Option<Self>, &'static str> {
        if is_blank(&text) {
            return Ok(None);
        }
        check(&text)?;
        Ok(Some(Self(text.into_owned())))
    }
}

/// Whether a text has nothing but white space.
pub(super) fn is_blank(text: &str) -> bool {
    !text.as_bytes().first().is_some_and(u8::is_ascii_graphic) && text.trim().is_empty()
}

/// Whether a text may be an identifier, blank ones aside.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_IDENTIFIER_BYTES {
        return Err("is longer than 255 bytes");
    }
    // Nearly all are ASCII.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain && text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    Ok(())
}

/// The identifiers a request gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Identifiers {
    /// The customer to unlock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<Identifier>,
    /// A subscription of that customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<Identifier>,
    /// The event id of one of the customer's transactions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orderid: Option<Identifier>,
}

impl Identifiers {
    /// Field names, in the order in which they are sent.
    pub const FIELDS: [&'static str; 3] = ["customer_id", "subscription_id", "orderid"];

    pub(super) fn is_empty(&self) -> bool {
        self.given().next().is_none()
    }

    /// The identifiers that are given, as name and value.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = [&self.customer_id, &self.subscription_id, &self.orderid];
        Self::FIELDS
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value.as_ref()?.as_str())))
    }
}

/// A request with at least one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlockRequest(Identifiers);

impl UnlockRequest {
    /// `None` if there is no identifier.
    pub(super) fn new(identifiers: Identifiers) -> Option<Self> {
        (!identifiers.is_empty()).then_some(Self(identifiers))
    }

    /// What the request gives; never empty.
    pub fn identifiers(&self) -> &Identifiers {
        &self.0
    }

    /// The body of the call to Trackfinity, `application/x-www-form-urlencoded`.
    pub fn to_form(&self) -> String {
        form_urlencoded::Serializer::new(String::with_capacity(64)).extend_pairs(self.0.given()).finish()
    }
}
