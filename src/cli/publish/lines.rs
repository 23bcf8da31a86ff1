//! Reads requests as JSON lines, with bounded memory, and validates them before they are published.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::fd::AsFd,
    path::Path,
};

use anyhow::Context;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::message::request::{self, BYTE_ORDER_MARK, MAX_BODY_BYTES, plain_json_error};

/// The most lines read ahead of publishing.
const MAX_READ_AHEAD: usize = 256;
/// AMQP's limit for a short string, in bytes.
const MAX_SHORT_STRING_BYTES: usize = 255;

/// The source of lines.
pub(super) struct Source {
    file: File,
    /// In bytes, if known.
    pub(super) size: Option<u64>,
}

impl Source {
    /// Opens a file, or stdin for `-`.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = if path == Path::new("-") {
            io::stdin().as_fd().try_clone_to_owned().map(File::from).context("stdin cannot be read")
        } else {
            File::open(path).with_context(|| format!("{} cannot be read", path.display()))
        }?;
        let metadata = file.metadata().ok();
        if metadata.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            anyhow::bail!("{} is a directory: give a file, or - for stdin", path.display());
        }
        let metadata = metadata.filter(std::fs::Metadata::is_file);
        Ok(Self { file, size: metadata.map(|metadata| metadata.len()) })
    }

    /// Reads on its own thread, because reading may block forever. The thread ends at the first
    /// line after the receiver is dropped, or with the process.
    pub(super) fn read(self) -> mpsc::Receiver<io::Result<Line>> {
        let (sender, lines) = mpsc::channel(MAX_READ_AHEAD);
        std::thread::spawn(move || {
            let mut reader = BufReader::with_capacity(MAX_BODY_BYTES, self.file);
            for number in 1.. {
                let line = Line::read(&mut reader, number).transpose();
                let Some(line) = line else { break };
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    break;
                }
            }
        });
        lines
    }
}

/// A line, numbered from 1.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    /// Without the line ending. A line that is too long is cut just beyond the limit.
    pub(super) text: Vec<u8>,
    /// Bytes in the source, including the line ending.
    pub(super) length: u64,
}

impl Line {
    fn read(reader: &mut impl BufRead, number: u64) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        // One byte more than a body may have, plus a byte order mark and the line ending.
        let max = (MAX_BODY_BYTES + BYTE_ORDER_MARK.len()) as u64 + 3;
        let mut length = reader.by_ref().take(max).read_until(b'\n', &mut text)? as u64;
        if length == 0 {
            return Ok(None);
        }
        if text.ends_with(b"\n") {
            text.pop();
            if text.ends_with(b"\r") {
                text.pop();
            }
        } else if length == max {
            length += reader.skip_until(b'\n')? as u64;
        }
        // Some editors write one at the beginning of a file.
        if number == 1 && text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(Some(Self { number, text, length }))
    }

    /// Whether it contains only whitespace.
    pub(super) fn is_blank(&self) -> bool {
        self.text.iter().all(u8::is_ascii_whitespace)
    }

    /// The properties for the message. An error if the worker would reject the request.
    pub(super) fn ids(&self) -> Result<Ids<'_>, String> {
        if let Err(fault) = request::decode(None, &self.text).request {
            return Err(format!("{}: {}", fault.code.as_str(), fault.detail));
        }
        let ids: Ids<'_> = serde_json::from_slice(&self.text).map_err(|error| plain_json_error(&error))?;
        for (name, id) in [
            ("message_id", &ids.message_id),
            ("request_id", &ids.request_id),
            ("correlation_id", &ids.correlation_id),
        ] {
            if let Some(id) = id
                && !(1..=MAX_SHORT_STRING_BYTES).contains(&id.len())
            {
                return Err(format!(
                    "{name} has {} bytes; AMQP allows 1 to {MAX_SHORT_STRING_BYTES}",
                    id.len()
                ));
            }
        }
        Ok(ids)
    }
}

/// The message properties that a line may contain besides the request.
#[derive(Debug, Deserialize)]
pub(super) struct Ids<'a> {
    #[serde(borrow)]
    pub(super) message_id: Option<Cow<'a, str>>,
    /// The same as `message_id`, which wins.
    #[serde(borrow)]
    pub(super) request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) correlation_id: Option<Cow<'a, str>>,
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Line> {
        let mut reader = BufReader::with_capacity(7, text);
        (1..).map_while(|number| Line::read(&mut reader, number).expect("reads")).collect()
    }

    #[test]
    fn a_line_ends_with_lf_with_crlf_or_with_the_file() {
        let read = lines(b"a\nb\r\n\n \nc");
        let texts: Vec<_> = read.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        assert_eq!(texts, ["a", "b", "", " ", "c"]);
        assert_eq!(read.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(read.iter().map(|line| line.length).sum::<u64>(), 9);
        assert_eq!(read.iter().filter(|line| line.is_blank()).count(), 2);
    }

    #[test]
    fn a_byte_order_mark_at_the_beginning_of_a_file_is_skipped() {
        let read = lines("\u{feff}{\"customer_id\":1}\n\u{feff}{\"customer_id\":2}".as_bytes());
        assert_eq!(read[0].text, br#"{"customer_id":1}"#);
        assert_eq!(read[0].length, 21, "the bytes of the file");
        assert!(read[0].ids().is_ok());
        assert!(read[1].text.starts_with(BYTE_ORDER_MARK), "only the first one");
        assert!(lines("\u{feff}\r\n".as_bytes())[0].is_blank());
    }

    #[test]
    fn a_line_of_any_length_is_read_in_bounded_memory_and_the_next_one_is_complete() {
        let body = |length: usize| {
            let mut line = br#"{"customer_id":1}"#.to_vec();
            line.resize(length, b' ');
            line
        };
        let mut text = body(MAX_BODY_BYTES);
        text.extend(b"\r\n");
        text.extend(body(MAX_BODY_BYTES + 1));
        text.extend(b"\n");
        text.extend(vec![b'x'; 5 * MAX_BODY_BYTES]);
        text.extend(b"\n{\"customer_id\":2}");
        let read = lines(&text);
        assert_eq!(read.len(), 4);
        let verdicts: Vec<_> = read.iter().map(|line| line.ids().map(|_| ()).unwrap_or_default()).collect();
        assert_eq!(verdicts.len(), 4);
        let accepted: Vec<_> = read.iter().map(|line| line.ids().is_ok()).collect();
        assert_eq!(accepted, [true, false, false, true]);
        assert!(read.iter().all(|line| line.text.len() <= MAX_BODY_BYTES + 6));
        assert!(read.iter().filter_map(|line| line.ids().err()).all(|why| why.starts_with("too_large")));
        assert_eq!(read.iter().map(|line| line.length).sum::<u64>(), text.len() as u64);
    }

    #[test]
    fn a_line_has_ids_or_a_reason_why_it_is_not_a_request() {
        let ids = |text: &str| {
            let line = Line { number: 1, text: text.into(), length: 0 };
            line.ids()
                .map(|ids| (ids.message_id.map(Cow::into_owned), ids.correlation_id.map(Cow::into_owned)))
        };
        assert_eq!(ids(r#"{"customer_id":1}"#), Ok((None, None)));
        let given = ids(r#"{"customer_id":"1","message_id":"m\n1","correlation_id":"c","more":[]}"#);
        assert_eq!(given, Ok((Some("m\n1".to_owned()), Some("c".to_owned()))));
        for (text, why) in [
            ("{", "malformed"),
            (r#"{"customer_id":" "}"#, "no_identifier"),
            (r#"{"customer_id":1.5}"#, "bad_identifier"),
            (r#"{"customer_id":1,"message_id":""}"#, "message_id has 0 bytes"),
            (r#"{"customer_id":1,"request_id":""}"#, "request_id has 0 bytes"),
            (r#"{"customer_id":1,"message_id":7}"#, "expected a string"),
            (r#"{"customer_id":1,"message_id":"a","message_id":"b"}"#, "message_id is given twice"),
        ] {
            let error = ids(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
