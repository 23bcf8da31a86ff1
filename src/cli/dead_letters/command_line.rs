//! The command to copy that executes a plan: with the options of this one.

use std::path::PathBuf;

use crate::dead_letters::{Plan, ReplayOptions};

/// The command that executes `plan`. It repeats the files of the settings, the options of a replay
/// that are not the default ones, and the actor's name if one was given.
pub(super) fn confirm(
    plan: &Plan,
    files: &[PathBuf],
    options: &ReplayOptions,
    actor: Option<&str>,
) -> String {
    let defaults = ReplayOptions::default();
    let mut command = format!("unlocker dead-letters {}", plan.action.name());
    let mut add = |option: &str, value: &str| command.push_str(&format!(" {option} {}", quoted(value)));
    for file in files {
        add("--config", &file.to_string_lossy());
    }
    if options.rate != defaults.rate {
        add("--rate", &options.rate.to_string());
    }
    if options.wait != defaults.wait {
        add("--wait", &humantime::format_duration(options.wait).to_string().replace(' ', ""));
    }
    if let Some(name) = actor {
        add("--actor", name);
    }
    add("--confirm", &plan.digest);
    if options.keep_going {
        command.push_str(" --keep-going");
    }
    command
}

/// A word for a shell: as it is, or in single quotes.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-,:=@+%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dead_letters::{Action, DeadLetterId};

    #[test]
    fn a_command_repeats_what_is_not_the_default() {
        let plan = Plan::new(Action::replay(), vec![DeadLetterId::from("a")]);
        let digest = &plan.digest;
        let options = ReplayOptions::default();
        let command = confirm(&plan, &[], &options, None);
        assert_eq!(command, format!("unlocker dead-letters replay --confirm {digest}"));
        let files = ["/etc/unlocker/production.toml", "my own.toml"].map(PathBuf::from);
        let options = ReplayOptions {
            rate: "30/m".parse().expect("a rate"),
            wait: Duration::from_secs(90),
            keep_going: true,
        };
        let command = confirm(&plan, &files, &options, Some("o'neil"));
        assert_eq!(
            command,
            format!(
                "unlocker dead-letters replay --config /etc/unlocker/production.toml --config 'my own.toml' \
                 --rate 0.5/s --wait 1m30s --actor 'o'\\''neil' --confirm {digest} --keep-going"
            )
        );
    }
}
