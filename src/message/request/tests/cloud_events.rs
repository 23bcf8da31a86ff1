use super::*;
use crate::message::Timestamp;

#[test]
fn a_cloud_event_gives_its_id_and_its_data() {
    let event = r#"{"specversion":"1.0","id":"e-1","source":"/s","type":"t","data":{"customer_id":191}}"#;
    let decoded = decode(EVENT, event.as_bytes());
    assert_eq!(decoded.given_id.as_deref(), Some("e-1"));
    assert_eq!(given(EVENT, event), [("customer_id", "191".to_owned())]);
}

#[test]
fn a_cloud_event_with_faulty_data_still_gives_its_id() {
    let decoded = decode(EVENT, br#"{"id":"e-2","data":{}}"#);
    assert_eq!(decoded.given_id.as_deref(), Some("e-2"));
    assert_eq!(decoded.request.expect_err("a fault").code, FaultCode::NoIdentifier);
    assert_eq!(code(EVENT, r#"{"id":"e-3"}"#), "malformed");
    assert_eq!(code(EVENT, r#"{"id":"e-3","data":"{}"}"#), "malformed");
}

#[test]
fn a_cloud_events_data_may_be_base64_or_of_another_type() {
    for event in [
        r#"{"id":"e","data_base64":"eyJjdXN0b21lcl9pZCI6IjE5MSJ9"}"#,
        r#"{"id":"e","data":null,"data_base64":"77u/eyJjdXN0b21lcl9pZCI6IjE5MSJ9"}"#,
        r#"{"datacontenttype":"application/octet-stream","data_base64":"eyJjdXN0b21lcl9pZCI6MTkxfQ"}"#,
        r#"{"datacontenttype":"application/x-www-form-urlencoded","data":"customer_id=191"}"#,
        r#"{"datacontenttype":"application/x-www-form-urlencoded","data_base64":"Y3VzdG9tZXJfaWQ9MTkx"}"#,
        r#"{"datacontenttype":"text/plain","data":"{\"customer_id\":191}"}"#,
        r#"{"datacontenttype":"application/xml","data":{"customer_id":191}}"#,
    ] {
        assert_eq!(given(EVENT, event), [("customer_id", "191".to_owned())], "{event}");
    }
    for (event, code, detail) in [
        (r#"{"data_base64":"%%%"}"#, "malformed", "the CloudEvent's data_base64 is not base64"),
        (r#"{"data_base64":[1]}"#, "malformed", "the CloudEvent's data_base64 is not base64"),
        (r#"{"data":"{}"}"#, "malformed", "the CloudEvent's data is not a JSON object, but a string"),
        (
            r#"{"datacontenttype":"application/xml","data":"<a/>"}"#,
            "unsupported_content_type",
            "the CloudEvent's datacontenttype is \"application/xml\"; ",
        ),
        (
            r#"{"datacontenttype":"application/cloudevents+json","data":"{}"}"#,
            "unsupported_content_type",
            "the CloudEvent's datacontenttype is \"application/cloudevents+json\"; ",
        ),
    ] {
        let fault = fault(EVENT, event);
        assert_eq!(fault.code.as_str(), code, "{event}");
        assert!(fault.detail.starts_with(detail), "{event}: {}", fault.detail);
    }
}

#[test]
fn a_cloud_event_expires_at_its_expirytime_or_when_its_data_says_if_that_is_earlier() {
    let at = |event: &str| decode(EVENT, event.as_bytes());
    let (early, late) = ("2026-11-23T09:00:00Z", "2026-11-23T10:00:00Z");
    for (time, in_data) in [(early, late), (late, early), (early, "")] {
        let event =
            format!(r#"{{"expirytime":"{time}","data":{{"customer_id":1,"expires_at":"{in_data}"}}}}"#);
        assert_eq!(at(&event).expires_at, early.parse().ok(), "{time} {in_data}");
    }
    for bad in [r#""soon""#, "1795424400"] {
        let fault = at(&format!(r#"{{"expirytime":{bad},"data":{{"customer_id":1}}}}"#)).request;
        let fault = fault.expect_err("a fault");
        assert_eq!(fault.detail, "the CloudEvent's expirytime is not a time as RFC 3339 writes it");
        assert_eq!((fault.code, fault.readable.is_some()), (FaultCode::Malformed, true));
    }
}

#[test]
fn a_cloud_event_in_binary_mode_has_its_attributes_beside_its_data() {
    let moment = Timestamp::from_millis(1_795_424_400_000);
    let text = moment.to_string();
    for expirytime in [EventTime::Text(&text), EventTime::Moment(moment)] {
        let event = EventAttributes { id: Some("e-1"), expirytime: Some(expirytime) };
        for (content_type, body) in [
            (JSON, r#"{"customer_id":"191","request_id":"r-1"}"#),
            (FORM, "customer_id=191"),
            (EVENT, r#"{"data":{"customer_id":"191"}}"#),
        ] {
            let decoded = decode(Content { content_type, event, ..Content::default() }, body.as_bytes());
            assert_eq!(decoded.given_id.as_deref(), Some("e-1"));
            assert_eq!(decoded.expires_at, Some(moment));
            assert!(decoded.request.is_ok());
        }
        let own = br#"{"id":"own","data":{"customer_id":"191"}}"#;
        let decoded = decode(Content { content_type: EVENT, event, ..Content::default() }, own);
        assert_eq!(decoded.given_id.as_deref(), Some("own"));
        for body in ["", "x".repeat(MAX_BODY_BYTES + 1).as_str()] {
            let decoded = decode(Content { event, ..Content::default() }, body.as_bytes());
            assert_eq!(decoded.given_id.as_deref(), Some("e-1"), "also if the data is faulty");
        }
    }
    let event = EventAttributes { id: None, expirytime: Some(EventTime::Text("soon")) };
    let decoded = decode(Content { event, ..Content::default() }, br#"{"customer_id":1}"#);
    assert_eq!(decoded.request.expect_err("a fault").code, FaultCode::Malformed);
}

#[test]
fn a_detail_quotes_no_identifier_that_stands_in_the_place_of_the_data_content_type() {
    for wrong in
        ["secret", "secret 1", "4711/secret/1", "customer/secret", "application/4711", "secret@shop.example"]
    {
        let fault = fault(EVENT, format!(r#"{{"datacontenttype":"{wrong}","data":""}}"#));
        assert_eq!(fault.code, FaultCode::UnsupportedContentType, "{wrong}");
        assert!(!fault.detail.contains(wrong), "{}", fault.detail);
        assert!(fault.detail.contains("datacontenttype is no media type;"), "{}", fault.detail);
    }
}
