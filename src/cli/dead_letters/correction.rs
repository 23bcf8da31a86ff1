//! `replay --set FIELD=VALUE`, and what a plan shows of it.

use std::{io::Read, str::FromStr};

use anyhow::Context;

use super::tables::clean;
use crate::{
    cli::{failure::Failure, print::print},
    dead_letters::{CorrectionPreview, Plan, RequestView},
    message::{Correction, InvalidCorrection, request::MAX_BODY_BYTES},
};

const BODY_FILE: &str = "body_file";
/// How much of a body a plan shows, in characters; `--json` shows all.
const MAX_BODY_CHARS: usize = 1000;

/// What one `--set` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Field(String, String),
    /// A path, or `-` for stdin.
    BodyFile(String),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || format!("{}, {BODY_FILE}", Correction::FIELDS.join(", "));
        match text.split_once('=') {
            None => Err(format!("write FIELD=VALUE; the fields are {}", known())),
            Some((BODY_FILE, "")) => Err("give the path of a file, or - for stdin".to_owned()),
            Some((BODY_FILE, path)) => Ok(Self::BodyFile(path.to_owned())),
            Some((field, _)) if !Correction::FIELDS.contains(&field) => {
                Err(format!("there is no field {field:?}; the fields are {}", known()))
            }
            Some((field, value)) => {
                Correction::default().set(field, value).map_err(|error| error.to_string())?;
                Ok(Self::Field(field.to_owned(), value.to_owned()))
            }
        }
    }
}

/// Reads the new body, too.
pub(super) fn read(settings: &[Setting]) -> Result<Correction, Failure> {
    let mut correction = Correction::default();
    for setting in settings {
        let set = match setting {
            Setting::Field(field, value) => correction.set(field, value),
            Setting::BodyFile(path) => correction.set_body(read_file(path)?),
        };
        set.map_err(|error: InvalidCorrection| anyhow::anyhow!("--set: {error}"))?;
    }
    Ok(correction)
}

fn read_file(path: &str) -> Result<Vec<u8>, Failure> {
    // One byte more, so that a larger body is refused.
    let max = MAX_BODY_BYTES as u64 + 1;
    let mut body = Vec::new();
    let read = match path {
        "-" => std::io::stdin().lock().take(max).read_to_end(&mut body),
        path => std::fs::File::open(path).and_then(|file| file.take(max).read_to_end(&mut body)),
    };
    read.with_context(|| format!("the new body cannot be read from {path}"))?;
    Ok(body)
}

/// Warns if several requests get the same identifier or body: usually a mistake of the filter.
pub(super) fn warn_if_the_same(plan: &Plan) {
    let (Some(correction), count @ 2..) = (plan.action.correction(), plan.ids.len()) else {
        return;
    };
    let given = correction.identifiers().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name);
    let given: Vec<_> = given.chain(correction.has_body().then_some("body")).collect();
    if !given.is_empty() {
        eprintln!("unlocker: all {count} requests get the same {}", given.join(" and "));
    }
}

/// Prints each request before and after its correction.
pub(super) fn print_previews(previews: &[CorrectionPreview]) -> Result<(), Failure> {
    for line in previews.iter().flat_map(lines) {
        print(format_args!("{line}"))?;
    }
    Ok(())
}

fn lines(preview: &CorrectionPreview) -> Vec<String> {
    let CorrectionPreview { id, before, after } = preview;
    let mut lines = vec![String::new(), format!("{id}")];
    for (side, view) in [("before", before), ("after", after)] {
        lines.push(format!("  {side:<6}  {}", describe(view)));
        lines.extend(body(view).map(|line| format!("          {line}")));
    }
    if before.request_id != after.request_id {
        lines.push(format!("  its request id becomes {}", clean(&after.request_id)));
    }
    lines
}

/// `application/json, 19 bytes: customer_id=191`
fn describe(view: &RequestView) -> String {
    let content_type = view.content_type.as_deref().unwrap_or("no content type");
    let encoding = view.content_encoding.as_deref().map(|encoding| format!(" ({encoding})"));
    let read = match (&view.request, view.reason) {
        (Some(request), _) => {
            let given: Vec<_> = request.given().map(|(name, value)| format!("{name}={value}")).collect();
            given.join(" ")
        }
        // The table above it has the detail.
        (None, reason) => format!("invalid, {}", reason.unwrap_or_default()),
    };
    clean(&format!("{content_type}{}, {} bytes: {read}", encoding.unwrap_or_default(), view.size))
}

fn body(view: &RequestView) -> impl Iterator<Item = String> {
    let text = view.body.as_str();
    let shown: String = text.chars().take(MAX_BODY_CHARS).collect();
    let cut = (shown.len() < text.len()).then(|| "…".to_owned());
    let lines: Vec<_> = shown.lines().map(clean).collect();
    lines.into_iter().chain(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::DeadLetterId;

    #[test]
    fn a_setting_is_a_known_field_and_a_value_that_it_can_have() {
        let field = |field: &str, value: &str| Ok(Setting::Field(field.to_owned(), value.to_owned()));
        for (text, expected) in [
            ("customer_id=191", field("customer_id", "191")),
            ("orderid=", field("orderid", "")),
            ("content_type=a/b;c=d", field("content_type", "a/b;c=d")),
            ("body_file=./a=b", Ok(Setting::BodyFile("./a=b".to_owned()))),
        ] {
            assert_eq!(text.parse::<Setting>(), expected, "{text}");
        }
        for (text, why) in [
            ("customer_id", "write FIELD=VALUE"),
            ("customer=1", "there is no field \"customer\"; the fields are customer_id,"),
            ("body=x", "body_file"),
            ("body_file=", "the path of a file"),
            ("customer_id= ", "is blank"),
        ] {
            let error = text.parse::<Setting>().expect_err(text);
            assert!(error.contains(why), "{error}");
        }
        let twice = ["orderid=7", "orderid=8"].map(|text| text.parse().expect("a setting"));
        assert!(read(&twice).expect_err("twice").to_string().contains("orderid is set twice"));
        let missing = [Setting::BodyFile("/nonexistent/body".to_owned())];
        assert!(read(&missing).expect_err("missing").to_string().contains("/nonexistent/body"));
    }

    #[test]
    fn a_preview_shows_both_sides_and_no_control_characters() {
        let view = |content_type: Option<&str>, body: &str| RequestView {
            request_id: "r-1".to_owned(),
            content_type: content_type.map(str::to_owned),
            content_encoding: None,
            body: body.to_owned(),
            size: body.len(),
            body_sha256: String::new(),
            request: None,
            reason: Some("malformed"),
            detail: Some("it ends too early".to_owned()),
        };
        let after = RequestView {
            request_id: "r-2".to_owned(),
            content_encoding: Some("utf-8".to_owned()),
            ..view(Some("text/plain"), &"x".repeat(1001))
        };
        let preview =
            CorrectionPreview { id: DeadLetterId::from("a"), before: view(None, "{\n\u{1b}"), after };
        assert_eq!(
            lines(&preview),
            [
                "",
                "a",
                "  before  no content type, 3 bytes: invalid, malformed",
                "          {",
                "          \u{fffd}",
                "  after   text/plain (utf-8), 1001 bytes: invalid, malformed",
                &format!("          {}", "x".repeat(1000)),
                "          …",
                "  its request id becomes r-2",
            ]
        );
    }
}
