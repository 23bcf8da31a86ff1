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
    for content_type in ["", "application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(given(Some(content_type), body).len(), 1, "{content_type}");
    }
    for content_type in ["text/plain", "application/xml", "application/cloudevents-batch+json"] {
        assert_eq!(code(Some(content_type), body), "unsupported_content_type", "{content_type}");
    }
}

#[test]
fn a_cloud_event_gives_its_id_and_its_data() {
    let event = r#"{"specversion":"1.0","id":"e-1","source":"/s","type":"t","data":{"customer_id":191}}"#;
    let decoded = decode(EVENT, event.as_bytes());
    assert_eq!(decoded.event_id.as_deref(), Some("e-1"));
    assert_eq!(given(EVENT, event), [("customer_id", "191".to_owned())]);
}

#[test]
fn a_cloud_event_with_faulty_data_still_gives_its_id() {
    let decoded = decode(EVENT, br#"{"id":"e-2","data":{}}"#);
    assert_eq!(decoded.event_id.as_deref(), Some("e-2"));
    assert_eq!(decoded.request.expect_err("a fault").code, FaultCode::NoIdentifier);
    assert_eq!(code(EVENT, r#"{"id":"e-3"}"#), "malformed");
    assert_eq!(code(EVENT, r#"{"id":"e-3","data":"{}"}"#), "malformed");
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
    ];
    for body in bodies {
        assert!(!fault(JSON, &body).detail.contains("secret"), "{body}");
    }
}

#[test]
fn the_schema_asks_for_at_least_one_identifier() {
    let schema = serde_json::to_value(schema()).expect("a schema");
    assert_eq!(schema["anyOf"].as_array().map(Vec::len), Some(3));
    assert!(schema["properties"]["customer_id"]["anyOf"].is_array());
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
