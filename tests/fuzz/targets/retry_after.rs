//! The header `Retry-After`.

use std::time::Duration;

use proptest::prelude::*;
use trackfinity_unlocker::{message::Timestamp, policy::RetryAfter};

use super::{Checked, text::Text};

pub fn check_bytes(bytes: &[u8]) -> Checked {
    let input = Text::parse(bytes);
    let Ok(text) = std::str::from_utf8(input.body) else { return Ok(()) };
    check(text, input.moment("now").unwrap_or(Timestamp::EPOCH))
}

pub fn check(text: &str, now: Timestamp) -> Checked {
    let after = RetryAfter::parse(text).map(|after| after.delay(now));
    let text = text.trim();
    if let Ok(date) = httpdate::parse_http_date(text) {
        let since_epoch = date.duration_since(std::time::UNIX_EPOCH).expect("HTTP dates start there");
        let date = Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).expect("in 9999 at most"));
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
}
