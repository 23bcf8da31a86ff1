//! Requests: bodies of all kinds.

use proptest::{collection::vec, option, prelude::*, sample::select};
use trackfinity_unlocker::message::{
    FaultCode, Identifiers, Timestamp,
    request::{self, MAX_BODY_BYTES},
};

use super::{
    answers::any_moment,
    fuzz, like, maybe_changed,
    targets::{
        Bytes,
        bodies::{BATCH, EVENT, FORM, JSON, Message, Packing, SECRETS, check, check_request, is_good},
    },
};

pub(super) fn any_content_type() -> impl Strategy<Value = Option<String>> {
    let known =
        vec![JSON, FORM, EVENT, EVENT, "", BATCH, "text/plain", "application/octet-stream", "a/b+json"];
    let known = (select(known), any::<bool>(), like("( ?; ?[a-z=-]{0,12})?"));
    let known = known.prop_map(|(media_type, loud, parameters)| {
        let media_type = if loud { media_type.to_uppercase() } else { media_type.to_owned() };
        media_type + &parameters
    });
    option::weighted(0.9, prop_oneof![8 => known, 1 => like("\\PC{0,40}"), 1 => like("[ -~]{0,40}")])
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        like("[ \\t\\n]{0,3}"),
        like("S3cr3t[ -~]{0,10}"),
        like("\\PC{0,20}"),
        like("(?s:.){0,20}"),
        (200..300_usize).prop_map(|length| SECRETS[0].repeat(50)[..length].to_owned()),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    let known = [
        "customer_id",
        "subscription_id",
        "orderid",
        "request_id",
        "expires_at",
        "id",
        "data",
        "data_base64",
        "datacontenttype",
        "expirytime",
        "customer\\u005fid",
    ];
    prop_oneof![6 => select(known.to_vec()).prop_map(str::to_owned), 1 => like("[a-z\"\\\\]{0,6}")]
}

/// Text that is JSON, or nearly.
pub(super) fn json_like() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec![
            "null",
            "true",
            "false",
            "1.0",
            "-1e3",
            "1e999",
            "-0",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "01"
        ])
        .prop_map(str::to_owned),
        like("-?9078563412[0-9]{0,30}"),
        any_text().prop_map(|text| serde_json::Value::from(text).to_string()),
        select(vec![
            "\"2026-11-23T09:00:00Z\"",
            "\"2026-11-23T09:00:00\"",
            "\"eyJjdXN0b21lcl9pZCI6MX0=\"",
            "\"customer_id=1\"",
            "\"application/x-www-form-urlencoded\"",
            "\"text/plain\"",
        ])
        .prop_map(str::to_owned),
        any_text().prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let member = (any_name(), like("[ \\n]{0,2}"), inner.clone());
        let member = member.prop_map(|(name, space, value)| format!("{space}\"{name}\":{space}{value}"));
        prop_oneof![
            3 => vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
        ]
    })
}

fn form_like() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any_text().prop_map(|text| form_urlencoded::byte_serialize(text.as_bytes()).collect()),
        vec(any::<u8>(), 0..8).prop_map(|bytes| form_urlencoded::byte_serialize(&bytes).collect::<String>()),
        any_text(),
        like("9078563412[0-9]{0,10}"),
    ];
    vec((any_name(), value), 0..5).prop_map(|pairs| {
        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    })
}

pub(super) fn any_body() -> impl Strategy<Value = Bytes> {
    let text = prop_oneof![3 => json_like(), 2 => form_like()].prop_map(String::into_bytes);
    let padded = (json_like(), (MAX_BODY_BYTES - 40)..(MAX_BODY_BYTES + 40)).prop_map(|(text, length)| {
        let mut body = text.into_bytes();
        body.resize(length.max(body.len()), b' ');
        body
    });
    prop_oneof![20 => maybe_changed(text), 4 => vec(any::<u8>(), 0..200), 1 => padded].prop_map(Bytes)
}

/// An encoding, whether it is one that is read, and whether the body is really packed.
fn any_encoding() -> impl Strategy<Value = (Option<String>, bool)> {
    prop_oneof![
        6 => Just((None, false)),
        2 => select(vec!["", "utf-8", "UTF-8", "identity", "binary"]).prop_map(|text| (Some(text.into()), false)),
        3 => select(vec!["gzip", "x-gzip", "GZIP", "gzip:UTF-8"]).prop_map(|text| (Some(text.into()), true)),
        1 => (like("\\PC{0,20}"), any::<bool>()).prop_map(|(text, packed)| (Some(text), packed)),
    ]
}

fn any_event() -> impl Strategy<Value = (Option<String>, Option<Result<Timestamp, String>>)> {
    let time = prop_oneof![
        any_moment().prop_map(Ok),
        any_moment().prop_map(|moment| Err(moment.to_string())),
        any_text().prop_map(Err),
    ];
    (option::weighted(0.3, any_text()), option::weighted(0.2, time))
}

#[test]
fn any_body_of_any_content_type_is_a_request_or_a_fault() {
    let inputs = (any_content_type(), any_encoding(), any_event(), any_body(), any::<bool>());
    let inputs = inputs.prop_map(|(content_type, (encoding, packed), (id, time), body, cut)| {
        let packing = match (packed, cut) {
            (false, _) => Packing::Plain,
            (true, false) => Packing::Gzip,
            (true, true) => Packing::CutGzip,
        };
        Message { content_type, encoding, compression: None, id, time, body, packing }
    });
    fuzz("bodies", inputs, |message| check(&message));
}

/// The value of a field, and what the contract says about it.
#[derive(Clone, Debug)]
enum Field {
    Absent(Option<String>),
    Good { json: String, text: String },
    Bad(String),
}

fn any_field() -> impl Strategy<Value = Field> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let blank = (select(vec![" ", "\t", "\n", "\u{a0}", "\u{3000}"]), 0..300_usize);
    let blank = blank.prop_map(|(space, count)| space.repeat(count));
    let good = like("[^\\p{C}]{1,60}").prop_filter("blank", |text| is_good(text));
    let number = (any::<bool>(), 1..10_u32, 0..254_usize).prop_map(|(minus, digit, length)| {
        let sign = if minus { "-" } else { "" };
        format!("{sign}{digit}{}", "3".repeat(length)).chars().take(255).collect::<String>()
    });
    let long = (256..400_usize).prop_map(|length| "x".repeat(length));
    let control = (like("[a-z]{1,4}"), select(vec!['\0', '\n', '\u{7f}', '\u{85}']))
        .prop_map(|(text, c)| format!("{text}{c}{text}"));
    let wrong = select(vec!["true", "1.0", "1e3", "-1E-2", "[]", "{}", "[\"191\"]", "{\"a\":1}"]);
    prop_oneof![
        2 => option::of(blank).prop_map(Field::Absent),
        2 => good.prop_map(move |text| Field::Good { json: quoted(&text), text }),
        1 => number.prop_map(|text| Field::Good { json: text.clone(), text }),
        1 => prop_oneof![long, control].prop_map(move |text| Field::Bad(quoted(&text))),
        1 => wrong.prop_map(|json| Field::Bad(json.to_owned())),
    ]
}

#[test]
fn a_json_request_is_read_as_the_contract_says() {
    let fields = [any_field(), any_field(), any_field()];
    let others = vec((like("[a-c]{1,2}"), json_like()), 0..3);
    let inputs =
        (fields, others, any::<prop::sample::Index>(), option::weighted(0.1, 0..3_usize), any::<bool>());
    fuzz("JSON requests", inputs, |(fields, others, place, twice, as_event)| {
        let mut members = Vec::new();
        for (name, field) in Identifiers::FIELDS.into_iter().zip(&fields) {
            match field {
                Field::Absent(None) => {}
                Field::Absent(Some(blank)) if blank.is_empty() => members.push(format!("\"{name}\":null")),
                Field::Absent(Some(blank)) => {
                    members.push(format!("\"{name}\":{}", serde_json::Value::from(blank.as_str())));
                }
                Field::Good { json, .. } | Field::Bad(json) => members.push(format!("\"{name}\":{json}")),
            }
        }
        let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        for (name, value) in others.into_iter().filter(|(_, value)| is_json(value)) {
            members.insert(place.index(members.len() + 1), format!("\"{name}\":{value}"));
        }
        if let Some(again) = twice {
            let name = Identifiers::FIELDS[again];
            members.extend([format!("\"{name}\":1"), format!("\"{name}\":1")]);
        }
        let mut body = format!("{{{}}}", members.join(","));
        if as_event {
            body = format!("{{\"id\":\"e\",\"data\":{body},\"source\":\"/s\"}}");
        }
        let decoded = request::decode(Some(if as_event { EVENT } else { JSON }), body.as_bytes());
        prop_assert_eq!(decoded.given_id.as_deref(), as_event.then_some("e"));

        let named = Identifiers::FIELDS.into_iter().zip(&fields);
        let good: Vec<_> = named
            .filter_map(|(name, field)| match field {
                Field::Good { text, .. } => Some((name, text.as_str())),
                _ => None,
            })
            .collect();
        let expected = match () {
            () if twice.is_some() => Err(FaultCode::Malformed),
            () if fields.iter().any(|field| matches!(field, Field::Bad(_))) => Err(FaultCode::BadIdentifier),
            () if good.is_empty() => Err(FaultCode::NoIdentifier),
            () => Ok(()),
        };
        match decoded.request {
            Ok(request) => {
                prop_assert_eq!(expected, Ok(()), "{}", body);
                prop_assert_eq!(request.identifiers().given().collect::<Vec<_>>(), good);
                check_request(&request)
            }
            Err(fault) => {
                prop_assert_eq!(expected, Err(fault.code), "{}: {}", body, fault.detail);
                if fault.code == FaultCode::BadIdentifier {
                    let readable = fault.readable.unwrap_or_default();
                    prop_assert_eq!(readable.given().collect::<Vec<_>>(), good);
                }
                Ok(())
            }
        }
    });
}
