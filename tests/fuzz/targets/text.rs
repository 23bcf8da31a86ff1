//! An input as text, so that examples are seeds, and a person can read a finding: lines `name: value`, an empty
//! line, and a body of any bytes.

use std::str::FromStr;

use trackfinity_unlocker::message::Timestamp;

#[derive(Clone, Debug)]
pub struct Text<'a> {
    head: Vec<(&'a [u8], &'a [u8])>,
    pub body: &'a [u8],
}

impl<'a> Text<'a> {
    /// Reads any bytes. A line without a colon is left out.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut head = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let value = &line[colon + 1..];
                head.push((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)));
            }
        }
        Self { head, body: rest }
    }

    /// All lines of the head, in their order.
    pub fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + '_ {
        self.head.iter().copied()
    }

    /// The values of a name, which are UTF-8.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let found = self.head.iter().filter(move |(given, _)| *given == name.as_bytes());
        found.filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    pub fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// A moment in milliseconds since 1970.
    pub fn moment(&self, name: &str) -> Option<Timestamp> {
        self.number(name).map(Timestamp::from_millis)
    }
}
