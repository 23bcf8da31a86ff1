//! Logs: one line per event on stderr, as JSON or for people. docs/logs.md lists the events and their
//! fields.

mod json;
mod levels;
mod writer;

use std::{
    env, fmt,
    io::{self, IsTerminal},
    time::Duration,
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

pub use self::writer::FlushOnDrop;
use self::{
    json::JsonLine,
    levels::{Levels, OWN_TARGET},
    writer::LineWriter,
};
use super::LogThrottle;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people at a terminal.
    Pretty,
}

impl LogFormat {
    /// For people on a terminal, JSON elsewhere.
    pub fn for_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Pretty } else { Self::Json }
    }
}

/// Starts logging to stderr, with the levels of `RUST_LOG`. Drop the result at the end of the
/// program: then the last lines are written.
///
/// # Errors
/// If no thread can be started.
pub fn start(format: LogFormat) -> io::Result<FlushOnDrop> {
    let rust_log = env::var_os("RUST_LOG").unwrap_or_default();
    let Levels { filter, faults } = Levels::read(&rust_log.to_string_lossy());
    let (writer, flush) = LineWriter::start(io::stderr())?;
    let layer = match format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .event_format(ThrottleLibraries::new(JsonLine))
            .boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(writer)
            .map_event_format(ThrottleLibraries::new)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    levels::warn(&faults);
    Ok(flush)
}

/// A duration for a field whose name ends in `_ms`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Formats events, and limits how often a library repeats a warning or an error, for example that no
/// collector answers. No filter does this: tracing-subscriber's per-layer filters lose track of their
/// state when one refuses an event that it has enabled.
struct ThrottleLibraries<F> {
    format: F,
    throttle: LogThrottle,
}

impl<F> ThrottleLibraries<F> {
    fn new(format: F) -> Self {
        Self { format, throttle: LogThrottle::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for ThrottleLibraries<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        // The name is the place in the source, or a name that the library gave.
        let is_due = metadata.target().starts_with(OWN_TARGET)
            || *metadata.level() > Level::WARN
            || self.throttle.due(metadata.name()).is_some();
        match is_due {
            true => self.format.format_event(context, writer, event),
            false => Ok(()),
        }
    }
}
