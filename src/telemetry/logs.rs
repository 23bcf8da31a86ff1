//! Logs: one line per event on stderr, as JSON or for people.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

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
    #[must_use]
    pub fn for_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Pretty } else { Self::Json }
    }
}

/// Levels of the libraries unless `RUST_LOG` names the same target. lapin is off because this program
/// itself logs each error that lapin returns.
const LIBRARY_LEVELS: [(&str, &str); 4] =
    [("lapin", "off"), ("hyper", "warn"), ("reqwest", "warn"), ("rustls", "warn")];

/// The filter for the directives of `RUST_LOG`. The level is `info` by default.
fn filter(directives: &str) -> EnvFilter {
    let info = tracing::Level::INFO.into();
    let mut filter = EnvFilter::builder().with_default_directive(info).parse_lossy(directives);
    let is_given = |target: &str| {
        directives.split(',').any(|given| given.trim().split(['=', '[']).next() == Some(target))
    };
    for (target, level) in LIBRARY_LEVELS {
        if !is_given(target)
            && let Ok(directive) = format!("{target}={level}").parse()
        {
            filter = filter.add_directive(directive);
        }
    }
    filter
}

/// Starts logging to stderr, with the levels of `RUST_LOG`.
pub fn start(format: LogFormat) {
    let filter = filter(&std::env::var("RUST_LOG").unwrap_or_default());
    let writer = std::io::stderr;
    let layer = match format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(writer)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of the filter, sorted.
    fn directives(rust_log: &str) -> Vec<String> {
        let mut directives: Vec<_> = filter(rust_log).to_string().split(',').map(str::to_owned).collect();
        directives.sort_unstable();
        directives
    }

    #[test]
    fn libraries_have_levels_of_their_own_unless_rust_log_names_them() {
        assert_eq!(directives(""), ["hyper=warn", "info", "lapin=off", "reqwest=warn", "rustls=warn"]);
        let lapin = directives("debug,lapin=trace");
        assert_eq!(lapin, ["debug", "hyper=warn", "lapin=trace", "reqwest=warn", "rustls=warn"]);
    }

    #[test]
    fn a_longer_target_leaves_the_level_of_the_shorter_one() {
        let hyper = directives("hyper_util=debug");
        assert!(hyper.contains(&"hyper=warn".to_owned()), "{hyper:?}");
        assert!(hyper.contains(&"hyper_util=debug".to_owned()), "{hyper:?}");
    }
}
