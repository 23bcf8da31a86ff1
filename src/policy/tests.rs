use proptest::prelude::*;

use super::*;

const LIMITS: RetryLimits = RetryLimits {
    max_attempts: 12,
    max_delay: Duration::from_secs(1024),
    give_up_after: Duration::from_secs(24 * 3600),
};
const NOW: Timestamp = Timestamp::EPOCH;
const FRESH: AttemptHistory =
    AttemptHistory { attempts: 0, first_received_at: NOW, expires_at: None, judgement: Judgement::Counts };

fn answer(status: u16, body: &str) -> Reply {
    Reply::Response(HttpResponse { status, body: body.into(), cut: false, retry_after: None })
}

fn transient(status: u16) -> Classification {
    Classification::Transient(Reason::Http(status), None)
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

#[test]
fn success_with_exactly_true_is_unlocked() {
    for body in ["true", " true\n"] {
        assert_eq!(classify(&answer(200, body)), Classification::Unlocked);
    }
    assert_eq!(classify(&answer(201, "true")), Classification::Unlocked);
}

#[test]
fn success_with_other_json_is_refused() {
    for body in ["false", "null", "1", r#""true""#, "{}", "[true]", r#"{"error":"no"}"#] {
        assert_eq!(classify(&answer(200, body)), Classification::Refused(Reason::NotTrue), "{body}");
    }
}

#[test]
fn success_without_json_is_transient() {
    for body in ["", "<html>", "True", "truetrue", "\u{feff}true"] {
        let expected = Classification::Transient(Reason::UnexpectedReply, None);
        assert_eq!(classify(&answer(200, body)), expected, "{body}");
    }
    let endless = HttpResponse { status: 200, body: b"true".to_vec(), cut: true, retry_after: None };
    let expected = Classification::Transient(Reason::UnexpectedReply, None);
    assert_eq!(classify(&Reply::Response(endless)), expected);
}

#[test]
fn a_refused_tunnel_is_never_the_requests_fault() {
    let no_tunnel = |status| Reply::NoTunnel { status, detail: "the HTTP proxy p:1 said no".to_owned() };
    for status in 100..=999 {
        let reply = no_tunnel(Some(status));
        let reason = Reason::ProxyRefused(status);
        let expected = match status {
            408 | 425 | 429 => Classification::Transient(reason, None),
            300..=499 | 501 => Classification::EndpointFault(reason),
            _ => Classification::Transient(reason, None),
        };
        assert_eq!(classify(&reply), expected, "{status}");
        assert_eq!((reply.status(), reply.error_type()), (None, Some(format!("proxy_{status}"))));
    }
    let reply = no_tunnel(None);
    assert_eq!(classify(&reply), Classification::Transient(Reason::ProxyConnection, None));
    assert_eq!(Reason::ProxyConnection.to_string(), "connection", "the contract's word for it");
    assert_eq!(reply.error_type().as_deref(), Some("connection"));
}

#[test]
fn client_errors_are_refused_except_endpoint_faults_and_temporary_ones() {
    for status in [400, 402, 406, 409, 410, 411, 415, 418, 422, 451] {
        assert_eq!(classify(&answer(status, "")), Classification::Refused(Reason::Http(status)));
    }
    for status in [301, 302, 304, 307, 308, 401, 403, 405, 407, 501] {
        assert_eq!(classify(&answer(status, "")), Classification::EndpointFault(Reason::Http(status)));
    }
    for status in [408, 425, 500, 502, 503, 504, 511, 599] {
        assert_eq!(classify(&answer(status, "true")), transient(status));
    }
    assert_eq!(classify(&answer(404, "")), Classification::NotFound);
    assert_eq!(classify(&answer(429, "")), Classification::RateLimited(None));
}

#[test]
fn no_answer_is_transient() {
    assert_eq!(classify(&Reply::Timeout), Classification::Transient(Reason::Timeout, None));
    let reset = Reply::Connection("reset".to_owned());
    assert_eq!(classify(&reset), Classification::Transient(Reason::Connection, None));
}

#[test]
fn an_address_is_proven_by_what_a_wrong_one_could_not_answer() {
    for (status, body, proves) in [
        (200, "true", true),
        (400, "", true),
        (422, "", true),
        (200, "{}", false),
        (404, "", false),
        (401, "", false),
        (503, "", false),
    ] {
        assert_eq!(classify(&answer(status, body)).proves_address(), proves, "{status} {body}");
    }
}

#[test]
fn retry_after_is_read_as_seconds_or_as_a_date() {
    let seconds = |value| RetryAfter::parse(value).map(|after| after.delay(later(0)).as_secs());
    assert_eq!(seconds("120"), Some(120));
    assert_eq!(seconds(" 7 "), Some(7));
    assert_eq!(seconds("99999999999999999999"), Some(u64::MAX));
    for nonsense in ["", "soon", "-1", "1.5", "+3"] {
        assert_eq!(seconds(nonsense), None, "{nonsense}");
    }
    let date = RetryAfter::parse("Thu, 01 Jan 1970 00:01:30 GMT").expect("a date");
    assert_eq!(date.delay(later(0)), Duration::from_secs(90));
    assert_eq!(date.delay(later(100)), Duration::ZERO);
}

#[test]
fn a_final_answer_counts_as_an_attempt() {
    let history = AttemptHistory { attempts: 2, ..FRESH };
    assert_eq!(
        decide(Classification::Unlocked, history, NOW, 1.0, &LIMITS),
        Verdict::Unlocked { attempts: 3 }
    );
    let reason = Reason::Http(400);
    assert_eq!(
        decide(Classification::Refused(reason), history, NOW, 1.0, &LIMITS),
        Verdict::Refused { attempts: 3, reason }
    );
}

#[test]
fn the_backoff_doubles_up_to_its_limit() {
    let seconds = |attempts, jitter, limits: &RetryLimits| match decide(
        transient(503),
        AttemptHistory { attempts, ..FRESH },
        NOW,
        jitter,
        limits,
    ) {
        Verdict::Retry { tier, .. } => tier.duration().as_secs(),
        other => panic!("{other:?}"),
    };
    let full: Vec<_> = (0..11).map(|attempts| seconds(attempts, 1.0, &LIMITS)).collect();
    assert_eq!(full, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    assert_eq!(seconds(10, 0.001, &LIMITS), 2);
    let short = RetryLimits { max_delay: Duration::from_secs(8), ..LIMITS };
    assert_eq!(seconds(10, 1.0, &short), 8);
}

#[test]
fn retry_after_is_a_lower_bound_limited_to_the_longest_delay() {
    let seconds = |after, max_delay| {
        let limits = RetryLimits { max_delay: Duration::from_secs(max_delay), ..LIMITS };
        let classification = Classification::Transient(Reason::Http(503), RetryAfter::parse(after));
        match decide(classification, FRESH, NOW, 0.1, &limits) {
            Verdict::Retry { tier, .. } => tier.duration().as_secs(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(seconds("30", 1024), 32);
    assert_eq!(seconds("99999999999999999999", 16), 16);
}

#[test]
fn attempts_used_up_abandon_the_request() {
    let reason = Reason::Http(503);
    let at = |attempts| decide(transient(503), AttemptHistory { attempts, ..FRESH }, NOW, 1.0, &LIMITS);
    assert!(matches!(at(10), Verdict::Retry { attempts: 11, .. }));
    assert_eq!(at(11), Verdict::Abandoned { attempts: 12, reason });
    assert_eq!(at(u32::MAX), Verdict::Abandoned { attempts: u32::MAX, reason });
}

#[test]
fn time_used_up_abandons_the_request() {
    let day = 24 * 3600;
    let reason = Reason::Http(503);
    let at = |seconds| decide(transient(503), FRESH, later(seconds), 1.0, &LIMITS);
    assert!(matches!(at(day - 1), Verdict::Retry { .. }));
    assert_eq!(at(day), Verdict::Abandoned { attempts: 1, reason });
    let limited = decide(Classification::RateLimited(None), FRESH, later(day), 1.0, &LIMITS);
    assert_eq!(limited, Verdict::Abandoned { attempts: 0, reason: Reason::RateLimited });
}

#[test]
fn a_429_is_no_attempt_and_waits_for_its_retry_after() {
    let limited =
        |after| decide(Classification::RateLimited(RetryAfter::parse(after)), FRESH, NOW, 0.5, &LIMITS);
    let reason = Reason::RateLimited;
    let tier = Tier::at_least(Duration::from_secs(4));
    assert_eq!(limited("3"), Verdict::Retry { attempts: 0, reason, tier });
    assert_eq!(rate_limit_pause(None, NOW), Duration::from_secs(1));
    assert_eq!(rate_limit_pause(RetryAfter::parse("3600"), NOW), Duration::from_secs(300));
}

#[test]
fn a_failure_in_an_outage_is_no_attempt_but_the_time_limit_applies() {
    let history = AttemptHistory { attempts: 11, judgement: Judgement::Spared, ..FRESH };
    let verdict = decide(transient(503), history, later(23 * 3600), 1.0, &LIMITS);
    assert!(matches!(verdict, Verdict::Retry { attempts: 11, .. }), "{verdict:?}");
    let verdict = decide(transient(503), history, later(24 * 3600), 1.0, &LIMITS);
    assert_eq!(verdict, Verdict::Abandoned { attempts: 11, reason: Reason::Http(503) });
}

#[test]
fn an_endpoint_fault_that_is_the_requests_own_refuses_it() {
    let history = AttemptHistory { attempts: 1, judgement: Judgement::OwnFault, ..FRESH };
    let fault = Classification::EndpointFault(Reason::Http(403));
    let verdict = decide(fault, history, NOW, 1.0, &LIMITS);
    assert_eq!(verdict, Verdict::Refused { attempts: 2, reason: Reason::Http(403) });
}

#[test]
fn a_retry_comes_back_before_the_request_expires() {
    let reason = Reason::Http(503);
    let after = |attempts, left: i64, retry_after: Option<&str>| {
        let history = AttemptHistory { attempts, expires_at: Some(later(left)), ..FRESH };
        let retry_after = retry_after.and_then(RetryAfter::parse);
        decide(Classification::Transient(reason, retry_after), history, NOW, 1.0, &LIMITS)
    };
    let retry = |attempts, seconds| {
        let tier = Tier::at_least(Duration::from_secs(seconds));
        Verdict::Retry { attempts, reason, tier }
    };
    assert_eq!(after(4, 3600, None), retry(5, 16), "there is enough time");
    assert_eq!(after(4, 17, None), retry(5, 16));
    assert_eq!(after(4, 16, None), retry(5, 8), "it would come back too late");
    assert_eq!(after(10, 100, None), retry(11, 64));
    assert_eq!(after(10, 2, None), retry(11, 1));
    assert_eq!(after(0, 1, None), Verdict::Expired { attempts: 1, reason });
    assert_eq!(after(0, -5, None), Verdict::Expired { attempts: 1, reason });
    assert_eq!(after(0, 30, Some("9")), retry(1, 16));
    assert_eq!(after(0, 16, Some("9")), Verdict::Expired { attempts: 1, reason }, "Retry-After is longer");
    assert_eq!(after(11, 1, None), Verdict::Abandoned { attempts: 12, reason }, "no attempt is left");
}

#[test]
fn a_request_that_is_spared_expires_without_another_attempt() {
    let history = AttemptHistory { attempts: 3, expires_at: Some(later(1)), ..FRESH };
    for (classification, reason) in [
        (Classification::EndpointFault(Reason::Http(401)), Reason::Http(401)),
        (Classification::RateLimited(None), Reason::RateLimited),
    ] {
        let verdict = decide(classification, history, NOW, 1.0, &LIMITS);
        assert_eq!(verdict, Verdict::Expired { attempts: 3, reason });
    }
    for classification in [Classification::Unlocked, Classification::Refused(Reason::NotTrue)] {
        let history = AttemptHistory { expires_at: Some(later(-1)), ..history };
        let verdict = decide(classification, history, NOW, 1.0, &LIMITS);
        assert!(!matches!(verdict, Verdict::Expired { .. }), "an answer counts, however late it is");
    }
}

#[test]
fn tiers_are_named_by_their_seconds() {
    let names: Vec<_> = Tier::ALL.iter().map(Tier::to_string).collect();
    assert_eq!(names.join(" "), "1s 2s 4s 8s 16s 32s 64s 128s 256s 512s 1024s");
    assert_eq!(Tier::at_least(Duration::ZERO), Tier::SHORTEST);
    assert_eq!(Tier::at_least(Duration::MAX).to_string(), "1024s");
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let retry_after = proptest::option::of(any::<String>().prop_map(|text| RetryAfter::parse(&text)));
    let body = prop_oneof![Just(b"true".to_vec()), proptest::collection::vec(any::<u8>(), 0..64)];
    let answer =
        (100..=999_u16, body, any::<bool>(), retry_after).prop_map(|(status, body, cut, retry_after)| {
            Reply::Response(HttpResponse { status, body, cut, retry_after: retry_after.flatten() })
        });
    prop_oneof![8 => answer, 1 => Just(Reply::Timeout), 1 => any::<String>().prop_map(Reply::Connection)]
}

proptest! {
    #[test]
    fn any_reply_gets_a_verdict_and_an_endpoint_fault_is_always_retried(
        reply in any_reply(), attempts in any::<u32>(), age in 0..10_000_000_i64,
        jitter in 0.000_1..=1.0_f64, spared: bool,
    ) {
        let classification = classify(&reply);
        let judgement = if spared { Judgement::Spared } else { Judgement::Counts };
        let history = AttemptHistory { attempts, judgement, ..FRESH };
        let verdict = decide(classification, history, later(age), jitter, &LIMITS);
        if matches!(classification, Classification::EndpointFault(_)) {
            let kept = matches!(verdict, Verdict::Retry { attempts: kept, .. } if kept == attempts);
            prop_assert!(kept);
        }
        if let Verdict::Retry { attempts: after, .. } = verdict {
            prop_assert!(after >= attempts);
        }
    }
}
