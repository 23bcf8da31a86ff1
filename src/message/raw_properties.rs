//! A message's properties as bytes. AMQP 0-9-1 and RabbitMQ allow any bytes in a short string (AMQP
//! 1.0 ids of type uuid or binary arrive so), but lapin ends the connection if one is not UTF-8. This
//! module reads, shows and copies these messages, too.

mod parse;

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString, generation::gen_value},
};

pub use self::parse::Flaw;
use self::parse::{Field, Reader};
use super::headers;

/// A message's properties, read as far as possible.
#[derive(Clone, Debug, PartialEq)]
pub enum Properties {
    Readable(BasicProperties),
    Unreadable(RawProperties),
}

impl Properties {
    /// Reads the properties of a content header, which begin with their flags. Accepts any bytes.
    pub fn parse(bytes: &[u8]) -> Self {
        match parse::read(bytes) {
            (properties, None) => Self::Readable(properties),
            (lossy, Some(flaw)) => Self::Unreadable(RawProperties { bytes: bytes.to_vec(), lossy, flaw }),
        }
    }

    /// The properties with U+FFFD where they are not UTF-8, and without what cannot be read.
    pub fn lossy(&self) -> &BasicProperties {
        match self {
            Self::Readable(properties) => properties,
            Self::Unreadable(raw) => &raw.lossy,
        }
    }
}

/// Properties that lapin cannot read.
#[derive(Clone, Debug, PartialEq)]
pub struct RawProperties {
    bytes: Vec<u8>,
    lossy: BasicProperties,
    flaw: Flaw,
}

impl RawProperties {
    /// The original bytes, which begin with the flags.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What can be read, for people: with U+FFFD where it is not UTF-8. The values of text headers
    /// keep their bytes.
    pub fn lossy(&self) -> &BasicProperties {
        &self.lossy
    }

    /// Only the properties and headers that can be read whole.
    pub fn readable(&self) -> BasicProperties {
        let is_whole = |text: &ShortString| !text.as_str().contains(char::REPLACEMENT_CHARACTER);
        let mut readable = BasicProperties::default();
        macro_rules! keep {
            ($($get:ident => $with:ident),* $(,)?) => {
                $(if let Some(text) = self.lossy.$get().clone().filter(is_whole) {
                    readable = readable.$with(text);
                })*
            };
        }
        keep! {
            content_type => with_content_type,
            content_encoding => with_content_encoding,
            correlation_id => with_correlation_id,
            reply_to => with_reply_to,
            expiration => with_expiration,
            message_id => with_message_id,
            kind => with_type,
            user_id => with_user_id,
            app_id => with_app_id,
        }
        let headers = self.lossy.headers().iter().flatten();
        let headers: BTreeMap<_, _> = headers
            .filter(|(name, _)| is_whole(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        readable.with_headers(FieldTable::from(headers))
    }

    /// What is wrong with them.
    pub fn flaw(&self) -> Flaw {
        self.flaw
    }

    /// The properties of the message's copy for its next queue, as bytes. The copy is persistent,
    /// keeps all fields and headers byte for byte, and gets the `added` headers. It leaves out what
    /// [`headers::copy_for_dead_letters`] leaves out for dead letters.
    ///
    /// Has at most `max_len` bytes if `added` fits into them: the sender's largest headers are left
    /// out first.
    pub fn copy(&self, added: &[(&str, AMQPValue)], max_len: usize) -> Vec<u8> {
        let parts = self.parts();
        let mut own: Vec<Vec<u8>> = added.iter().filter_map(|(name, value)| entry(name, value)).collect();
        for (field, name) in
            [(Field::Expiration, headers::ORIGINAL_EXPIRATION), (Field::UserId, headers::ORIGINAL_USER_ID)]
        {
            let given = parts.fields.iter().find(|(found, _)| *found == field);
            let given = given.and_then(|(_, bytes)| bytes.get(1..)).map(|text| text.to_vec().into());
            own.extend(given.and_then(|text| entry(name, &AMQPValue::LongString(text))));
        }
        let priority = parts.fields.iter().find(|(found, _)| *found == Field::Priority);
        own.extend(priority.and_then(|(_, bytes)| {
            let priority = AMQPValue::LongLongInt((*bytes.first()?).into());
            entry(headers::ORIGINAL_PRIORITY, &priority)
        }));
        let new_trace = added.iter().any(|(name, _)| *name == headers::TRACEPARENT);
        let mut theirs: Vec<&[u8]> = Vec::new();
        for (name, whole) in &parts.entries {
            let replaced = added.iter().any(|(own, _)| own.as_bytes() == *name)
                || (new_trace && *name == headers::TRACESTATE.as_bytes());
            let left_out = std::str::from_utf8(name).is_ok_and(headers::is_left_out);
            if !replaced && !left_out && parse::is_whole(whole) {
                theirs.push(whole);
            }
        }
        let kept: Vec<(Field, &[u8])> = parts
            .fields
            .iter()
            .filter(|(field, _)| {
                !matches!(field, Field::DeliveryMode | Field::Priority | Field::Expiration | Field::UserId)
            })
            .copied()
            .collect();

        // Flags, the table's length and the delivery mode.
        let mut length = 2 + 4 + 1;
        length += kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        length += own.iter().map(Vec::len).sum::<usize>();
        length += theirs.iter().map(|entry| entry.len()).sum::<usize>();
        while length > max_len {
            let largest = theirs.iter().enumerate().max_by_key(|(_, entry)| entry.len());
            let Some((at, largest)) = largest.map(|(at, entry)| (at, entry.len())) else {
                break;
            };
            theirs.remove(at);
            length -= largest;
        }
        encode(&kept, &own, &theirs)
    }

    /// What does not change while the message waits in a queue: everything except the volatile
    /// headers. Headers are sorted, so that equal messages give equal bytes.
    pub fn lasting(&self, is_volatile: impl Fn(&str) -> bool) -> Vec<u8> {
        let parts = self.parts();
        let mut entries: Vec<&[u8]> = parts
            .entries
            .iter()
            .filter(|(name, _)| !std::str::from_utf8(name).is_ok_and(&is_volatile))
            .map(|(_, whole)| *whole)
            .collect();
        entries.sort_unstable();
        let mut bytes = entries.concat();
        for (field, value) in &parts.fields {
            bytes.extend(field.flag().to_be_bytes());
            bytes.extend(*value);
        }
        bytes.extend(parts.rest);
        bytes
    }

    fn parts(&self) -> Parts<'_> {
        let mut parts = Parts::default();
        let mut reader = Reader::new(&self.bytes);
        let Ok(flags) = reader.u16() else {
            return parts;
        };
        for field in Field::ALL.into_iter().filter(|field| flags & field.flag() != 0) {
            let Ok(bytes) = reader.field(field) else {
                break;
            };
            match field {
                Field::Headers => parts.entries = entries(bytes.get(4..).unwrap_or_default()),
                field => parts.fields.push((field, bytes)),
            }
        }
        parts.rest = reader.rest();
        parts
    }
}

/// The fields and headers of properties, in their order.
#[derive(Debug, Default)]
struct Parts<'a> {
    /// All fields except the headers.
    fields: Vec<(Field, &'a [u8])>,
    /// Each header: its name, and all its bytes.
    entries: Vec<(&'a [u8], &'a [u8])>,
    /// What could not be split into fields.
    rest: &'a [u8],
}

fn entries(table: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut entries = Vec::new();
    let mut reader = Reader::new(table);
    loop {
        let before = reader.rest();
        let (Ok(name), Ok(_value)) = (reader.short(), reader.value()) else {
            return entries;
        };
        let whole = before.get(..before.len() - reader.rest().len()).unwrap_or_default();
        entries.push((name, whole));
    }
}

/// A header's bytes.
fn entry(name: &str, value: &AMQPValue) -> Option<Vec<u8>> {
    let mut entry = vec![u8::try_from(name.len()).ok()?];
    entry.extend(name.as_bytes());
    let (value, _position) = gen_value(value)(Vec::new().into()).ok()?.into_inner();
    entry.extend(value);
    Some(entry)
}

fn encode(fields: &[(Field, &[u8])], own: &[Vec<u8>], theirs: &[&[u8]]) -> Vec<u8> {
    let table = [theirs.concat(), own.concat()].concat();
    let flags = fields.iter().fold(0, |flags, (field, _)| flags | field.flag());
    let flags = flags | Field::Headers.flag() | Field::DeliveryMode.flag();
    let mut bytes = flags.to_be_bytes().to_vec();
    for field in Field::ALL {
        match field {
            Field::Headers => {
                bytes.extend(u32::try_from(table.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend(&table);
            }
            Field::DeliveryMode => bytes.push(2),
            field => {
                let found = fields.iter().filter(|(found, _)| *found == field);
                bytes.extend(found.flat_map(|(_, bytes)| bytes.iter()));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
