//! A request as a JSON object.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    fault::Fault,
    fields::{Decoded, Fields, FoundNames, Given},
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The fields as raw JSON text, so that numbers keep every digit. serde refuses a duplicate field.
#[derive(Deserialize)]
struct RawFields<'a> {
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    subscription_id: Option<&'a RawValue>,
    #[serde(borrow)]
    orderid: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
}

pub(super) fn decode(body: &[u8], what: &str) -> Decoded {
    match utf8(body, what).and_then(|text| Ok((text, read_fields(text, what)?))) {
        Ok((text, fields)) => fields.validate(|| found_names(text)),
        Err(fault) => fault.into(),
    }
}

fn read_fields<'a>(text: &'a str, what: &str) -> Result<Fields<'a>, Fault> {
    let raw: RawFields<'a> = parse_object(text, what)?;
    Ok(Fields {
        customer_id: identifier("customer_id", raw.customer_id)?,
        subscription_id: identifier("subscription_id", raw.subscription_id)?,
        orderid: identifier("orderid", raw.orderid)?,
        request_id: identifier("request_id", raw.request_id)?,
        expires_at: match raw.expires_at {
            None => Ok(None),
            Some(raw) => string("expires_at", raw)?.map_or(Err("is not a string"), |text| Ok(Some(text))),
        },
    })
}

/// A string or an integer.
fn identifier<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<Given<'a>, Fault> {
    let Some(raw) = raw else {
        return Ok(Ok(None));
    };
    if let Some(text) = string(name, raw)? {
        return Ok(Ok(Some(text)));
    }
    let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
    Ok(match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(Some(raw.get().into())),
        false => Err("is neither a string nor an integer"),
    })
}

/// The text of a JSON string; `None` if the value is of another type.
pub(super) fn string<'a>(name: &str, raw: &'a RawValue) -> Result<Option<Cow<'a, str>>, Fault> {
    let Some(text) = raw.get().strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return Ok(None);
    };
    if !text.contains('\\') {
        return Ok(Some(text.into()));
    }
    let text: String = serde_json::from_str(raw.get())
        .map_err(|error| Fault::malformed(format!("{name} is not a JSON string: {error}")))?;
    Ok(Some(text.into()))
}

/// The text of a body, without a byte order mark. All of it: serde does not check the encoding of
/// what it ignores.
pub(super) fn utf8<'a>(body: &'a [u8], what: &str) -> Result<&'a str, Fault> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    std::str::from_utf8(body).map_err(|error| {
        Fault::malformed(format!("{what} is not UTF-8: byte {} is wrong", error.valid_up_to() + 1))
    })
}

/// serde also reads an array as a struct, field by field. Only an object is a request.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Fault> {
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(b'{') {
        return serde_json::from_str(text)
            .map_err(|error| Fault::malformed(format!("{what} is not a request: {error}")));
    }
    let kind = match (first, serde_json::from_str::<IgnoredAny>(text)) {
        (None, _) => return Err(Fault::malformed(format!("{what} is empty"))),
        (_, Err(error)) => return Err(Fault::malformed(format!("{what} is not JSON: {error}"))),
        (Some(b'['), _) => "an array",
        (Some(b'"'), _) => "a string",
        (Some(b'n'), _) => "null",
        (Some(b't' | b'f'), _) => "a boolean",
        _ => "a number",
    };
    Err(Fault::malformed(format!("{what} is not a JSON object, but {kind}")))
}

fn found_names(text: &str) -> FoundNames {
    serde_json::from_str::<Names>(text).map(|names| names.0).unwrap_or_default()
}

/// The names of an object's fields. The values are skipped.
struct Names(FoundNames);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut names = FoundNames::default();
        while let Some((name, IgnoredAny)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
            names.add(&name);
        }
        Ok(Names(names))
    }
}
