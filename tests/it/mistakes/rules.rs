//! What holds for every message.

use super::mistake::Answer;

/// What only a programmer understands.
const JARGON: [&str; 11] = [
    "::",
    "Some(",
    "None)",
    "Err(",
    "Ok(",
    "struct",
    "kind:",
    "Custom {",
    "panicked",
    "unwrap",
    "MeterProvider",
];
/// The longest message, in lines, and the longest line, in characters.
const MAX_LINES: usize = 12;
const MAX_CHARS: usize = 420;
/// Shorter parts of a message may come twice.
const MIN_REPEATED_CHARS: usize = 25;
/// How a message says what to do.
const WAYS_OUT: [&str; 23] = [
    "fix: ",
    "try '--help'",
    "did you mean",
    "write ",
    "possible values",
    "such as",
    "choose ",
    "are host and",
    "is it ",
    "rant ",
    "declares it",
    "correct ",
    "give ",
    "plan again",
    "with `",
    "Usage: ",
    "broker.ca_file",
    "needs another",
    "heck ",
    "rights of",
    "move its messages",
    "may still come",
    "cannot be read: ",
];

/// The rules that a message breaks.
pub fn broken(answer: &Answer) -> impl Iterator<Item = String> {
    let said = &answer.said;
    // An address of IPv6 is none.
    let words = said.replace("[::]", "");
    let jargon =
        JARGON.into_iter().filter(move |word| words.contains(word)).map(|word| format!("says {word}"));
    let lines = said.lines().count();
    let too_long = (lines > MAX_LINES).then(|| format!("{lines} lines"));
    let wide = said.lines().map(|line| line.chars().count()).max().filter(|width| *width > MAX_CHARS);
    let wide = wide.map(|width| format!("a line of {width} characters"));
    let no_way_out = !WAYS_OUT.iter().any(|way| said.contains(way));
    let no_way_out = no_way_out.then(|| "names no way out".to_owned());
    let silent = said.trim().is_empty().then(|| "says nothing".to_owned());
    // Several faults of the settings may be alike.
    let repeated = said.split("     fix: ").filter_map(repeated).map(|part| format!("says twice: {part}"));
    jargon
        .chain(too_long)
        .chain(wide)
        .chain(no_way_out)
        .chain(silent)
        .chain(repeated)
        .collect::<Vec<_>>()
        .into_iter()
}

/// A part of the message between punctuation that is in it twice.
fn repeated(said: &str) -> Option<&str> {
    let parts = said.split([':', ';', '\n']).flat_map(|part| part.split(". ")).map(str::trim);
    let parts: Vec<_> = parts.filter(|part| part.chars().count() >= MIN_REPEATED_CHARS).collect();
    let twice = |part: &&str| parts.iter().filter(|other| *other == part).count() > 1;
    parts.iter().copied().find(twice)
}

#[test]
fn a_message_that_breaks_a_rule_is_found() {
    assert_eq!(
        repeated("a: the same long sentence here; b: the same long sentence here"),
        Some("the same long sentence here")
    );
    assert_eq!(repeated("short: short"), None);
}
