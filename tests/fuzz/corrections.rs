//! Corrections: any change to any message.

use lapin::BasicProperties;
use proptest::{collection::btree_map, option, prelude::*, sample::select};
use trackfinity_unlocker::message::{
    Correction, Identifiers,
    request::{self, Content, Decoded},
};

use super::{
    Bytes, fuzz, like,
    requests::{any_body, any_content_type, gzip},
};

/// Identifiers that may be sent, by the name of their field. Empty: the field is removed.
fn any_identifiers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let value = prop_oneof![4 => like("[^\\p{C}\\s\u{fffd}]{1,40}"), 1 => Just(String::new())];
    btree_map(select(Identifiers::FIELDS.to_vec()), value, 0..3)
        .prop_map(|identifiers| identifiers.into_iter().collect())
}

fn decode(properties: &BasicProperties, body: &[u8]) -> Decoded {
    request::decode(Content::from_properties(properties), body)
}

#[test]
fn a_correction_sets_what_it_says_and_leaves_all_else() {
    let inputs = (
        any_content_type(),
        any_body(),
        any::<bool>(),
        any_identifiers(),
        option::weighted(0.2, any_content_type()),
    );
    fuzz("corrections", inputs, |(content_type, Bytes(body), packed, identifiers, new_type)| {
        let is_short = |text: &String| text.len() <= 255;
        let mut properties = BasicProperties::default().with_message_id("m-1".into()).with_priority(3);
        if let Some(content_type) = content_type.clone().filter(is_short) {
            properties = properties.with_content_type(content_type.as_str().into());
        }
        let body = if packed { gzip(&body) } else { body };
        if packed {
            properties = properties.with_content_encoding("gzip".into());
        }
        let mut correction = Correction::default();
        for (name, value) in &identifiers {
            prop_assert_eq!(correction.set(name, value), Ok(()));
        }
        let new_type = new_type.map(Option::unwrap_or_default);
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
        if let Ok(request) = &before.request {
            let kept = request
                .identifiers()
                .given()
                .filter(|(name, _)| identifiers.iter().all(|(set, _)| set != name));
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
                    prop_assert!(expected.is_empty() || new_body.len() > request::MAX_BODY_BYTES, "{fault:?}")
                }
            }
            prop_assert!(
                after.request.is_err()
                    || (after.given_id == before.given_id && after.expires_at == before.expires_at)
            );
        }
        Ok(())
    });
}
