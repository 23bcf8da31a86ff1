//! The log levels, as `RUST_LOG` sets them.

use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, LevelFilter},
};

/// The target of all lines of this program begins with this.
pub(super) const OWN_TARGET: &str = env!("CARGO_CRATE_NAME");

/// Levels of the libraries unless `RUST_LOG` names the same target. lapin is off because this program
/// itself logs each error that lapin returns.
const LIBRARY_LEVELS: [(&str, &str); 4] =
    [("lapin", "off"), ("hyper", "warn"), ("reqwest", "warn"), ("rustls", "warn")];

/// The levels, and the directives of `RUST_LOG` that cannot be used.
pub(super) struct Levels {
    pub(super) filter: EnvFilter,
    pub(super) faults: Vec<String>,
}

impl Levels {
    /// Reads the directives of `RUST_LOG`. The level is `info` where they set none.
    pub(super) fn read(rust_log: &str) -> Self {
        let info = LevelFilter::INFO.into();
        let mut filter = EnvFilter::builder().with_default_directive(info).parse_lossy("");
        for (target, level) in LIBRARY_LEVELS {
            filter = add(filter, &format!("{target}={level}"));
        }
        let mut faults = Vec::new();
        for directive in rust_log.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            if is_usable(directive) {
                filter = add(filter, directive);
                continue;
            }
            faults.push(directive.chars().take(80).collect());
            if let Some((target, _)) = directive.split_once('=') {
                filter = add(filter, &format!("{target}=info"));
            }
        }
        if !faults.is_empty() {
            // So that the warning is seen whatever the other directives are.
            filter = add(filter, &format!("{}=warn", module_path!()));
        }
        Self { filter, faults }
    }
}

fn add(filter: EnvFilter, directive: &str) -> EnvFilter {
    match directive.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Whether a directive means what its author wants. `EnvFilter` takes a word that is no level for a
/// target: with `infoo` alone it would log nothing.
fn is_usable(directive: &str) -> bool {
    let is_bare = !directive.contains(['=', '[']);
    match is_bare {
        true => directive.parse::<LevelFilter>().is_ok() || directive.starts_with(OWN_TARGET),
        false => directive.parse::<Directive>().is_ok(),
    }
}

/// Names the directives that cannot be used.
pub(super) fn warn(faults: &[String]) {
    for directive in faults {
        tracing::warn!(
            event = "rust_log",
            directive,
            "RUST_LOG has a directive that is not used, and the level is info instead: write a level (error, \
             warn, info, debug, trace or off) or TARGET=LEVEL, such as trackfinity_unlocker=debug"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of the filter, sorted.
    fn directives(rust_log: &str) -> Vec<String> {
        let filter = Levels::read(rust_log).filter.to_string();
        let mut directives: Vec<_> = filter.split(',').map(str::to_owned).collect();
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
    fn a_directive_for_one_target_leaves_the_levels_of_the_others() {
        let hyper = directives("hyper_util=debug");
        assert_eq!(
            hyper,
            ["hyper=warn", "hyper_util=debug", "info", "lapin=off", "reqwest=warn", "rustls=warn"]
        );
    }

    #[test]
    fn a_directive_that_cannot_be_used_is_named_and_its_level_is_info() {
        for (rust_log, faults, level) in [
            ("infoo", &["infoo"][..], "info"),
            ("wran, lapin=debug", &["wran"], "info"),
            ("error,infoo", &["infoo"], "error"),
            ("lapin=trase", &["lapin=trase"], "lapin=info"),
            (
                "debug,trackfinity_unlocker::worker=vebose,x",
                &["trackfinity_unlocker::worker=vebose", "x"],
                "debug",
            ),
            ("=", &["="], "info"),
        ] {
            assert_eq!(Levels::read(rust_log).faults, faults, "{rust_log}");
            let directives = directives(rust_log);
            assert!(directives.contains(&level.to_owned()), "{rust_log}: {directives:?}");
            let shown = "trackfinity_unlocker::telemetry::logs::levels=warn".to_owned();
            assert!(directives.contains(&shown), "{rust_log}: {directives:?}");
        }
        for rust_log in
            ["", "off", "2", "INFO", "trackfinity_unlocker", "warn,lapin=trace", "a[b{c=1}]=debug"]
        {
            assert!(Levels::read(rust_log).faults.is_empty(), "{rust_log}");
        }
    }
}
