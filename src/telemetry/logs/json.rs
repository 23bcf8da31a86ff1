//! Formats an event as one JSON object on a line. tracing-subscriber's own format passes each key and each comma
//! through a check for UTF-8 and a virtual call, and so takes more than twice as long (decision 151).

use std::{fmt, io};

use serde::{Serializer, ser::SerializeMap};
use tracing::{Event, Subscriber};
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::message::Timestamp;

/// Most lines about a request are shorter, in bytes.
const USUAL_LEN: usize = 512;

/// The time, the level, the event's fields in their order, and the target.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Vec::with_capacity(USUAL_LEN);
        write_object(&mut line, event).map_err(|_| fmt::Error)?;
        line.push(b'\n');
        writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

fn write_object(line: &mut Vec<u8>, event: &Event<'_>) -> io::Result<()> {
    let metadata = event.metadata();
    let mut serializer = serde_json::Serializer::new(line);
    let mut object = serializer.serialize_map(None)?;
    object.serialize_entry("timestamp", &Timestamp::now())?;
    object.serialize_entry("level", metadata.level().as_str())?;
    let mut fields = SerdeMapVisitor::new(object);
    event.record(&mut fields);
    let mut object = fields.take_serializer()?;
    object.serialize_entry("target", metadata.target())?;
    object.end()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::{Value, json};
    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What `log` logs, as text.
    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone()).event_format(JsonLine);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = lines.0.lock().expect("lines").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_line_is_an_object_with_the_fields_in_their_order() {
        let absent: Option<&str> = None;
        let text = logged(|| {
            tracing::warn!(first = "e", absent, present = Some(7), ok = true, tier = %"4s", ratio = 0.5, "two {}", "words");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.starts_with(r#"{"timestamp":""#) && text.ends_with("}\n"), "{text}");
        let end = text.split_once(r#"","level":"#).expect("a level after the time").1;
        let target = module_path!();
        assert_eq!(
            end.trim_end(),
            format!(
                r#""WARN","message":"two words","first":"e","present":7,"ok":true,"tier":"4s","ratio":0.5,"target":"{target}"}}"#
            )
        );
    }

    #[test]
    fn a_line_stays_one_line_of_json_whatever_its_values_are() {
        let hostile = "a \"quote\", \\, a\nline, \u{1b}[31m, \u{2028} and \u{1f512}";
        let text = logged(|| tracing::info!(hostile, debug = ?hostile, "{hostile}"));
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["hostile"], json!(hostile));
        assert_eq!(line["message"], json!(hostile));
        assert_eq!(line["debug"], json!(format!("{hostile:?}")));
    }

    #[test]
    fn the_time_is_in_utc_with_milliseconds() {
        let before = Timestamp::now();
        let text = logged(|| tracing::info!("now"));
        let line: Value = serde_json::from_str(&text).expect("JSON");
        let time = line["timestamp"].as_str().expect("a time");
        let read: Timestamp = time.parse().expect("RFC 3339");
        assert!(before <= read && read <= Timestamp::now(), "{time}");
        assert_eq!(time.len(), "2026-11-23T09:00:00.000Z".len(), "{time}");
    }
}
