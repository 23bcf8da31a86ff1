//! Corrections: any change to any message.

use lapin::BasicProperties;
use proptest::prelude::*;
use trackfinity_unlocker::message::{
    Correction, headers,
    request::{self, Content, Decoded},
};

use super::{Bytes, Checked, gzip, text::Text};

/// A message, and what is set in it.
#[derive(Clone, Debug)]
pub struct Correcting {
    pub content_type: Option<String>,
    pub body: Bytes,
    pub packed: bool,
    /// By the name of their field, each once. Empty: the field is removed.
    pub identifiers: Vec<(&'static str, String)>,
    pub new_type: Option<String>,
}

impl Correcting {
    fn from_text(text: &Text<'_>) -> Self {
        let fields = ["customer_id", "subscription_id", "orderid"];
        let identifiers =
            fields.into_iter().filter_map(|name| Some((name, text.owned(&format!("set-{name}"))?)));
        Self {
            content_type: text.owned("content-type"),
            body: Bytes(text.body.to_vec()),
            packed: text.get("packing") == Some("gzip"),
            identifiers: identifiers.collect(),
            new_type: text.owned("set-content_type"),
        }
    }
}

pub fn check_bytes(bytes: &[u8]) -> Checked {
    check(Correcting::from_text(&Text::parse(bytes)))
}

fn decode(properties: &BasicProperties, body: &[u8]) -> Decoded {
    request::decode(Content::from_properties(properties), body)
}

pub fn check(input: Correcting) -> Checked {
    let Correcting { content_type, body: Bytes(body), packed, identifiers, new_type } = input;
    let is_short = |text: &String| text.len() <= headers::MAX_SHORT_STRING;
    let mut properties = BasicProperties::default().with_message_id("m-1".into()).with_priority(3);
    if let Some(content_type) = content_type.filter(is_short) {
        properties = properties.with_content_type(content_type.as_str().into());
    }
    let body = if packed { gzip(&body) } else { body };
    if packed {
        properties = properties.with_content_encoding("gzip".into());
    }
    let mut correction = Correction::default();
    for (name, value) in &identifiers {
        // Blank, too long, or with a control character: the command and the console refuse it. A form with U+FFFD is
        // no request, and the plan shows it: there it may stand for bytes that are not UTF-8.
        if correction.set(name, value).is_err() || value.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(());
        }
    }
    let sets_type = new_type.as_ref().is_some_and(|new| correction.set("content_type", new).is_ok());

    let before = decode(&properties, &body);
    let Ok((corrected, new_body)) = correction.apply(&properties, &body) else {
        // What is a request has a place for each field.
        prop_assert!(sets_type || before.request.is_err(), "{before:?}");
        return Ok(());
    };
    prop_assert_eq!(corrected.message_id(), properties.message_id());
    prop_assert_eq!(corrected.priority(), &Some(3));
    if identifiers.is_empty() {
        prop_assert_eq!(&new_body, &body);
        prop_assert_eq!(corrected.content_encoding(), properties.content_encoding());
    } else {
        prop_assert_eq!(corrected.content_encoding(), &None);
    }
    let after = decode(&corrected, &new_body);
    if let Ok(request) = &after.request {
        for (name, value) in &identifiers {
            let given = request.identifiers().given().find(|(given, _)| given == name);
            let expected = (!value.is_empty()).then_some((*name, value.as_str()));
            prop_assert_eq!(given, expected);
        }
    }
    if sets_type {
        return Ok(());
    }
    check_all_else(&before, &after, &identifiers, new_body.len())
}

/// What was no part of the correction is as before.
fn check_all_else(
    before: &Decoded,
    after: &Decoded,
    identifiers: &[(&'static str, String)],
    new_length: usize,
) -> Checked {
    let Ok(request) = &before.request else { return Ok(()) };
    let kept =
        request.identifiers().given().filter(|(name, _)| identifiers.iter().all(|(set, _)| set != name));
    let set = identifiers.iter().filter(|(_, value)| !value.is_empty());
    let mut expected: Vec<_> = kept.chain(set.map(|(name, value)| (*name, value.as_str()))).collect();
    expected.sort_unstable();
    match &after.request {
        Ok(after) => {
            let mut given: Vec<_> = after.identifiers().given().collect();
            given.sort_unstable();
            prop_assert_eq!(given, expected);
        }
        // The body had 64 KiB before, or nothing is left in it.
        Err(fault) => {
            prop_assert!(expected.is_empty() || new_length > request::MAX_BODY_BYTES, "{fault:?}")
        }
    }
    prop_assert!(
        after.request.is_err()
            || (after.given_id == before.given_id && after.expires_at == before.expires_at)
    );
    Ok(())
}
