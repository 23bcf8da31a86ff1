//! Sets identifiers in a request's body, and leaves everything else in it as it is.

use std::{borrow::Cow, fmt};

use base64::Engine;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    cloud_event::BASE64,
    content::Content,
    encoding,
    fault::Fault,
    json,
    media_type::{MediaType, unsupported},
};

/// A field and its new value. An empty value removes the field.
pub type Edit<'a> = (&'a str, &'a str);

/// Sets identifiers in a body of any form that is read. The result is not packed, whatever the body
/// was.
///
/// # Errors
/// If the body is not in the form that its content type says, so that there is no place for a field.
pub fn set_identifiers(content: &Content<'_>, body: &[u8], edits: &[Edit<'_>]) -> Result<Vec<u8>, Fault> {
    let body = encoding::unpack(content, body)?;
    match MediaType::new(content.content_type) {
        MediaType::Json | MediaType::Unspecific => {
            let text = json::utf8(&body, "the body")?;
            Ok(edit_object(text, "the body", edits)?.into_bytes())
        }
        MediaType::Form => Ok(edit_form(&body, edits)),
        MediaType::CloudEvent => {
            let text = json::utf8(&body, "the CloudEvent")?;
            Ok(edit_event(text, edits)?.into_bytes())
        }
        MediaType::CloudEventBatch | MediaType::Unsupported => {
            Err(unsupported("content type", content.content_type))
        }
    }
}

/// A JSON object's fields in their order, each value as it is written. A name may come twice.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Members)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn edit_object(text: &str, what: &str, edits: &[Edit<'_>]) -> Result<String, Fault> {
    let members: Members<'_> = json::parse_object(text, what)?;
    let values = edits.iter().map(|(name, value)| (*name, (!value.is_empty()).then(|| quoted(value))));
    let values: Vec<_> = values.collect();
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    Ok(replaced(&members, &values))
}

/// The object with these values, as JSON, in place of the first field of that name, else at the end.
/// `None` removes the field.
fn replaced(members: &Members<'_>, values: &[(&str, Option<&str>)]) -> String {
    let mut left = values.to_vec();
    let mut fields: Vec<String> = Vec::new();
    for (name, value) in &members.0 {
        let value = match values.iter().any(|(edited, _)| *edited == name) {
            false => Some(value.get()),
            true => {
                let at = left.iter().position(|(edited, _)| *edited == name);
                at.and_then(|at| left.remove(at).1)
            }
        };
        fields.extend(value.map(|value| field(name, value)));
    }
    fields.extend(left.iter().filter_map(|(name, value)| Some(field(name, (*value)?))));
    format!("{{{}}}", fields.join(","))
}

fn field(name: &str, json: &str) -> String {
    format!("{}:{json}", quoted(name))
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Sets identifiers in the data of a CloudEvent.
fn edit_event(text: &str, edits: &[Edit<'_>]) -> Result<String, Fault> {
    let members: Members<'_> = json::parse_object(text, "the CloudEvent")?;
    let get = |wanted: &str| {
        let member = members.0.iter().find(|(name, value)| name == wanted && value.get() != "null");
        member.map(|(_, value)| *value)
    };
    let content_type = get("datacontenttype").map(|raw| json::string("datacontenttype", raw)).transpose()?;
    let content_type = content_type.flatten();
    let media_type = MediaType::new(content_type.as_deref());
    let edit_data = |data: &[u8]| match media_type {
        MediaType::Json | MediaType::Unspecific => {
            let what = "the CloudEvent's data";
            Ok(edit_object(json::utf8(data, what)?, what, edits)?.into_bytes())
        }
        MediaType::Form => Ok(edit_form(data, edits)),
        MediaType::CloudEvent | MediaType::CloudEventBatch | MediaType::Unsupported => {
            Err(unsupported("CloudEvent's datacontenttype", None))
        }
    };
    let (name, value) = match (get("data"), get("data_base64")) {
        (Some(data), _) => match json::string("data", data)? {
            Some(text) if media_type != MediaType::Json => {
                let edited = edit_data(text.as_bytes())?;
                ("data", quoted(&String::from_utf8_lossy(&edited)))
            }
            _ => ("data", edit_object(data.get(), "the CloudEvent's data", edits)?),
        },
        (None, Some(data)) => {
            let text = json::string("data_base64", data)?;
            let bytes = text.and_then(|text| BASE64.decode(text.as_bytes()).ok());
            let bytes =
                bytes.ok_or_else(|| Fault::malformed("the CloudEvent's data_base64 is not base64"))?;
            ("data_base64", quoted(&BASE64.encode(edit_data(&bytes)?)))
        }
        (None, None) => return Err(Fault::malformed("the CloudEvent has no data")),
    };
    Ok(replaced(&members, &[(name, Some(&value))]))
}

fn edit_form(body: &[u8], edits: &[Edit<'_>]) -> Vec<u8> {
    let is_edited = |pair: &[u8]| {
        let name = form_urlencoded::parse(pair).next().map(|(name, _)| name);
        name.is_some_and(|name| edits.iter().any(|(edited, _)| *edited == name))
    };
    let kept = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty() && !is_edited(pair));
    let mut pairs: Vec<Vec<u8>> = kept.map(<[u8]>::to_vec).collect();
    for (name, value) in edits.iter().filter(|(_, value)| !value.is_empty()) {
        let mut pair = form_urlencoded::Serializer::new(String::new());
        pairs.push(pair.append_pair(name, value).finish().into_bytes());
    }
    pairs.join(&b'&')
}

#[cfg(test)]
mod tests;
