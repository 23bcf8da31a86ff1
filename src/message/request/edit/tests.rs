use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::message::request::{FaultCode, MAX_BODY_BYTES, decode, is_plain};

fn content(content_type: &str) -> Content<'_> {
    Content::from(Some(content_type))
}

fn edited(content_type: &str, body: &str, edits: &[Edit<'_>]) -> String {
    let edited = set_identifiers(&content(content_type), body.as_bytes(), edits);
    String::from_utf8(edited.expect(body)).expect("UTF-8")
}

#[test]
fn a_field_is_set_in_its_place_or_at_the_end_and_the_others_stay_as_they_are() {
    for (body, edits, expected) in [
        (
            r#" { "note" : [1.50, "\u00fc"], "customer_id" : -0 , "n":1e400 } "#,
            &[("customer_id", "191")][..],
            r#"{"note":[1.50, "\u00fc"],"customer_id":"191","n":1e400}"#,
        ),
        ("{}", &[("customer_id", "1\"9")], r#"{"customer_id":"1\"9"}"#),
        (
            r#"{"customer":191}"#,
            &[("customer_id", "191"), ("orderid", "7")],
            r#"{"customer":191,"customer_id":"191","orderid":"7"}"#,
        ),
        // Twice the same field is malformed: it is written once.
        (
            r#"{"customer_id":1,"x":2,"customer_id":3}"#,
            &[("customer_id", "3")],
            r#"{"customer_id":"3","x":2}"#,
        ),
        (r#"{"customer_id":1,"orderid":true}"#, &[("orderid", "")], r#"{"customer_id":1}"#),
        (r#"{"customer_id":1}"#, &[("orderid", "")], r#"{"customer_id":1}"#),
        (r#"{"a\nb":1}"#, &[("orderid", "7")], r#"{"a\nb":1,"orderid":"7"}"#),
    ] {
        for content_type in ["application/json", "text/plain", "application/vnd.shop+json"] {
            assert_eq!(edited(content_type, body, edits), expected, "{content_type}");
        }
    }
    assert_eq!(edited("application/json", "\u{feff}{}", &[("orderid", "7")]), r#"{"orderid":"7"}"#);
}

#[test]
fn a_form_keeps_its_other_pairs_byte_for_byte() {
    let form = "application/x-www-form-urlencoded";
    for (body, edits, expected) in [
        ("", &[("customer_id", "191")][..], "customer_id=191"),
        (
            "a=%C3%BC+x&customer%5Fid=1&b&&customer_id=2",
            &[("customer_id", "1&9")],
            "a=%C3%BC+x&b&customer_id=1%269",
        ),
        ("customer_id=1&orderid=%00", &[("orderid", "")], "customer_id=1"),
    ] {
        assert_eq!(edited(form, body, edits), expected);
    }
}

#[test]
fn the_data_of_a_cloud_event_is_edited_in_the_form_that_it_has() {
    let structured = "application/cloudevents+json";
    let edits = &[("customer_id", "191")];
    for (body, expected) in [
        (
            r#"{"id":"e-1","data":{"customer":1},"time":"x"}"#,
            r#"{"id":"e-1","data":{"customer":1,"customer_id":"191"},"time":"x"}"#,
        ),
        (
            r#"{"datacontenttype":"text/plain","data":"{\"a\":1}"}"#,
            r#"{"datacontenttype":"text/plain","data":"{\"a\":1,\"customer_id\":\"191\"}"}"#,
        ),
        (
            r#"{"datacontenttype":"application/x-www-form-urlencoded","data":"a=1"}"#,
            r#"{"datacontenttype":"application/x-www-form-urlencoded","data":"a=1&customer_id=191"}"#,
        ),
    ] {
        assert_eq!(edited(structured, body, edits), expected);
    }
    let packed = format!(r#"{{"data_base64":"{}"}}"#, BASE64.encode("{}"));
    let expected = format!(r#"{{"data_base64":"{}"}}"#, BASE64.encode(r#"{"customer_id":"191"}"#));
    assert_eq!(edited(structured, &packed, edits), expected);
}

#[test]
fn what_has_no_place_for_a_field_is_a_fault_that_says_why() {
    for (content_type, body, code, detail) in [
        ("application/json", "{customer:1}", FaultCode::Malformed, "a field's name without double quotes"),
        ("application/json", "[1]", FaultCode::Malformed, "is not a JSON object, but an array"),
        ("application/json", "", FaultCode::Malformed, "is empty"),
        ("text/xml", "{}", FaultCode::UnsupportedContentType, "\"text/xml\""),
        ("application/cloudevents+json", "{}", FaultCode::Malformed, "has no data"),
        ("application/cloudevents+json", r#"{"data":null}"#, FaultCode::Malformed, "has no data"),
        ("application/cloudevents+json", r#"{"data":"x"}"#, FaultCode::Malformed, "but a string"),
        ("application/cloudevents+json", r#"{"data_base64":"?"}"#, FaultCode::Malformed, "not base64"),
    ] {
        let fault = set_identifiers(&content(content_type), body.as_bytes(), &[("orderid", "7")]);
        let fault = fault.expect_err(body);
        assert_eq!(fault.code, code, "{body}");
        assert!(fault.detail.contains(detail), "{}", fault.detail);
    }
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    let fault = set_identifiers(&content("application/json"), &large, &[]).expect_err("too large");
    assert_eq!(fault.code, FaultCode::TooLarge);
}

#[test]
fn a_packed_body_is_unpacked() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(br#"{"a":1}"#).expect("written");
    let packed = encoder.finish().expect("finished");
    let content = Content { content_encoding: Some("gzip"), ..content("application/json") };
    let body = set_identifiers(&content, &packed, &[("orderid", "7")]).expect("edited");
    assert_eq!(body, br#"{"a":1,"orderid":"7"}"#);
    assert!(!is_plain(&content) && is_plain(&Content { content_encoding: Some("utf-8"), ..content }));
    assert!(!is_plain(&Content { content_encoding: Some("br"), ..content }));
}

/// Whatever a field was, it has the new value afterwards, for the worker's decoder too.
#[test]
fn the_decoder_reads_what_was_set() {
    for (content_type, body) in [
        ("application/json", r#"{"customer_id":true,"orderid":"\u0000","x":{"customer_id":2}}"#),
        ("application/x-www-form-urlencoded", "customer_id=%FF&orderid=%0A"),
        ("application/cloudevents+json", r#"{"data":{"customer_id":[],"orderid":1.5}}"#),
    ] {
        assert!(decode(Some(content_type), body.as_bytes()).request.is_err());
        let edits = [("customer_id", "ü 1"), ("orderid", "")];
        let body = edited(content_type, body, &edits);
        let request = decode(Some(content_type), body.as_bytes()).request.expect("a request");
        let given: Vec<_> = request.identifiers().given().collect();
        assert_eq!(given, [("customer_id", "ü 1")], "{body}");
    }
}
