//! A parser of AMQP 0-9-1 content properties that accepts texts which are not UTF-8.

use lapin::{
    BasicProperties,
    types::{AMQPType, AMQPValue, DecimalValue, FieldTable, ShortString},
};

use super::Flaw;
use crate::message::headers::MAX_SHORT_STRING;

/// How deep tables and arrays may be nested. Limited because the parser is recursive.
const MAX_DEPTH: usize = 64;

/// The properties in the order of their flags. The first flag is the highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

impl Field {
    pub(super) const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// Its flag.
    pub(super) fn flag(self) -> u16 {
        0x8000 >> (self as u16)
    }

    fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Headers => "headers",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::ClusterId => "cluster_id",
        }
    }
}

/// The bytes end too early, or do not have the expected form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Malformed;

type Read<T> = Result<T, Malformed>;

/// Reads bytes from their beginning to their end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that are not read yet.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Read<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The bytes of a short string.
    pub(super) fn short(&mut self) -> Read<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// The bytes of a long string, a table or an array.
    pub(super) fn long(&mut self) -> Read<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// The bytes of a field.
    pub(super) fn field(&mut self, field: Field) -> Read<&'a [u8]> {
        let mut ahead = *self;
        match field {
            Field::Headers => ahead.long().map(drop)?,
            Field::DeliveryMode | Field::Priority => ahead.u8().map(drop)?,
            Field::Timestamp => ahead.u64().map(drop)?,
            _ => ahead.short().map(drop)?,
        }
        self.take(self.0.len() - ahead.0.len())
    }

    /// The bytes of a value with its type tag. Does not parse tables and arrays.
    pub(super) fn value(&mut self) -> Read<&'a [u8]> {
        let mut ahead = *self;
        match AMQPType::from_id(char::from(ahead.u8()?)).ok_or(Malformed)? {
            AMQPType::Boolean | AMQPType::ShortShortInt | AMQPType::ShortShortUInt => ahead.take(1)?,
            AMQPType::ShortInt | AMQPType::ShortUInt => ahead.take(2)?,
            AMQPType::LongInt | AMQPType::LongUInt | AMQPType::Float => ahead.take(4)?,
            AMQPType::DecimalValue => ahead.take(5)?,
            AMQPType::LongLongInt | AMQPType::LongLongUInt | AMQPType::Double | AMQPType::Timestamp => {
                ahead.take(8)?
            }
            AMQPType::ShortString => ahead.short()?,
            AMQPType::LongString | AMQPType::ByteArray | AMQPType::FieldArray | AMQPType::FieldTable => {
                ahead.long()?
            }
            AMQPType::Void => &[],
        };
        self.take(self.0.len() - ahead.0.len())
    }
}

/// Reads as much as possible from any bytes: the properties with U+FFFD where they are not UTF-8,
/// and the first flaw, if there is one.
pub(super) fn read(bytes: &[u8]) -> (BasicProperties, Option<Flaw>) {
    let mut lenient = Lenient { flaw: None };
    let mut properties = BasicProperties::default();
    if lenient.properties(bytes, &mut properties).is_err() {
        lenient.note(Flaw::Malformed);
    }
    (properties, lenient.flaw)
}

/// Whether the bytes of a header can be read to their end.
pub(super) fn is_whole(entry: &[u8]) -> bool {
    Lenient { flaw: None }.table(entry, &mut FieldTable::default(), 0).is_ok()
}

/// A parser that continues after a flaw, and remembers the first one.
struct Lenient {
    flaw: Option<Flaw>,
}

impl Lenient {
    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    fn properties(&mut self, bytes: &[u8], properties: &mut BasicProperties) -> Read<()> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u16()?;
        // The lowest two bits belong to no property. The last one means that more flags follow.
        if flags & 3 != 0 {
            return Err(Malformed);
        }
        for field in Field::ALL.into_iter().filter(|field| flags & field.flag() != 0) {
            let read = std::mem::take(properties);
            *properties = match field {
                Field::Headers => {
                    let mut table = FieldTable::default();
                    let read_whole = self.table(reader.long()?, &mut table, 0);
                    let read = read.with_headers(table);
                    if read_whole.is_err() {
                        self.note(Flaw::Malformed);
                    }
                    read
                }
                Field::DeliveryMode => read.with_delivery_mode(reader.u8()?),
                Field::Priority => read.with_priority(reader.u8()?),
                Field::Timestamp => read.with_timestamp(reader.u64()?),
                Field::ContentType => read.with_content_type(self.field(&mut reader, field)?),
                Field::ContentEncoding => read.with_content_encoding(self.field(&mut reader, field)?),
                Field::CorrelationId => read.with_correlation_id(self.field(&mut reader, field)?),
                Field::ReplyTo => read.with_reply_to(self.field(&mut reader, field)?),
                Field::Expiration => read.with_expiration(self.field(&mut reader, field)?),
                Field::MessageId => read.with_message_id(self.field(&mut reader, field)?),
                Field::Type => read.with_type(self.field(&mut reader, field)?),
                Field::UserId => read.with_user_id(self.field(&mut reader, field)?),
                Field::AppId => read.with_app_id(self.field(&mut reader, field)?),
                Field::ClusterId => read.with_cluster_id(self.field(&mut reader, field)?),
            };
        }
        if reader.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn field(&mut self, reader: &mut Reader<'_>, field: Field) -> Read<ShortString> {
        Ok(self.text(reader.short()?, field.name()))
    }

    fn text(&mut self, bytes: &[u8], what: &'static str) -> ShortString {
        let text = String::from_utf8_lossy(bytes);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            self.note(Flaw::NotUtf8(what));
        }
        // U+FFFD has more bytes than what it replaces, so the text may have become too long.
        let text = text.get(..text.floor_char_boundary(MAX_SHORT_STRING)).unwrap_or_default();
        ShortString::try_new(text).unwrap_or_default()
    }

    /// Adds the entries that can be read.
    fn table(&mut self, bytes: &[u8], table: &mut FieldTable, depth: usize) -> Read<()> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let name = self.text(reader.short()?, "header's name");
            let value = self.value(reader.value()?, depth)?;
            table.insert(name, value);
        }
        Ok(())
    }

    fn value(&mut self, bytes: &[u8], depth: usize) -> Read<AMQPValue> {
        let mut reader = Reader::new(bytes);
        Ok(match AMQPType::from_id(char::from(reader.u8()?)).ok_or(Malformed)? {
            AMQPType::Boolean => AMQPValue::Boolean(reader.u8()? != 0),
            AMQPType::ShortShortInt => AMQPValue::ShortShortInt(i8::from_be_bytes(reader.array()?)),
            AMQPType::ShortShortUInt => AMQPValue::ShortShortUInt(reader.u8()?),
            AMQPType::ShortInt => AMQPValue::ShortInt(i16::from_be_bytes(reader.array()?)),
            AMQPType::ShortUInt => AMQPValue::ShortUInt(reader.u16()?),
            AMQPType::LongInt => AMQPValue::LongInt(i32::from_be_bytes(reader.array()?)),
            AMQPType::LongUInt => AMQPValue::LongUInt(reader.u32()?),
            AMQPType::LongLongInt | AMQPType::LongLongUInt => {
                AMQPValue::LongLongInt(i64::from_be_bytes(reader.array()?))
            }
            AMQPType::Float => AMQPValue::Float(f32::from_be_bytes(reader.array()?)),
            AMQPType::Double => AMQPValue::Double(f64::from_be_bytes(reader.array()?)),
            AMQPType::DecimalValue => {
                AMQPValue::DecimalValue(DecimalValue { scale: reader.u8()?, value: reader.u32()? })
            }
            AMQPType::ShortString => AMQPValue::ShortString(self.text(reader.short()?, "header's text")),
            AMQPType::LongString => AMQPValue::LongString(reader.long()?.to_vec().into()),
            AMQPType::ByteArray => AMQPValue::ByteArray(reader.long()?.to_vec().into()),
            AMQPType::Timestamp => AMQPValue::Timestamp(reader.u64()?),
            AMQPType::Void => AMQPValue::Void,
            AMQPType::FieldArray | AMQPType::FieldTable if depth >= MAX_DEPTH => {
                self.note(Flaw::TooDeep);
                AMQPValue::Void
            }
            AMQPType::FieldArray => {
                let mut elements = Reader::new(reader.long()?);
                let mut array = Vec::new();
                while !elements.is_empty() {
                    array.push(self.value(elements.value()?, depth + 1)?);
                }
                AMQPValue::FieldArray(array.into())
            }
            AMQPType::FieldTable => {
                let mut table = FieldTable::default();
                self.table(reader.long()?, &mut table, depth + 1)?;
                AMQPValue::FieldTable(table)
            }
        })
    }
}
