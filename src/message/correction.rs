//! What a person changes in an invalid request when it is replayed, so that a worker can read it.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};

use super::{
    Fault, Identifiers,
    headers::{self, MAX_SHORT_STRING},
    request::{self, Content, Identifier, MAX_BODY_BYTES},
};

const CONTENT_TYPE: &str = "content_type";
const BODY: &str = "body";
/// The header in which kombu says how it has compressed the body.
const COMPRESSION: &str = "compression";

/// Changes to a request: a content type, identifiers, a body. The default changes nothing.
///
/// Its JSON is for storing it, and has the whole body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredCorrection")]
pub struct Correction {
    /// Empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// By the name of their field. Empty: the field is removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    identifiers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

/// A correction as it was stored, not checked yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCorrection {
    content_type: Option<String>,
    #[serde(default)]
    identifiers: BTreeMap<String, String>,
    body: Option<String>,
}

impl TryFrom<StoredCorrection> for Correction {
    type Error = InvalidCorrection;

    fn try_from(stored: StoredCorrection) -> Result<Self, InvalidCorrection> {
        let mut correction = Self::default();
        for (name, value) in &stored.identifiers {
            correction.set(name, value)?;
        }
        if let Some(content_type) = &stored.content_type {
            correction.set(CONTENT_TYPE, content_type)?;
        }
        // As it is: another line break at its end was meant.
        correction.body = stored.body;
        Ok(correction)
    }
}

/// A change that no request can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCorrection(String);

impl Correction {
    /// The fields that [`set`](Self::set) takes.
    pub const FIELDS: [&'static str; 4] = ["customer_id", "subscription_id", "orderid", CONTENT_TYPE];

    /// Sets the content type or an identifier. An empty value removes it.
    ///
    /// # Errors
    /// If there is no such field, it is set already, or it cannot have this value.
    pub fn set(&mut self, field: &str, value: &str) -> Result<(), InvalidCorrection> {
        let wrong = |why: &str| InvalidCorrection(format!("{field} {why}"));
        let is_new = if field == CONTENT_TYPE {
            if value.len() > MAX_SHORT_STRING {
                return Err(wrong("is longer than 255 bytes"));
            }
            if value.chars().any(char::is_control) {
                return Err(wrong("holds a control character"));
            }
            self.content_type.replace(value.trim().to_owned()).is_none()
        } else if Identifiers::FIELDS.contains(&field) {
            let identifier = Identifier::parse(value.into()).map_err(wrong)?;
            if identifier.is_none() && !value.is_empty() {
                return Err(wrong("is blank; an empty value removes the field"));
            }
            self.identifiers.insert(field.to_owned(), value.to_owned()).is_none()
        } else {
            let known = Self::FIELDS.join(", ");
            return Err(InvalidCorrection(format!("there is no field {field:?}; there are {known}")));
        };
        if is_new { Ok(()) } else { Err(wrong("is set twice")) }
    }

    /// Replaces the body. A line break at its end is left out: editors add it, and in a form it would
    /// belong to the last value.
    ///
    /// # Errors
    /// If it is no text in UTF-8, is larger than a request may be, or there is one already.
    pub fn set_body(&mut self, body: Vec<u8>) -> Result<(), InvalidCorrection> {
        let wrong = |why: String| Err(InvalidCorrection(why));
        let length = body.len();
        if length > MAX_BODY_BYTES {
            return wrong(format!("the body has {length} bytes; at most {MAX_BODY_BYTES} are read"));
        }
        let Ok(mut body) = String::from_utf8(body) else {
            return wrong("the body is not UTF-8".to_owned());
        };
        if body.ends_with('\n') {
            body.truncate(body.len() - 1);
            body.truncate(body.strip_suffix('\r').map_or(body.len(), str::len));
        }
        match self.body.replace(body) {
            None => Ok(()),
            Some(_) => wrong("the body is set twice".to_owned()),
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The names of what it changes.
    pub fn fields(&self) -> Vec<&str> {
        self.changes().map(|(name, _value)| name).collect()
    }

    /// A text that differs for each correction.
    pub fn canonical(&self) -> String {
        self.changes().map(|(name, value)| format!("{name} {}:{value}\n", value.len())).collect()
    }

    fn changes(&self) -> impl Iterator<Item = (&str, &str)> {
        let content_type = self.content_type.as_deref().map(|content_type| (CONTENT_TYPE, content_type));
        let body = self.body.as_deref().map(|body| (BODY, body));
        content_type.into_iter().chain(self.identifiers()).chain(body)
    }

    /// The identifiers that it gives to every request.
    pub fn identifiers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.identifiers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether it replaces the whole body.
    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// The properties and the body with these changes. A new or edited body is not packed. Everything
    /// else stays.
    ///
    /// # Errors
    /// If there is no place for an identifier in the body. No error does not mean that the result is
    /// a valid request.
    pub fn apply(
        &self,
        properties: &BasicProperties,
        body: &[u8],
    ) -> Result<(BasicProperties, Vec<u8>), Fault> {
        let content_type = match self.content_type.as_deref() {
            None => properties.content_type().clone(),
            Some("") => None,
            Some(content_type) => Some(content_type.into()),
        };
        let mut corrected =
            with_content_type(properties, content_type, properties.content_encoding().clone());
        let mut body = body.to_vec();
        if let Some(new) = &self.body {
            corrected = unpacked(corrected);
            body = new.clone().into_bytes();
        }
        if !self.identifiers.is_empty() {
            let edits: Vec<_> = self.identifiers().collect();
            body = request::set_identifiers(&Content::from_properties(&corrected), &body, &edits)?;
            corrected = unpacked(corrected);
        }
        Ok((corrected, body))
    }
}

/// The properties of a body that is not packed.
fn unpacked(properties: BasicProperties) -> BasicProperties {
    if request::is_plain(&Content::from_properties(&properties)) {
        return properties;
    }
    let bare = with_content_type(&properties, properties.content_type().clone(), None);
    let Some(headers) = properties.headers() else {
        return bare;
    };
    let mut headers = headers.inner().clone();
    headers.retain(|name, value| {
        name.as_str() != COMPRESSION
            || !headers::text(value).is_some_and(|text| text.starts_with("application/"))
    });
    bare.with_headers(FieldTable::from(headers))
}

/// The properties with another content type and encoding.
fn with_content_type(
    properties: &BasicProperties,
    content_type: Option<ShortString>,
    content_encoding: Option<ShortString>,
) -> BasicProperties {
    let mut copy = BasicProperties::default();
    macro_rules! carry {
        ($($value:expr => $with:ident),* $(,)?) => {
            $(if let Some(value) = $value.clone() {
                copy = copy.$with(value);
            })*
        };
    }
    carry! {
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        properties.headers() => with_headers,
        properties.delivery_mode() => with_delivery_mode,
        properties.priority() => with_priority,
        properties.correlation_id() => with_correlation_id,
        properties.reply_to() => with_reply_to,
        properties.expiration() => with_expiration,
        properties.message_id() => with_message_id,
        properties.timestamp() => with_timestamp,
        properties.kind() => with_type,
        properties.user_id() => with_user_id,
        properties.app_id() => with_app_id,
        properties.cluster_id() => with_cluster_id,
    }
    copy
}

#[cfg(test)]
mod tests;
