//! The headers of an HTTP request that the gateway reads.

use std::{borrow::Cow, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::{http::Problem, message::headers::MAX_SHORT_STRING, telemetry::TraceContext};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const EVENT_PREFIX: &str = "ce-";

/// The media type of a batch.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// The problem of a header that cannot be used.
pub(super) fn bad_header(name: &str, why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_header", format!("The header {name} {why}."))
}

/// A header that may be given once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(bad_header(name.as_str(), "is given more than once")),
    }
}

/// A header that AMQP can hold as a property: visible ASCII and blanks, at most 255 bytes.
fn property<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = single(headers, name)? else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| bad_header(name.as_str(), "is not visible ASCII"))?;
    match text.len() {
        0 => Ok(None),
        1..=MAX_SHORT_STRING => Ok(Some(text)),
        _ => Err(bad_header(name.as_str(), "is longer than 255 bytes")),
    }
}

/// A property that others show or compare: without tabs, too.
fn visible<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    match property(headers, name)? {
        Some(text) if text.contains('\t') => Err(bad_header(name.as_str(), "is not visible ASCII")),
        text => Ok(text),
    }
}

/// The key of the request: the `Idempotency-Key`, else the `webhook-id`.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Problem> {
    match single(headers, &IDEMPOTENCY_KEY)? {
        Some(value) => idempotency_key(value).map(Some),
        None => webhook_id(headers).map(|id| id.map(Cow::from)),
    }
}

/// The `webhook-id`.
pub(super) fn webhook_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    visible(headers, &WEBHOOK_ID)
}

/// A structured field's string (RFC 8941), or a plain text without quotes.
fn idempotency_key(value: &HeaderValue) -> Result<Cow<'_, str>, Problem> {
    let wrong = |why| bad_header("Idempotency-Key", why);
    let text = value.to_str().ok().filter(|text| !text.contains('\t'));
    let text = text.ok_or_else(|| wrong("is not visible ASCII"))?.trim();
    let key = match text.strip_prefix('"') {
        None if text.contains('"') => return Err(wrong("has a quotation mark inside: put the whole key in quotes")),
        None => Cow::from(text),
        Some(quoted) => Cow::from(unquote(quoted).ok_or_else(|| {
            wrong("is not one string in quotes; \\\" and \\\\ stand for a quotation mark and a backslash inside")
        })?),
    };
    if key.trim().is_empty() { Err(wrong("is empty")) } else { Ok(key) }
}

/// The text of a quoted string, from behind its first quotation mark; `None` if it does not end with the
/// second one.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(text),
            '\\' => text.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => text.push(c),
        }
    }
}

/// The `X-Correlation-Id`.
pub(super) fn correlation_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    visible(headers, &CORRELATION_ID)
}

/// How long the sender wants to wait for the outcome (RFC 7240, `wait`). What cannot be understood counts as
/// absent, as the RFC asks.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        // As many digits as the sender likes: what is too much for the number is too long for the gateway, too.
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        name.trim()
            .eq_ignore_ascii_case("wait")
            .then(|| is_number.then(|| value.parse::<u32>().unwrap_or(u32::MAX)))
    });
    seconds.take(1).flatten().next().map(|seconds| Duration::from_secs(seconds.into()))
}

/// Whether the body is a batch.
pub(super) fn is_batch(properties: &BasicProperties) -> bool {
    let given = properties.content_type().as_ref().map_or("", |given| given.as_str());
    given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NDJSON)
}

/// Whether the body is compressed, or encoded otherwise.
pub(super) fn is_encoded(properties: &BasicProperties) -> bool {
    let encoding = properties.content_encoding().as_ref();
    encoding.is_some_and(|encoding| !encoding.as_str().eq_ignore_ascii_case("identity"))
}

/// The size that the head tells, in bytes.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The trace that the request belongs to.
pub(super) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    TraceContext::parse(text("traceparent")?, text("tracestate"))
}

/// What the head says about the body, as the properties and headers of its message: there the gateway and the
/// worker read it.
pub(super) fn properties(headers: &HeaderMap) -> Result<BasicProperties, Problem> {
    let mut properties = BasicProperties::default();
    if let Some(content_type) = property(headers, &header::CONTENT_TYPE)? {
        properties = properties.with_content_type(content_type.into());
    }
    if let Some(encoding) = property(headers, &header::CONTENT_ENCODING)? {
        properties = properties.with_content_encoding(encoding.into());
    }
    let event = event_headers(headers)?;
    Ok(if event.inner().is_empty() { properties } else { properties.with_headers(event) })
}

/// The attributes of a CloudEvent in binary mode, as headers of a message.
fn event_headers(headers: &HeaderMap) -> Result<FieldTable, Problem> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with(EVENT_PREFIX) {
            continue;
        }
        if name.len() > MAX_SHORT_STRING {
            return Err(bad_header("ce-…", "has a name of more than 255 bytes"));
        }
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| bad_header(name, "is not UTF-8"))?;
        // Of two values, the gateway would read one and the worker the other.
        if table.contains_key(name) {
            return Err(bad_header(name, "is given more than once"));
        }
        table.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::Content;

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        headers
    }

    #[test]
    fn a_key_is_a_string_in_quotes_or_plain() {
        for (given, key) in [
            (r#""8e03978e-40d5""#, "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
            ("  plain  ", "plain"),
        ] {
            let headers = headers(&[("idempotency-key", given)]);
            assert_eq!(super::key(&headers).expect(given).as_deref(), Some(key));
        }
        for wrong in
            ["", " ", r#""""#, r#""a"#, r#"a"b"#, r#""a" b"#, r#""a\n""#, "\u{e9}", "a\tb", "\"a\tb\""]
        {
            assert!(key(&headers(&[("idempotency-key", wrong)])).is_err(), "{wrong:?}");
        }
        assert!(key(&headers(&[("idempotency-key", "a"), ("idempotency-key", "a")])).is_err());
    }

    #[test]
    fn the_idempotency_key_counts_more_than_the_webhook_id() {
        let both = headers(&[("webhook-id", "w"), ("idempotency-key", "k")]);
        assert_eq!(key(&both).expect("a key").as_deref(), Some("k"));
        assert_eq!(key(&headers(&[("webhook-id", "w")])).expect("a key").as_deref(), Some("w"));
        assert_eq!(key(&HeaderMap::new()).expect("no key"), None);
    }

    #[test]
    fn the_wait_is_read_among_other_preferences() {
        for (given, seconds) in [
            ("wait=10", Some(10)),
            ("respond-async, wait=10", Some(10)),
            ("return=minimal; foo=\"bar\", Wait = \"7\"", Some(7)),
            ("wait=3, wait=9", Some(3)),
            ("wait=0", Some(0)),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=1.5", None),
            ("wait=+2", None),
            ("wait=99999999999", Some(u32::MAX.into())),
            ("waiting=3", None),
        ] {
            let wait = wait(&headers(&[("prefer", given)]));
            assert_eq!(wait, seconds.map(Duration::from_secs), "{given}");
        }
        assert_eq!(wait(&headers(&[("prefer", "a=b"), ("prefer", "wait=4")])), Some(Duration::from_secs(4)));
    }

    #[test]
    fn the_attributes_of_an_event_become_headers_and_others_do_not() {
        let given = headers(&[("ce-id", "e-1"), ("ce-source", "shop"), ("cookie", "c"), ("x-death", "x")]);
        let properties = properties(&given).expect("properties");
        let headers = properties.headers().as_ref().expect("headers");
        let names: Vec<&str> = headers.inner().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["ce-id", "ce-source"]);
        assert_eq!(Content::from_properties(&properties).event.id, Some("e-1"));
    }

    #[test]
    fn an_attribute_of_an_event_is_given_once() {
        let twice = headers(&[("ce-expirytime", "2036-11-23T10:00:00Z"), ("ce-expirytime", "soon")]);
        assert!(properties(&twice).is_err());
    }

    #[test]
    fn a_batch_is_named_by_its_content_type_in_any_case() {
        for (content_type, is_batch) in [
            ("application/x-ndjson", true),
            ("Application/X-NDJSON ; charset=utf-8", true),
            ("application/json", false),
            ("", false),
        ] {
            let given = headers(&[("content-type", content_type)]);
            assert_eq!(super::is_batch(&properties(&given).expect("properties")), is_batch, "{content_type}");
        }
        let two = headers(&[("content-type", "application/x-ndjson"), ("content-type", "application/json")]);
        assert!(properties(&two).is_err());
    }

    #[test]
    fn what_no_property_can_hold_is_refused() {
        let long = "x".repeat(256);
        for name in ["content-type", "content-encoding", "x-correlation-id"] {
            let given = headers(&[(name, &long)]);
            let refused = properties(&given).is_err() || correlation_id(&given).is_err();
            assert!(refused, "{name}");
        }
        for (name, value) in
            [("x-correlation-id", "\u{e9}"), ("x-correlation-id", "a\tb"), ("webhook-id", "a\tb")]
        {
            let given = headers(&[(name, value)]);
            assert!(correlation_id(&given).is_err() || webhook_id(&given).is_err(), "{name}");
        }
        let content_type = headers(&[("content-type", "application/json;\tcharset=utf-8")]);
        assert!(properties(&content_type).is_ok());
    }
}
