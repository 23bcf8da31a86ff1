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

const UTF_16: &str = "looks like UTF-16: send it as UTF-8";

/// UTF-8's.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
        .map_err(|error| Fault::malformed(format!("{name} is not a JSON string: {}", plain(&error))))?;
    Ok(Some(text.into()))
}

/// The text of a body, without a byte order mark. All of it: serde does not check the encoding of
/// what it ignores.
pub(super) fn utf8<'a>(body: &'a [u8], what: &str) -> Result<&'a str, Fault> {
    if let Some(other) = other_encoding(body) {
        return Err(Fault::malformed(format!("{what} {other}")));
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    std::str::from_utf8(body).map_err(|error| {
        Fault::malformed(format!("{what} is not UTF-8: byte {} is wrong", error.valid_up_to() + 1))
    })
}

/// What a text in another encoding looks like. Neither JSON nor a form in UTF-8 begins so.
pub(super) fn other_encoding(body: &[u8]) -> Option<&'static str> {
    match body {
        [0x1f, 0x8b, ..] => Some("looks gzip-compressed: set content_encoding to gzip"),
        // A byte order mark, or ASCII in UTF-16.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(UTF_16),
        [first, 0, _, 0, ..] | [0, first, 0, _, ..] if *first != 0 => Some(UTF_16),
        _ => None,
    }
}

/// Where JSON is wrong and how, in words for people who do not know this program's JSON library.
pub fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let what = match what {
        "expected ident" => "a word that is not true, false or null",
        "expected value" => "no value",
        "expected `:`" => "no colon after a field's name",
        "expected `,` or `}`" => "no comma or } after a field",
        "expected `,` or `]`" => "no comma or ] after a value",
        "key must be a string" => "a field's name without double quotes",
        "trailing comma" => "a comma with nothing after it",
        "trailing characters" => "more text after the end",
        "invalid escape" => "a backslash before a character that needs none",
        "invalid number" => "a number that JSON does not allow",
        "recursion limit exceeded" => "nested too deeply",
        "lone leading surrogate in hex escape"
        | "unexpected end of hex escape"
        | "invalid unicode code point" => "\\u with a number that is no character",
        what if what.starts_with("EOF while parsing") => "it ends too early",
        what if what.starts_with("control character") => {
            "a control character in a string, such as a line break"
        }
        what => match what.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(name) => return format!("{name} is given twice{}", place(error)),
            None => what,
        },
    };
    format!("{what}{}", place(error))
}

fn place(error: &serde_json::Error) -> String {
    match error.line() {
        // The error is about no place.
        0 => String::new(),
        line => format!(" at line {line} column {}", error.column()),
    }
}

/// serde also reads an array as a struct, field by field. Only an object is a request.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Fault> {
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(b'{') {
        return serde_json::from_str(text)
            .map_err(|error| Fault::malformed(format!("{what} is not a request: {}", plain(&error))));
    }
    let kind = match (first, serde_json::from_str::<IgnoredAny>(text)) {
        (None, _) => return Err(Fault::malformed(format!("{what} is empty"))),
        (_, Err(error)) => return Err(Fault::malformed(format!("{what} is not JSON: {}", plain(&error)))),
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
