//! Trackfinity's responses, and what is decided on them.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};
use trackfinity_unlocker::{
    message::Timestamp,
    policy::{
        AttemptHistory, Classification, HttpResponse, Judgement, Reason, Reply, RetryAfter, RetryLimits,
        Tier, Verdict, classify, decide, rate_limit_pause,
    },
};

use super::{fuzz, like, maybe_changed, requests::json_like};

pub(super) fn any_moment() -> impl Strategy<Value = Timestamp> {
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
        Reply::Response(HttpResponse { status, body, cut, retry_after })
    });
    prop_oneof![10 => answer, 1 => Just(Reply::Timeout), 1 => like("(?s:.){0,20}").prop_map(Reply::Connection)]
}

fn any_history() -> impl Strategy<Value = AttemptHistory> {
    let attempts = prop_oneof![4 => 0..20_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    (
        attempts,
        any_moment(),
        option::weighted(0.3, any_moment()),
        prop_oneof![Just(Judgement::Counts), Just(Judgement::Spared), Just(Judgement::OwnFault)],
    )
        .prop_map(|(attempts, first_received_at, expires_at, judgement)| AttemptHistory {
            attempts,
            first_received_at,
            expires_at,
            judgement,
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

/// The contract's table, written a second time.
fn table(reply: &Reply) -> &'static str {
    let Reply::Response(answer) = reply else {
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
fn any_reply_is_classified_as_the_contract_says() {
    // (0, 1], to the last bit.
    let jitter = (0..u64::MAX).prop_map(|bits| 1.0 - (bits >> 11) as f64 / (1_u64 << 53) as f64);
    let inputs = (any_reply(), any_history(), any_moment(), jitter, any_limits());
    fuzz("answers", inputs, |(reply, history, now, jitter, limits)| {
        let classification = classify(&reply);
        let (name, after) = match classification {
            Classification::Unlocked => ("unlocked", None),
            Classification::Refused(_) => ("refused", None),
            Classification::NotFound => ("not found", None),
            Classification::Transient(_, after) => ("transient", after),
            Classification::RateLimited(after) => ("rate limited", after),
            Classification::EndpointFault(_) => ("endpoint fault", None),
        };
        prop_assert_eq!(name, table(&reply));
        let is_final = matches!(classification, Classification::Unlocked | Classification::Refused(_));
        prop_assert!(is_final || !classification.proves_address());
        prop_assert!(rate_limit_pause(after, now) <= Duration::from_secs(300));

        let is_too_old = now.since(history.first_received_at) >= limits.give_up_after;
        let left = history.expires_at.map(|at| at.since(now));
        let next = history.attempts.saturating_add(1);
        match decide(classification, history, now, jitter, &limits) {
            Verdict::Unlocked { attempts } => prop_assert_eq!((name, attempts), ("unlocked", next)),
            Verdict::Refused { attempts, reason } => {
                let own_fault = name == "endpoint fault" && history.judgement == Judgement::OwnFault;
                prop_assert!(matches!(name, "refused" | "not found") || own_fault);
                let Reply::Response(HttpResponse { status, .. }) = reply else {
                    return Err(TestCaseError::fail("refused without an answer"));
                };
                let expected = if status < 300 { Reason::NotTrue } else { Reason::Http(status) };
                prop_assert_eq!((attempts, reason), (next, expected));
            }
            Verdict::Abandoned { attempts, .. } => {
                prop_assert!(matches!(name, "transient" | "rate limited"));
                let counts = name == "transient" && history.judgement != Judgement::Spared;
                prop_assert_eq!(attempts, if counts { next } else { history.attempts });
                prop_assert!(is_too_old || (counts && next >= limits.max_attempts));
            }
            Verdict::Expired { attempts, .. } => {
                prop_assert!(matches!(name, "transient" | "rate limited" | "endpoint fault"));
                let counts = name == "transient" && history.judgement != Judgement::Spared;
                prop_assert_eq!(attempts, if counts { next } else { history.attempts });
                // A second is the shortest wait; only a Retry-After may ask for more.
                let asked = after.map_or(Duration::from_secs(1), |after| after.delay(now));
                let shortest = Tier::at_least(asked.min(limits.max_delay)).duration();
                prop_assert!(left.is_some_and(|left| left <= shortest), "{:?} left", left);
            }
            Verdict::Retry { attempts, tier, .. } => {
                prop_assert!(left.is_none_or(|left| tier.duration() < left), "{} of {:?}", tier, left);
                prop_assert!(matches!(name, "transient" | "rate limited" | "endpoint fault"));
                let counts = name == "transient" && history.judgement != Judgement::Spared;
                prop_assert_eq!(attempts, if counts { next } else { history.attempts });
                prop_assert!(name == "endpoint fault" || !is_too_old);
                prop_assert!(!counts || next < limits.max_attempts);
                let asked = after.map_or(Duration::ZERO, |after| after.delay(now)).min(limits.max_delay);
                prop_assert!(tier.duration() >= asked, "{} for {:?}", tier, asked);
                let doubled = Duration::from_secs(1 << history.attempts.min(10)).min(limits.max_delay);
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
