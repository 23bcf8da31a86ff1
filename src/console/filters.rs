//! Reads a filter from a query or a form.

use super::{fields::Fields, problem::Problem};
use crate::{
    dead_letters::Filter,
    message::{DeadLetterStatus, Moment, Timestamp},
};

/// The names of a filter's fields.
pub(super) const FIELDS: [&str; 5] = ["status", "reason", "since", "until", "id"];

/// Reads the filter. A field may be repeated, or contain several values separated by commas.
pub(super) fn read(fields: &Fields) -> Result<Filter, Problem> {
    let list = |name| {
        let values = fields.all(name).flat_map(|value| value.split(','));
        values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    Ok(Filter {
        status: list("status").iter().map(|name| status(name)).collect::<Result<_, _>>()?,
        reason: list("reason"),
        since: fields.get("since").map(|text| moment("since", text)).transpose()?,
        until: fields.get("until").map(|text| moment("until", text)).transpose()?,
        ids: list("id"),
        limit: None,
    })
}

/// Encodes the filter's fields as a query.
pub(super) fn query(fields: &Fields) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in FIELDS {
        query.extend_pairs(fields.all(name).map(|value| (name, value)));
    }
    query.finish()
}

/// Reads a number from a field.
pub(super) fn number<T: std::str::FromStr + PartialOrd>(
    fields: &Fields,
    name: &str,
    default: T,
    allowed: std::ops::RangeInclusive<T>,
) -> Result<T, Problem> {
    let Some(text) = fields.get(name) else {
        return Ok(default);
    };
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    number.ok_or_else(|| {
        Problem::bad_request(format!("{name}: {text:?} is not a number, or not an allowed one."))
    })
}

pub(super) fn status(name: &str) -> Result<DeadLetterStatus, Problem> {
    DeadLetterStatus::named(name).ok_or_else(|| {
        let names = DeadLetterStatus::ALL.map(DeadLetterStatus::as_str).join(", ");
        Problem::bad_request(format!("status: {name:?} is not one of {names}."))
    })
}

pub(super) fn moment(name: &str, text: &str) -> Result<Timestamp, Problem> {
    let moment = text.parse::<Moment>().map(|moment| moment.0);
    moment.map_err(|wrong| Problem::bad_request(format!("{name}: {wrong}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_a_query_and_written_as_one() {
        let fields =
            Fields::parse(b"status=refused,invalid&reason=&since=2026-11-23T09:00:00Z&id=a&id=b&page=3");
        let filter = read(&fields).expect("a filter");
        assert_eq!(filter.status, [DeadLetterStatus::Refused, DeadLetterStatus::Invalid]);
        assert_eq!((filter.reason, filter.ids), (vec![], vec!["a".to_owned(), "b".to_owned()]));
        assert!(filter.since.is_some() && filter.until.is_none());
        assert_eq!(query(&fields), "status=refused%2Cinvalid&since=2026-11-23T09%3A00%3A00Z&id=a&id=b");
    }

    #[test]
    fn a_problem_names_the_field_that_cannot_be_read() {
        for (wrong, says) in [("status=dead", "status"), ("since=soon", "since"), ("until=x", "until")] {
            let problem = read(&Fields::parse(wrong.as_bytes())).expect_err("a problem");
            assert!(problem.what.starts_with(says), "{problem:?}");
        }
        assert!(number(&Fields::parse(b"page=0"), "page", 1, 1..=9).is_err());
    }
}
