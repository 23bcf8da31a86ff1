//! One mistake: a command with its variables and its settings file, and the answer to it.

use std::fmt;

use kit::{Context, Process, Program};
use serde_json::Value;

use super::places::Places;
use crate::world::SOON;

/// A command line, variables and a settings file. Each may contain the names of [`Places`].
pub struct Mistake {
    pub what: &'static str,
    args: Vec<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
    file: Option<&'static str>,
    /// A worker never ends by itself: it is ended after a log line with this text.
    until: Option<&'static str>,
}

/// A mistake in a command line; the words are separated by blanks, and `''` is an empty word.
pub fn typed(what: &'static str, line: &'static str) -> Mistake {
    let args = line.split_whitespace().map(|word| if word == "''" { "" } else { word });
    Mistake { what, args: args.collect(), variables: Vec::new(), file: None, until: None }
}

/// A mistake in a variable of `unlocker run`.
pub fn variable(what: &'static str, name: &'static str, value: &'static str) -> Mistake {
    typed(what, "run").with(name, value)
}

/// A mistake in the settings file of `unlocker run`.
pub fn settings(what: &'static str, text: &'static str) -> Mistake {
    Mistake { file: Some(text), ..typed(what, "run --config DIR/settings.toml") }
}

impl Mistake {
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    pub fn until(self, text: &'static str) -> Self {
        Self { until: Some(text), ..self }
    }

    /// Runs the command, with a broker and a Trackfinity that are right unless the mistake is there.
    pub async fn commit(&self, ctx: &Context, places: &Places) -> Answer {
        let directory = places.directory(self.what);
        if let Some(text) = self.file {
            std::fs::write(directory.join("settings.toml"), places.fill(text, &directory)).expect("a file");
        }
        let mut program = Program::new(env!("CARGO_BIN_EXE_unlocker")).env("NO_PROXY", "*");
        let is_in_file = self.file.is_some_and(|text| text.contains("[trackfinity]"));
        for (name, value) in Places::RIGHT {
            // A secret's file, too, takes the place of the secret.
            let is_own = self.variables.iter().any(|(given, _)| given.starts_with(name));
            if is_own || is_in_file && name.contains("TRACKFINITY") {
                continue;
            }
            program = program.env(name, places.fill(value, &directory));
        }
        for (name, value) in &self.variables {
            program = program.env(name, places.fill(value, &directory));
        }
        let args = self.args.iter().map(|arg| places.fill(arg, &directory));
        let process = ctx.start(&program.args(args));
        if let Some(text) = self.until {
            process.wait_for_line(|line| line.contains(text), SOON).await;
            process.signal(kit::Signal::KILL);
        }
        let code = process.wait_exit(SOON).await.code().filter(|_| self.until.is_none());
        let said = match self.until {
            Some(text) => log_line(&process, text),
            None => said(&process, self.args.first() == Some(&"check")),
        };
        Answer { command: self.command(), what: self.what, said: places.empty(&said, &directory), code }
    }

    fn command(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let program = std::iter::once("unlocker".to_owned());
        let args = self.args.iter().map(|arg| quoted(arg));
        let line = variables.chain(program).chain(args).collect::<Vec<_>>().join(" ");
        match self.file {
            Some(text) => {
                format!("settings.toml: {}\n$ {line}", text.trim_end().replace('\n', "\n               "))
            }
            None => format!("$ {line}"),
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains([' ', '#', '\n', '&', '?', '*', '\'']);
    if plain { word.to_owned() } else { format!("{word:?}") }
}

/// All lines of stdout, then of stderr; of `check` only the failures with what to do, and of the help
/// only its beginning.
fn said(process: &Process, is_check: bool) -> String {
    let mut is_failure = false;
    let stdout = process.stdout().into_iter().filter(|line| {
        is_failure = line.starts_with("FAIL") || is_failure && line.starts_with(' ');
        !is_check || is_failure
    });
    // The audit log has a line for each dead letter that is shown.
    let stderr = process.stderr().into_iter().filter(|line| !line.starts_with(r#"{"audit_at""#));
    let said = stdout.chain(stderr).collect::<Vec<_>>().join("\n");
    match said.split_once("\nCommands:") {
        Some((beginning, _commands)) => format!("{beginning}\nCommands: …"),
        None => said,
    }
}

/// Level and message of the first log line with the text.
fn log_line(process: &Process, text: &str) -> String {
    let lines = process.stderr();
    let line = lines.iter().find(|line| line.contains(text)).expect("the line that was waited for");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", field("level"), without_arguments(field("message")))
}

/// Which argument RabbitMQ compares first depends on its version.
fn without_arguments(message: String) -> String {
    let parts = message.split_once("inequivalent arg").and_then(|(before, rest)| {
        let (_words, after) = rest.split_once(". ")?;
        Some(format!("{before}inequivalent arg …. {after}"))
    });
    parts.unwrap_or(message)
}

/// What the program said, in the order of a terminal.
pub struct Answer {
    what: &'static str,
    command: String,
    pub said: String,
    code: Option<i32>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or("it goes on".to_owned(), |code| format!("exit code {code}"));
        let said = self.said.trim_end();
        writeln!(f, "## {}\n{}\n{said}\n{code}", self.what, self.command)
    }
}
