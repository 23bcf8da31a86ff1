mod cloud_events;

use proptest::prelude::*;

use super::*;

const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
const EVENT: Option<&str> = Some("application/cloudevents+json");

fn given(content_type: Option<&str>, body: &str) -> Vec<(&'static str, String)> {
    let request = decode(content_type, body.as_bytes()).request.expect("a request");
    request.identifiers().given().map(|(name, value)| (name, value.to_owned())).collect()
}

fn fault(content_type: Option<&str>, body: impl AsRef<[u8]>) -> Fault {
    decode(content_type, body.as_ref()).request.expect_err("a fault")
}

fn code(content_type: Option<&str>, body: impl AsRef<[u8]>) -> &'static str {
    fault(content_type, body).code.as_str()
}

#[test]
fn each_identifier_alone_makes_a_request() {
    for field in Identifiers::FIELDS {
        assert_eq!(given(None, &format!(r#"{{"{field}":"x1"}}"#)), [(field, "x1".to_owned())]);
        assert_eq!(given(FORM, &format!("{field}=x1")), [(field, "x1".to_owned())]);
    }
}

#[test]
fn an_integer_keeps_every_digit() {
    let digits = "123456789012345678901234567890";
    assert_eq!(given(JSON, &format!(r#"{{"customer_id":{digits}}}"#))[0].1, digits);
    assert_eq!(given(JSON, r#"{"customer_id":191}"#)[0].1, "191");
}

#[test]
fn blank_and_null_count_as_absent() {
    for body in [r"{}", r#"{"customer_id":""}"#, r#"{"orderid":" \t "}"#, r#"{"orderid":null}"#] {
        assert_eq!(code(JSON, body), "no_identifier", "{body}");
    }
    assert_eq!(code(FORM, "customer_id=+&orderid"), "no_identifier");
    let body = r#"{"customer_id":null,"orderid":"7"}"#;
    assert_eq!(given(JSON, body), [("orderid", "7".to_owned())]);
}

#[test]
fn what_is_not_an_object_is_malformed() {
    for body in ["", " ", "nonsense", "[]", r#"["191"]"#, "true", "191", "{", r#"{"a":1}}"#, "null"] {
        assert_eq!(code(JSON, body), "malformed", "{body}");
    }
    assert_eq!(code(JSON, b"{\"customer_id\":\"\xff\"}"), "malformed");
    assert_eq!(code(JSON, b"{\"customer_id\":1,\"ignored\":\"\xff\"}"), "malformed");
    assert_eq!(code(JSON, r#"{"customer_id":"\ud800"}"#), "malformed");
}

#[test]
fn a_field_given_twice_is_malformed_whatever_its_spelling() {
    assert_eq!(code(JSON, r#"{"customer_id":1,"customer_id":1}"#), "malformed");
    assert_eq!(code(JSON, r#"{"customer_id":1,"customer\u005fid":2}"#), "malformed");
    assert_eq!(code(FORM, "orderid=1&orderid=2"), "malformed");
}

#[test]
fn an_identifier_of_another_type_is_bad() {
    for value in ["true", "1.0", "1e3", "[]", "{}", r#""a\u0000b""#, r#""line\nbreak""#] {
        assert_eq!(code(JSON, format!(r#"{{"customer_id":{value}}}"#)), "bad_identifier", "{value}");
    }
    assert_eq!(code(FORM, "customer_id=%ff"), "bad_identifier");
    assert_eq!(code(FORM, "customer_id=a%00b"), "bad_identifier");
}

#[test]
fn an_identifier_has_at_most_255_bytes() {
    let body = |length: usize| format!(r#"{{"customer_id":"{}"}}"#, "é".repeat(length));
    assert_eq!(given(JSON, &body(127))[0].1.len(), 254);
    assert_eq!(code(JSON, body(128)), "bad_identifier");
}

#[test]
fn a_bad_identifier_leaves_the_readable_ones_and_names_every_bad_one() {
    let fault = fault(JSON, r#"{"customer_id":true,"subscription_id":[],"orderid":"7"}"#);
    assert_eq!(
        fault.detail,
        "customer_id is neither a string nor an integer; subscription_id is neither a string nor an integer"
    );
    let readable = fault.readable.expect("the order id");
    assert_eq!(readable.given().collect::<Vec<_>>(), [("orderid", "7")]);
}

#[test]
fn a_body_over_64_kib_is_too_large() {
    let body = |padding: usize| format!(r#"{{"customer_id":1,"x":"{}"}}"#, "y".repeat(padding));
    let overhead = body(0).len();
    assert_eq!(given(JSON, &body(MAX_BODY_BYTES - overhead)).len(), 1);
    assert_eq!(code(JSON, body(MAX_BODY_BYTES - overhead + 1)), "too_large");
}

#[test]
fn content_types_are_read_without_regard_to_case_and_parameters() {
    let body = r#"{"customer_id":1}"#;
    for content_type in [
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/json;charset=iso-8859-1",
        "text/plain",
        "TEXT/Plain ; charset=us-ascii",
        "application/octet-stream",
        "application/data",
        "application/vnd.api+json",
        "application/vnd.shop+JSON; version=2",
    ] {
        assert_eq!(given(Some(content_type), body).len(), 1, "{content_type}");
    }
    for content_type in ["application/xml", "text/html", "json", "+json/x", "application/cloudevents+xml"] {
        let fault = fault(Some(content_type), body);
        assert_eq!(fault.code.as_str(), "unsupported_content_type", "{content_type}");
        let named = format!("the content type is \"{content_type}\"; supported are application/json, ");
        assert!(fault.detail.starts_with(&named), "{}", fault.detail);
    }
    let batch = fault(Some("application/cloudevents-batch+json"), "[]");
    assert_eq!(batch.code.as_str(), "unsupported_content_type");
    assert!(batch.detail.contains("a batch is not read"), "{}", batch.detail);
}

#[test]
fn a_content_type_is_quoted_escaped_and_cut() {
    let long = format!("a\n\"b{}; charset=secret", "x".repeat(200));
    let detail = fault(Some(&long), "{}").detail;
    assert!(detail.contains(&format!(r#""a\n\"b{}…""#, "x".repeat(60))), "{detail}");
}

#[test]
fn a_byte_order_mark_is_ignored_before_json() {
    let body = "\u{feff}{\"customer_id\":1}";
    assert_eq!(given(JSON, body).len(), 1);
    let event = format!("\u{feff}{{\"data\":{body}}}").replacen("\u{feff}{\"c", "{\"c", 1);
    assert_eq!(given(EVENT, &event).len(), 1);
    assert_eq!(code(JSON, format!("\u{feff}{body}")), "malformed", "only one is");
    assert_eq!(code(JSON, "\u{feff}"), "malformed");
}

#[test]
fn a_detail_says_what_came_in_place_of_an_object() {
    for (body, detail) in [
        ("", "the body is empty"),
        (" [1]", "the body is not a JSON object, but an array"),
        ("\"191\"", "the body is not a JSON object, but a string"),
        ("191", "the body is not a JSON object, but a number"),
        ("true", "the body is not a JSON object, but a boolean"),
        ("null", "the body is not a JSON object, but null"),
        ("customer_id=191", "the body is not JSON: no value at line 1 column 1"),
        ("nonsense", "the body is not JSON: a word that is not true, false or null at line 1 column 2"),
        ("{\n \"a\": 1,\n}", "the body is not a request: a comma with nothing after it at line 3 column 1"),
        (
            "{customer_id:191}",
            "the body is not a request: a field's name without double quotes at line 1 column 2",
        ),
        (r#"{"customer_id":"#, "the body is not a request: it ends too early at line 1 column 15"),
        (
            r#"{"customer_id":1} {"customer_id":2}"#,
            "the body is not a request: more text after the end at line 1 column 19",
        ),
        (
            r#"{"orderid":1,"orderid":2}"#,
            "the body is not a request: orderid is given twice at line 1 column 22",
        ),
    ] {
        assert_eq!(fault(JSON, body).detail, detail, "{body}");
    }
    assert_eq!(fault(JSON, b"{\"a\":\"\xff\"}").detail, "the body is not UTF-8: byte 7 is wrong");
}

#[test]
fn a_detail_names_what_the_sender_did_not_say_about_the_body() {
    let body = r#"{"customer_id":191}"#;
    let utf16 = |to_bytes: fn(u16) -> [u8; 2], text: &str| -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    };
    let marked = format!("\u{feff}{body}");
    for content_type in [None, JSON, FORM, EVENT] {
        let what = if content_type == EVENT { "the CloudEvent" } else { "the body" };
        for bytes in [
            utf16(u16::to_le_bytes, body),
            utf16(u16::to_be_bytes, body),
            utf16(u16::to_le_bytes, &marked),
            utf16(u16::to_be_bytes, &marked),
        ] {
            let detail = fault(content_type, &bytes).detail;
            assert_eq!(detail, format!("{what} looks like UTF-16: send it as UTF-8"));
        }
        let detail = fault(content_type, [0x1f, 0x8b, 8, 0, 0]).detail;
        assert_eq!(detail, format!("{what} looks gzip-compressed: set content_encoding to gzip"));
    }
    let event =
        r#"{"specversion":"1.0","id":"e-1","source":"/shop","type":"unlock","data":{"customer_id":191}}"#;
    let detail = fault(JSON, event).detail;
    let advice = "; it looks like a CloudEvent: send it as application/cloudevents+json";
    assert!(detail.ends_with(advice), "{detail}");
    assert_eq!(given(EVENT, event), [("customer_id", "191".to_owned())]);
}

#[test]
fn a_detail_names_the_fields_found_where_no_identifier_is() {
    let none = "none of customer_id, subscription_id and orderid is given; found: ";
    for (body, found) in [
        ("{}", "no field"),
        (r#"{"customerId":191,"note":"secret"}"#, r#""customerId", "note""#),
        (r#"{"customer_id ":191}"#, r#""customer_id ""#),
        (r#"{"customer_id":" ","orderid":null}"#, "customer_id (blank), orderid (blank)"),
        (r#"{"data":{"customer_id":1}}"#, r#""data""#),
        (r#"{"4711":1,"cust-4711":1,"a@b.example":1,"line_2":1}"#, r#""line_2", 3 more"#),
        (r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1}"#, r#""a", "b", "c", "d", "e", "f", one more"#),
    ] {
        let fault = fault(JSON, body);
        assert_eq!(fault.code, FaultCode::NoIdentifier);
        assert_eq!(fault.detail, format!("{none}{found}"), "{body}");
    }
    let form = fault(FORM, "customer=191&4711&orderid=+");
    assert_eq!(form.detail, format!("{none}\"customer\", orderid (blank), one more"));
    let long = format!(r#"{{"{}":1,"{}":1}}"#, "x".repeat(41), "y".repeat(40));
    assert!(fault(JSON, long).detail.ends_with("y\", one more"));
}

#[test]
fn a_request_gives_its_own_id() {
    let id = |content_type, body: &str| decode(content_type, body.as_bytes()).given_id;
    assert_eq!(id(JSON, r#"{"customer_id":1,"request_id":"r-1"}"#).as_deref(), Some("r-1"));
    assert_eq!(id(JSON, r#"{"customer_id":1,"request_id":4711}"#).as_deref(), Some("4711"));
    assert_eq!(id(FORM, "customer_id=1&request_id=r-1").as_deref(), Some("r-1"));
    assert_eq!(id(JSON, r#"{"request_id":"r-1"}"#).as_deref(), Some("r-1"), "also if it is no request");
    for absent in ["null", r#""""#, r#"" \t""#] {
        assert_eq!(id(JSON, &format!(r#"{{"customer_id":1,"request_id":{absent}}}"#)), None, "{absent}");
    }
    let event = r#"{"id":"e-1","data":{"customer_id":1,"request_id":"r-1"}}"#;
    assert_eq!(id(EVENT, event).as_deref(), Some("e-1"), "the CloudEvent's id counts more");
    assert_eq!(id(EVENT, &event.replace("e-1", "")).as_deref(), Some("r-1"));
}

#[test]
fn a_bad_request_id_is_a_fault_and_still_identifies_the_outcome_if_it_is_a_text() {
    let long = "x".repeat(256);
    for (value, id) in [
        (format!("\"{long}\""), Some(long.as_str())),
        (r#""a\nb""#.to_owned(), Some("a\nb")),
        ("[1]".to_owned(), None),
        ("1.5".to_owned(), None),
    ] {
        let decoded = decode(JSON, format!(r#"{{"customer_id":"7","request_id":{value}}}"#).as_bytes());
        let fault = decoded.request.expect_err("a fault");
        assert_eq!(fault.code, FaultCode::BadIdentifier);
        assert!(fault.detail.starts_with("request_id "), "{}", fault.detail);
        assert!(fault.readable.is_some());
        assert_eq!(decoded.given_id.as_deref(), id);
    }
}

#[test]
fn a_request_says_when_it_expires() {
    let at = |content_type, body: &str| {
        let decoded = decode(content_type, body.as_bytes());
        decoded.request.map(|_| decoded.expires_at.map(|at| at.to_string()))
    };
    let json = |value: &str| at(JSON, &format!(r#"{{"customer_id":1,"expires_at":{value}}}"#));
    let moment = Ok(Some("2026-11-23T09:00:00.000Z".to_owned()));
    for value in ["2026-11-23T09:00:00Z", "2026-11-23T10:00:00.0001+01:00", " 2026-11-23t09:00:00z"] {
        assert_eq!(json(&format!("\"{value}\"")), moment, "{value}");
    }
    assert_eq!(at(FORM, "customer_id=1&expires_at=2026-11-23T09%3A00%3A00Z"), moment);
    for absent in ["null", r#""""#, r#""  ""#] {
        assert_eq!(json(absent), Ok(None), "{absent}");
    }
    for value in ["1795424400", "true", r#""tomorrow""#, r#""2026-11-23T09:00:00""#, r#""60s""#] {
        let fault = json(value).expect_err(value);
        assert_eq!(fault.code, FaultCode::Malformed, "{value}");
        assert!(fault.detail.starts_with("expires_at is not a "), "{}", fault.detail);
        assert!(fault.readable.is_some(), "the identifiers can be read");
    }
    let both = json(r#""tomorrow","orderid":true"#).expect_err("two faults");
    assert_eq!(both.code, FaultCode::BadIdentifier);
    assert!(both.detail.ends_with("; expires_at is not a time as RFC 3339 writes it"), "{}", both.detail);
}

#[test]
fn the_form_sent_to_trackfinity_holds_every_identifier_given() {
    let request = decode(JSON, r#"{"orderid":"a&b","customer_id":191,"subscription_id":"ü"}"#.as_bytes());
    let form = request.request.expect("a request").to_form();
    assert_eq!(form, "customer_id=191&subscription_id=%C3%BC&orderid=a%26b");
}

#[test]
fn details_never_repeat_an_identifier() {
    let bodies = [
        r#"{"customer_id":"secret\u0001"}"#.to_owned(),
        r#"{"customer_id":"secret","customer_id":"secret"}"#.to_owned(),
        format!(r#"{{"customer_id":"secret{}"}}"#, "x".repeat(300)),
        r#"{"customer_id":"secret"#.to_owned(),
        r#"{"customer_id":1,"request_id":"secret\u0001"}"#.to_owned(),
        r#"{"customer_id":1,"expires_at":"secret"}"#.to_owned(),
        r#"{"customer":"secret"}"#.to_owned(),
        "\"secret\"".to_owned(),
    ];
    for body in bodies {
        assert!(!fault(JSON, &body).detail.contains("secret"), "{body}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_request_or_a_fault(
        content_type in proptest::option::of(prop_oneof![
            Just("application/json".to_owned()),
            Just("application/x-www-form-urlencoded".to_owned()),
            Just("application/cloudevents+json".to_owned()),
            any::<String>(),
        ]),
        body in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        let decoded = decode(content_type.as_deref(), &body);
        if let Ok(request) = decoded.request {
            prop_assert!(request.identifiers().given().next().is_some());
        }
    }

    #[test]
    fn any_json_value_gives_a_request_or_a_fault(
        value in "[\\[\\]{}\":,0-9a-z_ \\\\-]{0,64}", field in 0..3_usize,
    ) {
        let body = format!(r#"{{"{}":{value}}}"#, Identifiers::FIELDS[field]);
        if let Ok(request) = decode(None, body.as_bytes()).request {
            for (_, identifier) in request.identifiers().given() {
                prop_assert!(!identifier.trim().is_empty());
                prop_assert!(identifier.len() <= MAX_IDENTIFIER_BYTES);
                prop_assert!(!identifier.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn a_string_survives_json_and_form_unchanged(value in "[^\\p{C}]{1,60}") {
        let json = serde_json::json!({ "customer_id": value }).to_string();
        match decode(JSON, json.as_bytes()).request {
            Ok(request) => {
                let form = request.to_form();
                if !value.contains(char::REPLACEMENT_CHARACTER) {
                    prop_assert_eq!(decode(FORM, form.as_bytes()).request, Ok(request));
                }
            }
            Err(fault) => prop_assert!(value.trim().is_empty(), "{:?}", fault),
        }
    }
}
