//! The log levels, as `RUST_LOG` sets them.

use std::borrow::Cow;

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

/// Names of this program that are not its target.
const NEAR_TARGETS: [&str; 2] = ["unlocker", env!("CARGO_PKG_NAME")];

/// The levels, and the directives of `RUST_LOG` that cannot be used.
pub(super) struct Levels {
    pub(super) filter: EnvFilter,
    pub(super) faults: Vec<Fault>,
}

/// A directive that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    directive: String,
    /// What to write instead.
    instead: Cow<'static, str>,
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
            let Some(instead) = correction(directive) else {
                filter = add(filter, directive);
                continue;
            };
            faults.push(Fault { directive: directive.chars().take(80).collect(), instead });
            if let Some((target, _)) = directive.split_once('=') {
                filter = add(filter, &format!("{}=info", target.trim_end()));
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

/// What to write in place of a directive that does not mean what its author wants. `EnvFilter` takes
/// a word that is no level for a target: with `infoo` alone it would log nothing. It takes almost any
/// text for a target that no line has.
fn correction(directive: &str) -> Option<Cow<'static, str>> {
    // The fields of a span may have any values.
    let before_fields = directive.split('[').next().unwrap_or_default();
    if before_fields.contains(';') {
        return Some("write commas between directives, not semicolons".into());
    }
    if before_fields.contains(char::is_whitespace) {
        return Some("write a comma between directives, and no blank inside of one".into());
    }
    let (target, level) = directive.split_once('=').unwrap_or((directive, "debug"));
    let (first, module) = target.split_once("::").map_or((target, None), |(first, rest)| (first, Some(rest)));
    if NEAR_TARGETS.contains(&first) {
        let module = module.map(|module| format!("::{module}")).unwrap_or_default();
        let level = level.parse::<LevelFilter>().unwrap_or(LevelFilter::DEBUG);
        return Some(format!("write {OWN_TARGET}{module}={level}").into());
    }
    let is_bare = !directive.contains(['=', '[']);
    let is_usable = match is_bare {
        true => directive.parse::<LevelFilter>().is_ok() || directive.starts_with(OWN_TARGET),
        false => directive.parse::<Directive>().is_ok(),
    };
    let levels_or_target = "write a level (error, warn, info, debug, trace or off) or TARGET=LEVEL, such as \
                            trackfinity_unlocker=debug";
    (!is_usable).then(|| levels_or_target.into())
}

/// Names the directives that cannot be used.
pub(super) fn warn(faults: &[Fault]) {
    for Fault { directive, instead } in faults {
        tracing::warn!(
            event = "rust_log",
            directive,
            "RUST_LOG has a directive that is not used, and the level is info instead: {instead}"
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
    fn what_looks_right_and_would_log_nothing_is_corrected() {
        for (rust_log, instead) in [
            ("unlocker=debug", "write trackfinity_unlocker=debug"),
            ("unlocker", "write trackfinity_unlocker=debug"),
            ("warn,trackfinity-unlocker=TRACE", "write trackfinity_unlocker=trace"),
            ("trackfinity-unlocker::worker=debug", "write trackfinity_unlocker::worker=debug"),
            ("debug;lapin=trace", "write commas between directives, not semicolons"),
            ("trackfinity_unlocker=debug;lapin=trace", "write commas between directives, not semicolons"),
            ("debug lapin=trace", "write a comma between directives, and no blank inside of one"),
            ("trackfinity_unlocker = debug", "write a comma between directives, and no blank inside of one"),
        ] {
            let faults = Levels::read(rust_log).faults;
            assert_eq!(
                faults.iter().map(|fault| &*fault.instead).collect::<Vec<_>>(),
                [instead],
                "{rust_log}"
            );
        }
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
            let found = Levels::read(rust_log).faults;
            let found: Vec<_> = found.iter().map(|fault| fault.directive.as_str()).collect();
            assert_eq!(found, faults, "{rust_log}");
            let directives = directives(rust_log);
            assert!(directives.contains(&level.to_owned()), "{rust_log}: {directives:?}");
            let shown = "trackfinity_unlocker::telemetry::logs::levels=warn".to_owned();
            assert!(directives.contains(&shown), "{rust_log}: {directives:?}");
        }
        for rust_log in
            ["", " off ,", "2", "INFO", "trackfinity_unlocker", "warn, lapin=trace", "a[b{c=\"d; e\"}]=debug"]
        {
            assert!(Levels::read(rust_log).faults.is_empty(), "{rust_log}");
        }
    }
}
