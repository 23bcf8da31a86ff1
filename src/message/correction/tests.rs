use lapin::types::AMQPValue;

use super::*;

fn correction(fields: &[(&str, &str)]) -> Correction {
    let mut correction = Correction::default();
    for (field, value) in fields {
        correction.set(field, value).expect(field);
    }
    correction
}

fn with_body(body: &str) -> Correction {
    let mut correction = Correction::default();
    correction.set_body(body.as_bytes().to_vec()).expect("a body");
    correction
}

/// Properties in which every field is given.
fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("theirs".into(), AMQPValue::Boolean(true));
    BasicProperties::default()
        .with_content_type("text/xml".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("1000".into())
        .with_message_id("m".into())
        .with_timestamp(7)
        .with_type("t".into())
        .with_user_id("u".into())
        .with_app_id("a".into())
        .with_cluster_id("k".into())
}

#[test]
fn only_what_is_set_changes() {
    let body = br#"{"n":1.50}"#;
    assert_eq!(
        Correction::default().apply(&properties(), body).expect("as it is"),
        (properties(), body.to_vec())
    );
    let json = correction(&[("content_type", "application/json")]);
    let expected = properties().with_content_type("application/json".into());
    assert_eq!(json.apply(&properties(), body).expect("applied"), (expected.clone(), body.to_vec()));

    let none = correction(&[("content_type", "")]).apply(&properties(), body).expect("applied").0;
    assert_eq!(none.content_type(), &None);
    assert_eq!(none.with_content_type("application/json".into()), expected);

    let both = correction(&[("content_type", "application/json"), ("orderid", "7")]);
    let (changed, edited) = both.apply(&properties(), body).expect("applied");
    assert_eq!((changed, edited.as_slice()), (expected, &br#"{"n":1.50,"orderid":"7"}"#[..]));
    assert_eq!(both.fields(), ["content_type", "orderid"]);

    // There is no place for an identifier in XML; a new body needs none.
    let fault = correction(&[("orderid", "7")]).apply(&properties(), body).expect_err("a fault");
    assert!(fault.detail.contains("text/xml"), "{}", fault.detail);
    let mut replaced = with_body("orderid=7\n");
    replaced.set("customer_id", "1 2").expect("set");
    replaced.set("content_type", "application/x-www-form-urlencoded").expect("set");
    let (_, body) = replaced.apply(&properties(), body).expect("applied");
    assert_eq!(body, b"orderid=7&customer_id=1+2");
}

#[test]
fn a_new_body_is_not_packed_and_says_so() {
    let mut headers = properties().headers().clone().expect("headers");
    headers.insert("compression".into(), AMQPValue::LongString("application/x-gzip".into()));
    for packed in [
        properties().with_content_encoding("gzip".into()),
        properties().with_content_encoding("br".into()),
        properties().with_content_encoding("utf-8".into()).with_headers(headers),
    ] {
        assert_eq!(with_body("{}").apply(&packed, b"x").expect("applied"), (properties(), b"{}".to_vec()));
    }
    let plain = properties().with_content_encoding("utf-8".into());
    assert_eq!(with_body("{}").apply(&plain, b"x").expect("applied").0, plain);
}

#[test]
fn a_line_break_at_the_end_of_a_body_is_left_out() {
    for (given, body) in [("{}", "{}"), ("{}\n", "{}"), ("{}\r\n", "{}"), ("{}\n\n", "{}\n"), ("", "")] {
        let applied = with_body(given).apply(&BasicProperties::default(), b"x").expect("applied");
        assert_eq!(applied.1, body.as_bytes(), "{given:?}");
    }
}

#[test]
fn a_change_that_no_request_can_have_is_refused() {
    let long = "1".repeat(256);
    for (field, value, why) in [
        ("customer", "1", "there is no field \"customer\""),
        ("customer_id", " ", "is blank"),
        ("customer_id", "a\nb", "holds a control character"),
        ("customer_id", &long, "is longer than 255 bytes"),
        ("content_type", &long, "is longer than 255 bytes"),
        ("content_type", "a\tb", "holds a control character"),
    ] {
        let error = Correction::default().set(field, value).expect_err(value);
        assert!(error.to_string().contains(why), "{error}");
    }
    let mut twice = correction(&[("orderid", "7")]);
    assert_eq!(twice.set("orderid", "7").expect_err("twice").to_string(), "orderid is set twice");
    let set = |body| Correction::default().set_body(body).expect_err("wrong").to_string();
    assert_eq!(set(vec![0xff]), "the body is not UTF-8");
    assert!(set(vec![b' '; MAX_BODY_BYTES + 1]).contains("65537 bytes"));
}

#[test]
fn it_is_stored_whole() {
    let mut whole =
        correction(&[("content_type", "application/json"), ("customer_id", "1"), ("orderid", "")]);
    whole.set_body(b"{}".to_vec()).expect("a body");
    let json = serde_json::to_vec(&whole).expect("JSON");
    assert_eq!(serde_json::from_slice::<Correction>(&json).expect("a correction"), whole);
    assert_eq!(serde_json::to_string(&Correction::default()).expect("JSON"), "{}");
    assert!(Correction::default().is_empty() && !whole.is_empty());
}
