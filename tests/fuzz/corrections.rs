//! Corrections: any change to any message.

use proptest::{collection::btree_map, option, prelude::*, sample::select};
use trackfinity_unlocker::message::Identifiers;

use super::{
    fuzz, like,
    requests::{any_body, any_content_type},
    targets::corrections::{Correcting, check},
};

/// Identifiers that may be sent, by the name of their field. Empty: the field is removed.
fn any_identifiers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let value = prop_oneof![4 => like("[^\\p{C}\\s\u{fffd}]{1,40}"), 1 => Just(String::new())];
    btree_map(select(Identifiers::FIELDS.to_vec()), value, 0..3)
        .prop_map(|identifiers| identifiers.into_iter().collect())
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
    let inputs = inputs.prop_map(|(content_type, body, packed, identifiers, new_type)| Correcting {
        content_type,
        body,
        packed,
        identifiers,
        new_type: new_type.map(Option::unwrap_or_default),
    });
    fuzz("corrections", inputs, check);
}
