//! Everything about one dead letter, for people.

use serde_json::Value;

use super::tables::clean;
use crate::{
    cli::{failure::Failure, print::print},
    dead_letters::DeadLetter,
};

/// The fields that people look for first, in this order; the others follow.
const FIRST: [&str; 6] = ["id", "request_id", "status", "reason", "detail", "http_status"];

/// Prints a line for each field that has a value, and then the body.
pub(super) fn print_dead_letter(dead_letter: &DeadLetter) -> Result<(), Failure> {
    for line in lines(&dead_letter.to_json()) {
        print(format_args!("{line}"))?;
    }
    Ok(())
}

fn lines(dead_letter: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (section, prefix) in [("dead_letter", ""), ("properties", ""), ("headers", "header ")] {
        let fields = dead_letter.get(section).and_then(Value::as_object).into_iter().flatten();
        let mut fields: Vec<_> = fields.filter(|(_, value)| !value.is_null()).collect();
        fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
        for (name, value) in fields {
            lines.push(line(&format!("{prefix}{name}"), value));
        }
    }
    for name in ["response", "properties_hex", "body_hex"] {
        lines.extend(dead_letter.get(name).filter(|value| !value.is_null()).map(|value| line(name, value)));
    }
    if let Some(body) = dead_letter.get("body").and_then(Value::as_str) {
        lines.push("body".to_owned());
        lines.extend(body.lines().map(clean));
    }
    lines
}

fn line(name: &str, value: &Value) -> String {
    let value = match value {
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    };
    format!("{:<34}  {value}", clean(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_with_a_value_has_a_line_and_the_body_comes_last() {
        let dead_letter = json!({
            "dead_letter": {"id": "0123456789ab", "reason": null, "attempts": 2},
            "response": "no\u{1b}[2J",
            "properties": {"message_id": "m-1"},
            "headers": {"unlocker-status": "refused"},
            "properties_hex": null,
            "body": "{\n\"customer_id\": 191}",
            "body_hex": null,
        });
        let gap = |name: &str, value: &str| format!("{name:<36}{value}");
        assert_eq!(
            lines(&dead_letter),
            [
                gap("id", "0123456789ab"),
                gap("attempts", "2"),
                gap("message_id", "m-1"),
                gap("header unlocker-status", "refused"),
                gap("response", "no\u{fffd}[2J"),
                "body".to_owned(),
                "{".to_owned(),
                "\"customer_id\": 191}".to_owned(),
            ]
        );
    }
}
