//! W3C trace context in AMQP headers and HTTP headers.

use std::fmt;

use lapin::types::{AMQPValue, FieldTable};

use crate::message::headers;

/// The longest `tracestate` that is passed on, in bytes. A longer one is dropped (the W3C
/// recommendation asks for at least 512).
const MAX_TRACESTATE_BYTES: usize = 4096;

/// The position of a message in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// `00-<trace id>-<span id>-<flags>`, always well formed.
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// The context in a message's headers; `None` if there is none or it is malformed. A malformed
    /// `tracestate` is dropped, and the `traceparent` is kept.
    pub fn from_headers(headers: Option<&FieldTable>) -> Option<Self> {
        let get = |name| headers.and_then(|table| table.inner().get(name)).and_then(headers::text);
        Self::parse(get(headers::TRACEPARENT)?, get(headers::TRACESTATE))
    }

    /// The context in the values of both headers, as [`from_headers`](Self::from_headers).
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = traceparent.trim();
        if !is_traceparent(traceparent) {
            return None;
        }
        let tracestate = tracestate.map(str::trim).filter(|state| {
            !state.is_empty()
                && state.len() <= MAX_TRACESTATE_BYTES
                && state.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        });
        Some(Self { traceparent: traceparent.to_owned(), tracestate: tracestate.map(str::to_owned) })
    }

    /// A context that the caller knows to be well formed.
    pub(super) fn from_well_formed(traceparent: String, tracestate: Option<String>) -> Self {
        Self { traceparent, tracestate }
    }

    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// The context as AMQP headers.
    pub fn headers(&self) -> FieldTable {
        let mut table = FieldTable::default();
        let text = |value: &str| AMQPValue::LongString(value.into());
        table.insert(headers::TRACEPARENT.into(), text(self.traceparent()));
        if let Some(state) = self.tracestate() {
            table.insert(headers::TRACESTATE.into(), text(state));
        }
        table
    }

    /// The trace id, 32 hex digits.
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }

    /// The span id, 16 hex digits.
    pub fn span_id(&self) -> &str {
        self.traceparent.get(36..52).unwrap_or_default()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent)
    }
}

/// Whether a text is a `traceparent` of version 00, or of a later version with the same beginning.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        parts.next().filter(|part| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let (Some(version), Some(trace_id), Some(span_id), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    version != "ff"
        && !zero(trace_id)
        && !zero(span_id)
        && (parts.next().is_none() || version != "00")
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lapin::types::AMQPValue;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(entries: &[(&str, AMQPValue)]) -> Option<TraceContext> {
        let entries = entries.iter().map(|(name, value)| ((*name).into(), value.clone()));
        TraceContext::from_headers(Some(&FieldTable::from(entries.collect::<BTreeMap<_, _>>())))
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_context_is_read_from_strings_of_any_kind() {
        let bytes = AMQPValue::ByteArray(PARENT.as_bytes().to_vec().into());
        for parent in [long(PARENT), AMQPValue::ShortString(PARENT.into()), bytes] {
            let context = read(&[("traceparent", parent)]).expect("a context");
            assert_eq!(context.traceparent(), PARENT);
            assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
            assert_eq!(context.tracestate(), None);
        }
    }

    #[test]
    fn a_tracestate_that_is_empty_or_malformed_does_not_lose_the_parent() {
        for state in [long(""), long(" "), long("a=\u{1}b"), AMQPValue::Boolean(true)] {
            let context = read(&[("traceparent", long(PARENT)), ("tracestate", state)]);
            assert_eq!(context.expect("a context").tracestate(), None);
        }
        let context = read(&[("traceparent", long(PARENT)), ("tracestate", long("a=b,c=d"))]);
        assert_eq!(context.expect("a context").tracestate(), Some("a=b,c=d"));
    }

    #[test]
    fn a_malformed_traceparent_counts_as_absent() {
        for malformed in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x\r\ny: z",
        ] {
            assert_eq!(read(&[("traceparent", long(malformed))]), None, "{malformed}");
        }
        assert_eq!(read(&[("traceparent", AMQPValue::LongLongInt(1))]), None);
        let later_version = format!("01{}-x", PARENT.get(2..).expect("ASCII"));
        assert!(read(&[("traceparent", long(&later_version))]).is_some());
    }
}
