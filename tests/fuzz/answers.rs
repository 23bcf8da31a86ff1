//! Trackfinity's responses, and what is decided on them.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};
use trackfinity_unlocker::{
    message::Timestamp,
    policy::{AttemptHistory, HttpResponse, Judgement, Reply, RetryAfter, RetryLimits},
};

use super::{
    fuzz, like, maybe_changed,
    requests::json_like,
    targets::{
        answers::{self, Call, jitter},
        retry_after,
    },
};

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

#[test]
fn any_reply_is_classified_as_the_contract_says() {
    let jitter = (0..u64::MAX).prop_map(jitter);
    let inputs = (any_reply(), any_history(), any_moment(), jitter, any_limits());
    let inputs =
        inputs.prop_map(|(reply, history, now, jitter, limits)| Call { reply, history, now, jitter, limits });
    fuzz("answers", inputs, answers::check);
}

#[test]
fn any_retry_after_is_read_or_ignored() {
    let text = prop_oneof![like("\\PC{0,40}"), like("[0-9]{0,40}"), any_date(), like("(?s:.){0,20}")];
    fuzz("Retry-After", (text, any_moment()), |(text, now)| retry_after::check(&text, now));
}
