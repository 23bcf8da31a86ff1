//! Identifiers that say themselves how they are answered, for the tests of other teams.

use axum::http::StatusCode;

/// How the calls with one identifier are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// The status of the first, third, fifth … call.
    odd: StatusCode,
    /// The status of the second, fourth, sixth … call.
    even: StatusCode,
    pub(super) is_slow: bool,
}

impl Script {
    /// The script of an identifier: of one that starts with `refused-`, `failing-`, `flaky-` or
    /// `slow-`, or of a number of six digits that is two HTTP statuses, such as `404404`.
    pub(super) fn parse(identifier: &str) -> Option<Self> {
        let new = |odd, even| Self { odd, even, is_slow: false };
        let by_name = [
            ("refused-", new(StatusCode::NOT_FOUND, StatusCode::NOT_FOUND)),
            ("failing-", new(StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE)),
            ("flaky-", new(StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK)),
            ("slow-", Self { is_slow: true, ..new(StatusCode::OK, StatusCode::OK) }),
        ];
        let named = by_name.into_iter().find(|(start, _)| identifier.starts_with(start));
        named.map(|(_, script)| script).or_else(|| Self::parse_number(identifier))
    }

    fn parse_number(identifier: &str) -> Option<Self> {
        let (odd, even) = identifier.split_at_checked(3).filter(|(_, even)| even.len() == 3)?;
        let script = Self { odd: answerable(odd)?, even: answerable(even)?, is_slow: false };
        Some(Self { is_slow: script.odd == StatusCode::OK && script.even == StatusCode::OK, ..script })
    }

    /// `call` counts from 0.
    pub(super) fn status(self, call: usize) -> StatusCode {
        if call.is_multiple_of(2) { self.odd } else { self.even }
    }
}

/// 200, or an error.
fn answerable(text: &str) -> Option<StatusCode> {
    let status: StatusCode = text.parse().ok()?;
    let is_error = status.is_client_error() || status.is_server_error();
    (is_error || status == StatusCode::OK).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(identifier: &str) -> Option<([u16; 3], bool)> {
        let script = Script::parse(identifier)?;
        Some(([0, 1, 2].map(|call| script.status(call).as_u16()), script.is_slow))
    }

    #[test]
    fn a_name_says_how_it_is_answered() {
        assert_eq!(statuses("refused-1"), Some(([404; 3], false)));
        assert_eq!(statuses("failing-order-7"), Some(([503; 3], false)));
        assert_eq!(statuses("flaky-"), Some(([503, 200, 503], false)));
        assert_eq!(statuses("slow-1"), Some(([200; 3], true)));
    }

    #[test]
    fn a_number_of_two_statuses_says_how_it_is_answered() {
        assert_eq!(statuses("404404"), Some(([404; 3], false)));
        assert_eq!(statuses("503200"), Some(([503, 200, 503], false)));
        assert_eq!(statuses("200200"), Some(([200; 3], true)));
    }

    #[test]
    fn all_other_identifiers_have_no_script() {
        for usual in ["191", "refused", "404", "404404404", "302302", "191404", "40440é", "ébcdé", ""] {
            assert_eq!(statuses(usual), None, "{usual}");
        }
    }
}
