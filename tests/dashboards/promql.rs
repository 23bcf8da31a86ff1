//! Finds the metrics in a PromQL expression.

/// PromQL keywords that can stand where a metric's name can.
const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
/// Keywords before a list of labels in parentheses.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// The selectors in a PromQL expression: names of metrics with the braces behind them.
pub fn selectors(expr: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')));
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()).max(first.len_utf8()));
        rest = behind;
        let next = behind.trim_start();
        let list = |word: &str| LISTS.iter().any(|list| word.strip_prefix(list).is_some_and(no_word));
        if first == '"' {
            rest = after(behind, '"');
        } else if first == '[' {
            rest = after(behind, ']');
        } else if LISTS.contains(&word) {
            rest = if next.starts_with('(') { after(next, ')') } else { next };
        } else if !(first.is_ascii_alphabetic() || first == '_') || WORDS.contains(&word) || list(next) {
            // A number, an operator, or an aggregation with its list in front.
        } else if next.starts_with('{') {
            rest = after(next, '}');
            found.push(format!("{word}{}", &next[..next.len() - rest.len()]));
        } else if !next.starts_with('(') {
            found.push(word.to_owned());
        }
    }
    found
}

fn no_word(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

/// The text after the first `end` that is not in quotes.
fn after(text: &str, end: char) -> &str {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        if c == end && !quoted {
            return &text[at + c.len_utf8()..];
        }
        quoted ^= c == '"';
    }
    ""
}

#[test]
fn selectors_are_found_among_functions_operators_and_lists() {
    let expr = r#"sum by (job, le) (rate(a_bucket{x="}",y=~"b|c"}[5m])) / on (job) group_left max(d)
        unless (e offset 15m) > 3 * 86400 or vector(1) and on () f{g="h"} == 1e3 or "i" == bypass"#;
    assert_eq!(selectors(expr), [r#"a_bucket{x="}",y=~"b|c"}"#, "d", "e", r#"f{g="h"}"#, "bypass"]);
}
