//! Random input for all that reads what others wrote: bodies, answers, headers. Each target runs for
//! `FUZZ_SECONDS` (1, unless told otherwise) and prints its seed; `FUZZ_SEED` tries the same inputs
//! again, for as long as it takes. What fails is shrunk and shown.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::{
    fmt,
    io::Cursor,
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties,
    protocol::basic::{gen_properties, parse_properties},
    types::{AMQPValue, FieldTable, parsing::parse_field_table},
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    string::string_regex,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use trackfinity_unlocker::{
    message::{
        Death, Envelope, FaultCode, History, Identifiers, Outcome, Parked, Status, Timestamp, headers,
        request::{self, MAX_BODY_BYTES, MAX_IDENTIFIER_BYTES, UnlockRequest},
    },
    policy::{
        Answer, Meaning, Past, Reason, Reply, RetryAfter, RetryLimits, Tier, Verdict, classify, decide,
        rate_limit_pause,
    },
    telemetry::TraceContext,
};

type Checked = Result<(), TestCaseError>;

/// Tries inputs until the time is over.
fn fuzz<S: Strategy>(target: &str, inputs: S, check: impl Fn(S::Value) -> Checked) {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = given("FUZZ_SEED").unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let time = Duration::from_secs(given("FUZZ_SECONDS").unwrap_or(1));
    println!("{target}: FUZZ_SEED={seed} FUZZ_SECONDS={}", time.as_secs());

    let config =
        Config { cases: 64, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let (started, mut tried) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        // A runner stops at its number of cases for good, so each batch has one of its own.
        // The strong generator takes longer, unoptimised, than all else.
        let mut batch = fastrand::Rng::with_seed(seed.wrapping_add(tried));
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &batch.u128(1..).to_le_bytes());
        match TestRunner::new_with_rng(config.clone(), rng).run(&inputs, &check) {
            Ok(()) => tried += u64::from(config.cases),
            Err(TestError::Fail(why, input)) => {
                panic!(
                    "{target}: after {tried} inputs of FUZZ_SEED={seed}: {why}\nthe input, shrunk: {input:#?}"
                )
            }
            Err(TestError::Abort(why)) => panic!("{target}: {why}"),
        }
    }
    println!("{target}: {tried} inputs");
}

/// Text that matches a pattern. To write the pattern alone would have it parsed for each text.
fn like(pattern: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(pattern).expect("a pattern")
}

/// Bytes, shown as text.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// One change to bytes at a place.
#[derive(Clone, Debug)]
enum Change {
    Set(u8),
    Insert(Vec<u8>),
    Remove(usize),
    Repeat(usize),
    End,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u8>().prop_map(Change::Set),
        vec(any::<u8>(), 1..4).prop_map(Change::Insert),
        (1..8_usize).prop_map(Change::Remove),
        (1..20_usize).prop_map(Change::Repeat),
        Just(Change::End),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<(usize, Change)>) -> Vec<u8> {
    for (place, change) in changes {
        let at = place % (bytes.len() + 1);
        let until = |length: usize| (at + length).min(bytes.len());
        match change {
            Change::Set(byte) => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            Change::Insert(new) => drop(bytes.splice(at..at, new)),
            Change::Remove(length) => drop(bytes.drain(at..until(length))),
            Change::Repeat(length) => {
                let again = bytes[at..until(length)].to_vec();
                drop(bytes.splice(at..at, again));
            }
            Change::End => bytes.truncate(at),
        }
    }
    bytes
}

/// Mostly as it is, else with a few changes.
fn maybe_changed(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop_oneof![2 => Just(Vec::new()), 1 => vec((any::<usize>(), any_change()), 1..4)];
    (bytes, changes).prop_map(|(bytes, changes)| changed(bytes, changes))
}

// Requests

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const EVENT: &str = "application/cloudevents+json";

/// What stands in identifiers and must not stand in details: a text and a number.
const SECRETS: [&str; 2] = ["S3cr3t", "9078563412"];

fn any_content_type() -> impl Strategy<Value = Option<String>> {
    let known = (select(vec![JSON, FORM, EVENT, ""]), any::<bool>(), like("( ?; ?[a-z=-]{0,12})?"));
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
    let known =
        ["customer_id", "subscription_id", "orderid", "id", "data", "specversion", "customer\\u005fid"];
    prop_oneof![6 => select(known.to_vec()).prop_map(str::to_owned), 1 => like("[a-z\"\\\\]{0,6}")]
}

/// Text that is JSON, or nearly.
fn json_like() -> impl Strategy<Value = String> {
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

fn any_body() -> impl Strategy<Value = Bytes> {
    let text = prop_oneof![3 => json_like(), 2 => form_like()].prop_map(String::into_bytes);
    let padded = (json_like(), (MAX_BODY_BYTES - 40)..(MAX_BODY_BYTES + 40)).prop_map(|(text, length)| {
        let mut body = text.into_bytes();
        body.resize(length.max(body.len()), b' ');
        body
    });
    prop_oneof![20 => maybe_changed(text), 4 => vec(any::<u8>(), 0..200), 1 => padded].prop_map(Bytes)
}

fn is_good(identifier: &str) -> bool {
    (1..=MAX_IDENTIFIER_BYTES).contains(&identifier.len())
        && !identifier.trim().is_empty()
        && !identifier.chars().any(char::is_control)
}

fn check_request(request: &UnlockRequest) -> Checked {
    let given: Vec<_> = request.identifiers().given().collect();
    prop_assert!(!given.is_empty());
    prop_assert!(given.iter().all(|(_, identifier)| is_good(identifier)));
    let form = request.to_form();
    let sent: Vec<_> = form_urlencoded::parse(form.as_bytes()).collect();
    let same =
        |((name, value), (sent_name, sent)): (&(&str, &str), &(_, _))| name == sent_name && value == sent;
    prop_assert!(sent.len() == given.len() && given.iter().zip(&sent).all(same), "{form}");
    let again = serde_json::to_vec(request.identifiers()).expect("encodes");
    prop_assert_eq!(request::decode(Some(JSON), &again).request, Ok(request.clone()));
    // A form with U+FFFD is refused: there it may stand for bytes that are not UTF-8.
    if !given.iter().any(|(_, identifier)| identifier.contains(char::REPLACEMENT_CHARACTER)) {
        prop_assert_eq!(request::decode(Some(FORM), form.as_bytes()).request, Ok(request.clone()));
    }
    Ok(())
}

#[test]
fn any_body_of_any_content_type_is_a_request_or_a_fault() {
    fuzz("bodies", (any_content_type(), any_body()), |(content_type, Bytes(body))| {
        let media_type = content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_ascii_lowercase();
        let is_event = media_type == EVENT;
        let supported = is_event || ["", JSON, FORM].contains(&media_type.as_str());
        let decoded = request::decode(content_type.as_deref(), &body);
        prop_assert!(decoded.event_id.is_none_or(|id| is_event && !id.is_empty()));
        match decoded.request {
            Ok(request) => {
                prop_assert!(supported && body.len() <= MAX_BODY_BYTES);
                prop_assert!(media_type == FORM || std::str::from_utf8(&body).is_ok(), "JSON is UTF-8");
                check_request(&request)
            }
            Err(fault) => {
                prop_assert_eq!(fault.code == FaultCode::TooLarge, body.len() > MAX_BODY_BYTES);
                if body.len() <= MAX_BODY_BYTES {
                    prop_assert_eq!(fault.code == FaultCode::UnsupportedContentType, !supported);
                }
                let secret = SECRETS.iter().find(|secret| fault.detail.contains(**secret));
                prop_assert_eq!(secret, None, "the detail is {:?}", &fault.detail);
                prop_assert!(!fault.detail.is_empty() && fault.detail.len() <= 300, "{}", fault.detail);
                if let Some(readable) = fault.readable {
                    prop_assert_eq!(fault.code, FaultCode::BadIdentifier);
                    prop_assert!(readable.given().next().is_some());
                    prop_assert!(readable.given().all(|(_, identifier)| is_good(identifier)));
                }
                Ok(())
            }
        }
    });
}

/// What stands in a field, and what the contract says of it.
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
        prop_assert_eq!(decoded.event_id.as_deref(), as_event.then_some("e"));

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

// Answers

fn any_moment() -> impl Strategy<Value = Timestamp> {
    prop_oneof![0..4_000_000_000_000_i64, any::<i64>()].prop_map(Timestamp::from_millis)
}

/// A date as HTTP writes it, from 1970 to the end of 9999.
fn any_date() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u32>().prop_map(u64::from),
        0..253_402_300_800_u64,
        253_402_100_000..253_402_300_800_u64
    ]
    .prop_map(|seconds| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let status = prop_oneof![
        4 => select(vec![200, 201, 204, 301, 400, 401, 403, 404, 405, 407, 408, 409, 410, 422, 425, 429, 500, 501, 503]),
        2 => 100..=999_u16,
        1 => any::<u16>(),
    ];
    let body = prop_oneof![
        like("[ \\n]{0,2}(true|false|null|True|0)[ \\n]{0,2}").prop_map(String::into_bytes),
        maybe_changed(json_like().prop_map(String::into_bytes)),
        vec(any::<u8>(), 0..40),
    ];
    let retry_after =
        option::of(prop_oneof![like("[0-9]{1,25}"), any_date(), like("[ -~]{0,30}"), like("(?s:.){0,20}")]);
    let answer = (status, body, any::<bool>(), retry_after).prop_map(|(status, body, cut, retry_after)| {
        let retry_after = retry_after.and_then(|text| RetryAfter::parse(&text));
        Reply::Answer(Answer { status, body, cut, retry_after })
    });
    prop_oneof![10 => answer, 1 => Just(Reply::Timeout), 1 => like("(?s:.){0,20}").prop_map(Reply::Connection)]
}

fn any_past() -> impl Strategy<Value = Past> {
    let attempts = prop_oneof![4 => 0..20_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    (attempts, any_moment(), any::<bool>()).prop_map(|(attempts, first_received_at, probe)| Past {
        attempts,
        first_received_at,
        probe,
    })
}

fn any_limits() -> impl Strategy<Value = RetryLimits> {
    let attempts = prop_oneof![1..20_u32, 1..=u32::MAX];
    (attempts, 1_000..=1_024_000_u64, 1..=31_536_000_u64).prop_map(
        |(max_attempts, max_delay, give_up_after)| {
            let (max_delay, give_up_after) =
                (Duration::from_millis(max_delay), Duration::from_secs(give_up_after));
            RetryLimits { max_attempts, max_delay, give_up_after }
        },
    )
}

/// The contract's table, once more.
fn table(reply: &Reply) -> &'static str {
    let Reply::Answer(answer) = reply else {
        return "transient";
    };
    let json = serde_json::from_slice::<serde_json::Value>(&answer.body).ok().filter(|_| !answer.cut);
    match (answer.status, json) {
        (200..=299, Some(serde_json::Value::Bool(true))) => "unlocked",
        (200..=299, Some(_)) => "refused",
        (200..=299, None) => "transient",
        (401 | 403 | 405 | 407 | 501 | 300..=399, _) => "endpoint fault",
        (408 | 425, _) => "transient",
        (429, _) => "rate limited",
        (404, _) => "not found",
        (400..=499, _) => "refused",
        _ => "transient",
    }
}

#[test]
fn any_answer_is_judged_as_the_contract_says() {
    // (0, 1], to the last bit.
    let jitter = (0..u64::MAX).prop_map(|bits| 1.0 - (bits >> 11) as f64 / (1_u64 << 53) as f64);
    let inputs = (any_reply(), any_past(), any_moment(), jitter, any_limits());
    fuzz("answers", inputs, |(reply, past, now, jitter, limits)| {
        let meaning = classify(&reply);
        let (name, after) = match meaning {
            Meaning::Unlocked => ("unlocked", None),
            Meaning::Refused(_) => ("refused", None),
            Meaning::NotFound => ("not found", None),
            Meaning::Transient(_, after) => ("transient", after),
            Meaning::RateLimited(after) => ("rate limited", after),
            Meaning::EndpointFault(_) => ("endpoint fault", None),
        };
        prop_assert_eq!(name, table(&reply));
        let is_final = matches!(meaning, Meaning::Unlocked | Meaning::Refused(_));
        prop_assert!(is_final || !meaning.proves_address());
        prop_assert!(rate_limit_pause(after, now) <= Duration::from_secs(300));

        let out_of_time = now.since(past.first_received_at) >= limits.give_up_after;
        let next = past.attempts.saturating_add(1);
        match decide(meaning, past, now, jitter, &limits) {
            Verdict::Unlocked { attempts } => prop_assert_eq!((name, attempts), ("unlocked", next)),
            Verdict::Refused { attempts, reason } => {
                prop_assert!(matches!(name, "refused" | "not found"));
                let Reply::Answer(Answer { status, .. }) = reply else {
                    return Err(TestCaseError::fail("refused without an answer"));
                };
                let expected = if status < 300 { Reason::NotTrue } else { Reason::Http(status) };
                prop_assert_eq!((attempts, reason), (next, expected));
            }
            Verdict::Abandoned { attempts, .. } => {
                prop_assert!(matches!(name, "transient" | "rate limited"));
                let burns = name == "transient" && !past.probe;
                prop_assert_eq!(attempts, if burns { next } else { past.attempts });
                prop_assert!(out_of_time || (burns && next >= limits.max_attempts));
            }
            Verdict::Parked { attempts, tier, .. } => {
                prop_assert!(matches!(name, "transient" | "rate limited" | "endpoint fault"));
                let burns = name == "transient" && !past.probe;
                prop_assert_eq!(attempts, if burns { next } else { past.attempts });
                prop_assert!(name == "endpoint fault" || !out_of_time);
                prop_assert!(!burns || next < limits.max_attempts);
                let asked = after.map_or(Duration::ZERO, |after| after.delay(now)).min(limits.max_delay);
                prop_assert!(tier.duration() >= asked, "{} for {:?}", tier, asked);
                let doubled = Duration::from_secs(1 << past.attempts.min(10)).min(limits.max_delay);
                let usual =
                    if name == "rate limited" && after.is_none() { Duration::from_secs(1) } else { asked };
                prop_assert!(tier <= Tier::at_least(doubled.max(usual)), "{}", tier);
            }
        }
        Ok(())
    });
}

#[test]
fn any_retry_after_is_read_or_ignored() {
    let text = prop_oneof![like("\\PC{0,40}"), like("[0-9]{0,40}"), any_date(), like("(?s:.){0,20}")];
    fuzz("Retry-After", (text, any_moment()), |(text, now)| {
        let after = RetryAfter::parse(&text).map(|after| after.delay(now));
        let text = text.trim();
        if let Ok(date) = httpdate::parse_http_date(text) {
            let since_epoch = date.duration_since(std::time::UNIX_EPOCH).expect("HTTP dates start there");
            let date =
                Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).expect("in 9999 at most"));
            prop_assert_eq!(after, Some(date.since(now)));
            // The last day is not held to the second.
            let wait = since_epoch.as_secs_f64() - now.as_millis() as f64 / 1000.0;
            prop_assert!(date.since(now).as_secs_f64() >= wait - 2.0 * 86_400.0);
        } else if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            prop_assert_eq!(after, Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
        } else {
            prop_assert_eq!(after, None);
        }
        Ok(())
    });
}

// Headers

/// Bytes with their length before them, as AMQP writes long strings, arrays and tables.
fn with_length(bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [length.to_be_bytes().to_vec(), bytes].concat()
}

fn tagged(tag: u8, bytes: Vec<u8>) -> Vec<u8> {
    [vec![tag], bytes].concat()
}

fn any_header_text() -> impl Strategy<Value = Vec<u8>> {
    let parent = (any::<bool>(), any::<u128>(), any::<u64>(), any::<u8>(), like("(-[ -~]{0,4})?"));
    let parent = parent.prop_map(|(later, trace, span, flags, rest)| {
        let version = u8::from(later);
        format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}{rest}")
    });
    let text = prop_oneof![
        like("[0-9]{1,12}"),
        parent,
        like(
            "-?[0-9]{4,6}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|\\+0[0-9]:00)"
        ),
        Just("-009999-01-02T01:59:59Z".to_owned()),
        Just("9999-12-30T22:00:00.999999999Z".to_owned()),
        like("[a-z]=[ -~]{0,20}"),
        like("\\PC{0,40}"),
        like("(?s:.){0,20}"),
    ];
    let long = (select(vec![b'x', 0, 0xff]), 0..8_000_usize).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![6 => text.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..40), 2 => long]
}

/// A header's value as it stands on the wire, of any type.
fn any_wire_value() -> impl Strategy<Value = Vec<u8>> {
    let sizes = vec![
        (b't', 1),
        (b'b', 1),
        (b'B', 1),
        (b's', 2),
        (b'U', 2),
        (b'u', 2),
        (b'I', 4),
        (b'i', 4),
        (b'l', 8),
        (b'L', 8),
        (b'f', 4),
        (b'd', 8),
        (b'D', 5),
        (b'T', 8),
        (b'V', 0),
    ];
    let fixed = (select(sizes), any::<[u8; 8]>(), any::<bool>()).prop_map(|((tag, size), bytes, small)| {
        let bytes = if small { [0, 0, 0, 0, 0, 0, 0, bytes[7] % 20] } else { bytes };
        tagged(tag, bytes[8 - size..].to_vec())
    });
    let text =
        (select(vec![b'S', b'x']), any_header_text()).prop_map(|(tag, text)| tagged(tag, with_length(text)));
    prop_oneof![1 => fixed, 2 => text].prop_recursive(4, 16, 4, |inner| {
        let entries = vec((like("[a-z]{0,5}"), inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| tagged(b'A', with_length(values.concat()))),
            entries.prop_map(|entries| tagged(b'F', wire_table(entries))),
        ]
    })
}

fn wire_table(entries: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let entry = |(name, value): (String, Vec<u8>)| {
        [vec![u8::try_from(name.len()).expect("short")], name.into_bytes(), value].concat()
    };
    with_length(entries.into_iter().flat_map(entry).collect())
}

fn any_wire_headers() -> impl Strategy<Value = Bytes> {
    let own = vec![
        headers::STATUS,
        headers::REASON,
        headers::DETAIL,
        headers::ATTEMPTS,
        headers::REPLAYS,
        headers::FIRST_RECEIVED_AT,
        headers::REQUEST_ID,
        headers::TRACEPARENT,
        headers::TRACESTATE,
        headers::ORIGINAL_EXPIRATION,
        headers::ORIGINAL_USER_ID,
    ];
    let brokers =
        vec!["x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "CC", "BCC"];
    let name = prop_oneof![
        5 => select(own).prop_map(str::to_owned),
        1 => select(brokers).prop_map(str::to_owned),
        2 => like("[a-z-]{0,12}"),
        1 => (100..128_usize).prop_map(|length| "é".repeat(length)).prop_filter("too long", |name| name.len() <= 255),
    ];
    maybe_changed(vec((name, any_wire_value()), 0..10).prop_map(wire_table)).prop_map(Bytes)
}

fn any_properties() -> impl Strategy<Value = BasicProperties> {
    let short =
        prop_oneof![4 => like("\\PC{0,30}"), 1 => (200..256_usize).prop_map(|length| "x".repeat(length))];
    let short = short.prop_map(|text| headers::truncate(text, 255));
    let texts = vec(option::of(short), 9);
    let numbers = (option::of(any::<u8>()), option::of(any::<u8>()), option::of(any::<u64>()));
    (any_content_type(), texts, numbers).prop_map(|(content_type, texts, (mode, priority, timestamp))| {
        let mut properties = BasicProperties::default();
        let with: [fn(BasicProperties, String) -> BasicProperties; 9] = [
            |properties, text| properties.with_message_id(text.into()),
            |properties, text| properties.with_correlation_id(text.into()),
            |properties, text| properties.with_reply_to(text.into()),
            |properties, text| properties.with_expiration(text.into()),
            |properties, text| properties.with_user_id(text.into()),
            |properties, text| properties.with_content_encoding(text.into()),
            |properties, text| properties.with_type(text.into()),
            |properties, text| properties.with_app_id(text.into()),
            |properties, text| properties.with_cluster_id(text.into()),
        ];
        for (with, text) in with.into_iter().zip(texts) {
            properties = text.into_iter().fold(properties, with);
        }
        let content_type = content_type.map(|text| headers::truncate(text, 255));
        properties =
            content_type.into_iter().fold(properties, |all, text| all.with_content_type(text.into()));
        properties = mode.into_iter().fold(properties, BasicProperties::with_delivery_mode);
        properties = priority.into_iter().fold(properties, BasicProperties::with_priority);
        timestamp.into_iter().fold(properties, BasicProperties::with_timestamp)
    })
}

/// Properties as lapin writes them to the wire.
fn encoded(properties: &BasicProperties) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let to = Cursor::new(&mut buffer[..]).into();
    let end = gen_properties::<Cursor<&mut [u8]>>(properties)(to).expect("a mebibyte is enough").position;
    buffer.truncate(usize::try_from(end).expect("short"));
    buffer
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref().and_then(|headers| headers.inner().get(name))
}

fn is_brokers(name: &str) -> bool {
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count"]
        .iter()
        .any(|known| name.starts_with(known))
        || ["CC", "BCC"].contains(&name)
}

fn check_history(table: &FieldTable) -> Checked {
    let history = History::read(Some(table));
    let whole = |name| match *table.inner().get(name)? {
        AMQPValue::ShortShortInt(n) => Some(i64::from(n)),
        AMQPValue::ShortShortUInt(n) => Some(i64::from(n)),
        AMQPValue::ShortInt(n) => Some(i64::from(n)),
        AMQPValue::ShortUInt(n) => Some(i64::from(n)),
        AMQPValue::LongInt(n) => Some(i64::from(n)),
        AMQPValue::LongUInt(n) => Some(i64::from(n)),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    };
    let count = |name| whole(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    prop_assert_eq!(history.attempts, count(headers::ATTEMPTS));
    prop_assert_eq!(history.replays, count(headers::REPLAYS));
    prop_assert!(history.request_id.is_none_or(|id| !id.is_empty()));
    Ok(())
}

/// What goes into HTTP headers can do no harm there.
fn check_trace(trace: &TraceContext) -> Checked {
    let texts = [Some(trace.traceparent()), trace.tracestate()];
    for text in texts.into_iter().flatten() {
        let value = reqwest::header::HeaderValue::from_str(text);
        prop_assert!(value.is_ok_and(|value| value.to_str().is_ok()), "{text:?}");
    }
    let trace_id = trace.trace_id();
    prop_assert!(trace_id.len() == 32 && u128::from_str_radix(trace_id, 16).is_ok_and(|id| id > 0));
    prop_assert!(trace.traceparent().len() <= 255);
    Ok(())
}

/// What a parked copy and a dead letter have in common.
fn check_copy(original: &BasicProperties, copy: &BasicProperties, room: usize) -> Checked {
    let (before, bytes) = (encoded(original), encoded(copy));
    // The flags before the list are two bytes of the frame's own.
    prop_assert!(bytes.len() - 2 <= room, "{} bytes of {room}", bytes.len() - 2);
    let (rest, read) = parse_properties(&bytes[..]).expect("lapin reads what it wrote");
    prop_assert!(rest.is_empty());
    prop_assert!(encoded(&read) == bytes, "another message is read than was written");

    prop_assert_eq!(copy.delivery_mode(), &Some(2));
    prop_assert!(copy.expiration().is_none() && copy.user_id().is_none());
    prop_assert_eq!(copy.message_id(), original.message_id());
    prop_assert_eq!(copy.correlation_id(), original.correlation_id());
    prop_assert_eq!(copy.reply_to(), original.reply_to());
    prop_assert_eq!(copy.content_type(), original.content_type());
    let names = copy.headers().iter().flatten().map(|(name, _)| name.as_str());
    let brokers: Vec<_> = names.filter(|name| is_brokers(name)).collect();
    prop_assert!(brokers.is_empty(), "{brokers:?}");

    let ample = before.len() + 3_500 <= room;
    // Where a new trace begins, the old one's state goes.
    let new_trace = TraceContext::from_headers(original.headers().as_ref()).is_none();
    for (name, value) in original.headers().iter().flatten() {
        let name = name.as_str();
        let replaced = name == headers::TRACEPARENT || (new_trace && name == headers::TRACESTATE);
        if is_brokers(name) || name.starts_with("unlocker-") || replaced {
            continue;
        }
        // As text, since NaN is not equal to itself.
        let unchanged = header(copy, name).map(|copied| format!("{copied:?}") == format!("{value:?}"));
        prop_assert!(unchanged.unwrap_or(!ample), "{name}: {:?}", unchanged);
    }
    Ok(())
}

fn check_outcome(outcome: &Outcome, correlation_id: Option<&str>) -> Checked {
    let properties = outcome.properties(correlation_id);
    let message_id = properties.message_id().as_ref().expect("an id").as_str();
    prop_assert!((1..=255).contains(&message_id.len()));
    let replays = message_id.rsplit('/').next().and_then(|text| text.parse().ok());
    prop_assert_eq!(replays, Some(outcome.replays));
    let correlation_id = properties.correlation_id().as_ref().expect("an id").as_str();
    prop_assert!((1..=255).contains(&correlation_id.len()));
    let body: serde_json::Value = serde_json::from_slice(&outcome.encode().expect("encodes")).expect("JSON");
    prop_assert_eq!(body["request_id"].as_str(), Some(outcome.request_id.as_str()));
    let first = body["first_received_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    prop_assert_eq!(first, Some(outcome.first_received_at));
    Ok(())
}

#[test]
fn any_headers_are_read_and_what_succeeds_them_fits_and_reads_the_same() {
    let texts = (option::of(any_header_text()), option::of(any_header_text()));
    let texts = texts.prop_map(|(detail, response)| {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (detail.map(text), response.map(text))
    });
    let frame = select(vec![8 * 1024, 16 * 1024, 128 * 1024_usize]);
    let inputs = (any_wire_headers(), any_properties(), json_like(), texts, 0..100_u32, any_moment(), frame);
    fuzz("headers", inputs, |(Bytes(wire), properties, body, (detail, response), attempts, now, frame)| {
        // What lapin cannot read does not come as a delivery.
        let Ok((_, table)) = parse_field_table(&wire[..]) else {
            return Ok(());
        };
        check_history(&table)?;
        let original = properties.with_headers(table);
        // Nor does what the broker could not put into a frame.
        if encoded(&original).len() + 20 > frame {
            return Ok(());
        }
        let (room, body) = (frame - 4 * 1024, body.into_bytes());
        let trace = TraceContext::from_headers(original.headers().as_ref());
        trace.as_ref().map_or(Ok(()), check_trace)?;
        let new_trace = trace.is_none().then(TraceContext::new_root);
        let new_trace = new_trace.as_ref().map(TraceContext::traceparent);

        let taken = Envelope::open(original.clone(), body.clone(), now, || "given".to_owned());
        prop_assert!(!taken.request_id.is_empty() && taken.first_received_at <= now);
        let (reason, http_status) = ("unexpected_reply".to_owned(), Some(200));
        let parked = Parked { reason: Some(reason.clone()), detail: detail.clone(), http_status, attempts };
        let status = Status::Abandoned;
        let death = Death { status, reason, detail, http_status, response, attempts, dead_at: now };
        let copy = parked.stamp(&taken, new_trace, room);
        let letter = death.stamp(&taken, new_trace, room);
        for next in [copy, letter] {
            check_copy(&original, &next, room)?;
            let again = Envelope::open(next.clone(), body.clone(), Timestamp::from_millis(i64::MAX), || {
                "another".to_owned()
            });
            prop_assert_eq!((again.attempts, again.replays), (attempts, taken.replays));
            prop_assert_eq!(again.first_received_at, taken.first_received_at);
            prop_assert_eq!(&again.request_id, &taken.request_id);
            let twice = match header(&next, headers::STATUS) {
                Some(_) => death.stamp(&again, None, room),
                None => parked.stamp(&again, None, room),
            };
            prop_assert!(encoded(&twice) == encoded(&next), "stamped twice, it differs");
        }
        let outcome = Outcome {
            status,
            request_id: taken.request_id.clone(),
            request: None,
            attempts,
            http_status,
            reason: None,
            detail: None,
            replays: taken.replays,
            first_received_at: taken.first_received_at,
            finished_at: now,
        };
        check_outcome(&outcome, taken.correlation_id())
    });
}
