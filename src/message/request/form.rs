//! A request as a form, `application/x-www-form-urlencoded`.

use std::borrow::Cow;

use super::{
    fault::Fault,
    fields::{Decoded, Fields, FoundNames, Given},
    json::other_encoding,
};

/// The fields that are read.
const FIELDS: [&str; 5] = ["customer_id", "subscription_id", "orderid", "request_id", "expires_at"];

pub(super) fn decode(body: &[u8]) -> Decoded {
    if let Some(other) = other_encoding(body) {
        return Fault::malformed(format!("the body {other}")).into();
    }
    let mut values: [Option<Cow<'_, str>>; 5] = Default::default();
    for (name, value) in form_urlencoded::parse(body) {
        let Some(index) = FIELDS.iter().position(|field| *field == name) else {
            continue;
        };
        let slot = values.get_mut(index);
        if slot.and_then(|slot| slot.replace(value)).is_some() {
            return Fault::malformed(format!("{name} is given twice")).into();
        }
    }
    let [customer_id, subscription_id, orderid, request_id, expires_at] = values.map(checked);
    Fields { customer_id, subscription_id, orderid, request_id, expires_at }.validate(|| {
        let mut found = FoundNames::default();
        form_urlencoded::parse(body).for_each(|(name, _)| found.add(&name));
        found
    })
}

/// The form parser puts U+FFFD where the bytes are not UTF-8. Sent to Trackfinity, this could name
/// another customer.
fn checked(value: Option<Cow<'_, str>>) -> Given<'_> {
    match value {
        Some(value) if value.contains(char::REPLACEMENT_CHARACTER) => Err("is not UTF-8"),
        value => Ok(value),
    }
}
