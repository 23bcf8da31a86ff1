//! A request to unlock a customer: decoded from a message's body, or refused with a fault.

mod cloud_event;
mod content;
mod decode;
mod edit;
mod encoding;
mod fault;
mod fields;
mod form;
mod identifiers;
mod json;
mod media_type;

pub use self::{
    content::{Content, EventAttributes, EventTime},
    decode::decode,
    edit::{Edit, set_identifiers},
    encoding::{MAX_BODY_BYTES, is_plain, unpack},
    fault::{Fault, FaultCode},
    fields::Decoded,
    identifiers::{Identifier, Identifiers, MAX_IDENTIFIER_BYTES, UnlockRequest},
    json::{BYTE_ORDER_MARK, plain as plain_json_error},
};

#[cfg(test)]
mod tests;
