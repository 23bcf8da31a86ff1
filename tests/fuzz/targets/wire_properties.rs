//! A message's properties as bytes: the program's own reader of what lapin may not read.

use lapin::{
    BasicProperties,
    protocol::basic::parse_properties,
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;
use trackfinity_unlocker::message::{Flaw, Properties, RawProperties, headers};

use super::Checked;

/// More than the flags, the other fields and the added headers need.
const MAX_LEN: usize = 6 * 1024;

/// `bytes`: as in a content header, with the flags first.
pub fn check_bytes(bytes: &[u8]) -> Checked {
    match Properties::parse(bytes) {
        Properties::Readable(properties) => {
            let (rest, as_lapin) = parse_properties(bytes).expect("lapin reads it");
            prop_assert!(rest.is_empty());
            // A double may be NaN, which is never equal.
            prop_assert_eq!(format!("{properties:?}"), format!("{as_lapin:?}"));
        }
        Properties::Unreadable(raw) => {
            // The lowest two flags belong to no property, and lapin ignores them. It reads by recursion without a limit.
            let has_unknown_flags = bytes.get(1).is_some_and(|flags| flags & 3 != 0);
            if !has_unknown_flags && raw.flaw() != Flaw::TooDeep {
                let as_lapin = parse_properties(bytes).ok().filter(|(rest, _)| rest.is_empty());
                prop_assert!(as_lapin.is_none(), "lapin reads it, and here it is {:?}", raw.flaw());
            }
            check_copy(&raw)?;
            prop_assert!(raw.lasting(|_| false).len() <= 3 * bytes.len());
        }
    }
    Ok(())
}

fn check_copy(raw: &RawProperties) -> Checked {
    let status = [(headers::STATUS, AMQPValue::LongString("invalid".into()))];
    let copy = raw.copy(&status, MAX_LEN);
    prop_assert!(copy.len() <= MAX_LEN, "{} bytes", copy.len());
    let again = Properties::parse(&copy);
    if let Properties::Unreadable(again) = &again {
        prop_assert_ne!(again.flaw(), Flaw::Malformed);
    }
    let lossy = again.lossy();
    // Of tables that are nested too deep, none is read.
    let none = FieldTable::default();
    let table = lossy.headers().as_ref().unwrap_or(&none);
    let is_deep = matches!(&again, Properties::Unreadable(again) if again.flaw() == Flaw::TooDeep);
    prop_assert!(is_deep || table.inner().get(headers::STATUS) == Some(&status[0].1));
    prop_assert!(is_deep || lossy.delivery_mode() == &Some(2));
    let acted_on = |properties: &BasicProperties| {
        properties.expiration().is_some() || properties.user_id().is_some() || properties.priority().is_some()
    };
    prop_assert!(!acted_on(lossy), "RabbitMQ would act on it again");
    let brokers = ["x-death", "x-delivery-count", "CC", "BCC"].iter().find(|name| table.contains_key(name));
    prop_assert_eq!(brokers, None);
    Ok(())
}
