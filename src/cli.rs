//! The command line. It only connects the other modules.

mod check;
mod console;
mod dead_letters;
mod dev;
mod examples;
mod failure;
mod gateway;
mod history;
mod print;
mod publish;
mod reference;
mod run;
mod status;
mod table;
mod terminal;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::{failure::Failure, print::print};
use crate::{
    http::ListenError,
    message::schema,
    sandbox::{FirstAnswers, Sandbox},
    telemetry::logs::LogFormat,
};

/// Unlocks Trackfinity customers on request: RabbitMQ in, one PATCH with retry and backoff, outcome
/// out.
#[derive(Debug, Parser)]
#[command(name = "unlocker", version, max_term_width = 100, after_help = examples::UNLOCKER)]
pub struct Cli {
    /// A settings file (TOML); may be repeated, the later one wins.
    #[arg(long = "config", value_name = "FILE", global = true)]
    config: Vec<PathBuf>,
    /// The format of log lines on stderr [default: pretty on a terminal, JSON elsewhere]
    #[arg(long, value_enum, global = true)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the worker until SIGTERM or SIGINT.
    #[command(after_help = examples::RUN)]
    Run,
    /// Takes requests over HTTP and publishes them, until SIGTERM or SIGINT.
    #[command(after_help = examples::GATEWAY)]
    Gateway,
    /// Serves the web page and API for dead letters and history, until SIGTERM or SIGINT.
    #[command(after_help = examples::CONSOLE)]
    Console,
    /// Validates the settings, checks RabbitMQ and Trackfinity; writes nothing that stays.
    #[command(after_help = examples::CHECK)]
    Check(check::CheckArgs),
    /// Shows what waits, who consumes, and what is dead-lettered.
    #[command(after_help = examples::STATUS)]
    Status(status::StatusArgs),
    /// Publishes a request, or many from a file.
    #[command(after_help = examples::PUBLISH)]
    Publish(publish::PublishArgs),
    /// Finds outcomes: was a customer unlocked, when, by whom, and why not?
    #[command(after_help = examples::HISTORY)]
    History(history::HistoryArgs),
    /// Browses, replays and discards dead letters, directly on RabbitMQ.
    #[command(subcommand, after_help = examples::DEAD_LETTERS)]
    DeadLetters(dead_letters::Command),
    /// Runs a stand-in for Trackfinity, for development and staging.
    #[command(after_help = examples::SANDBOX)]
    Sandbox(SandboxArgs),
    /// Runs the worker and a stand-in for Trackfinity in one process, for the tests of other services.
    #[command(after_help = examples::DEV)]
    Dev(dev::DevArgs),
    /// Prints the JSON Schema of a message.
    #[command(after_help = examples::SCHEMA)]
    Schema {
        #[arg(value_enum)]
        message: SchemaOf,
    },
    /// Prints all settings with their defaults, as a commented file for `--config`.
    #[command(after_help = examples::CONFIG)]
    Config,
    /// Prints a script that completes commands and options in a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions { shell: clap_complete::Shell },
    /// Writes the man pages, one for each command, into a folder.
    #[command(hide = true, after_help = examples::MAN)]
    Man { folder: PathBuf },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SchemaOf {
    /// What the worker reads.
    Request,
    /// What senders should write.
    RequestStrict,
    Outcome,
}

#[derive(Debug, Args)]
struct SandboxArgs {
    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// How long each response takes, such as 50ms.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// The share of calls that fail with a status, such as 503:0.1; may be repeated.
    #[arg(long, value_name = "STATUS:SHARE")]
    fail: Vec<crate::sandbox::Failure>,
    /// The identifiers that exist, comma-separated; all others get 404 [default: all].
    #[arg(long, value_name = "ID,ID…", value_delimiter = ',')]
    locked_customers: Option<Vec<String>>,
    /// The responses to the first calls with an identifier, such as 191=503,503; may be repeated.
    #[arg(long, value_name = "ID=STATUS,STATUS…")]
    first: Vec<FirstAnswers>,
    /// The required key; any other gets 401 [default: any key].
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Do not print the calls.
    #[arg(long)]
    quiet: bool,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it is not an IP address and a port, such as 127.0.0.1:8080")
}

impl Cli {
    /// The format of logs.
    pub fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or_else(LogFormat::for_stderr)
    }

    /// Executes the command. Prints errors to stderr.
    pub async fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run => run::run(&self.config).await,
            Command::Gateway => gateway::gateway(&self.config).await,
            Command::Console => console::console(&self.config).await,
            Command::Check(args) => check::check(&self.config, args).await,
            Command::Status(args) => status::status(&self.config, args).await,
            Command::Publish(args) => publish::publish(&self.config, args).await,
            Command::History(args) => history::history(&self.config, args).await,
            Command::DeadLetters(command) => dead_letters::execute(&self.config, command).await,
            Command::Sandbox(args) => sandbox(args).await,
            Command::Dev(args) => dev::dev(&self.config, args).await,
            Command::Schema { message } => schema(message),
            Command::Config => reference::config(),
            Command::Completions { shell } => reference::completions(shell, Self::command()),
            Command::Man { folder } => reference::man(&folder, Self::command()),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                if !matches!(failure, Failure::Reported | Failure::ReportedAs(_)) {
                    eprintln!("unlocker: {failure}");
                }
                failure.exit_code()
            }
        }
    }
}

async fn sandbox(args: SandboxArgs) -> Result<(), Failure> {
    let sandbox = Sandbox {
        latency: args.latency,
        fail: args.fail,
        locked_customers: args.locked_customers.map(|known| known.into_iter().collect()),
        first: args.first,
        scripted: None,
        api_key: args.api_key,
        quiet: args.quiet,
    };
    let listener = Sandbox::bind(args.listen)
        .await
        .map_err(|error| ListenError { setting: "--listen", address: args.listen, error })
        .map_err(anyhow::Error::from)?;
    let address = listener.local_addr().map_err(anyhow::Error::from)?;
    print(format_args!("sandbox: listening on http://{address}"))?;
    let mut signals = run::Signals::new().map_err(anyhow::Error::from)?;
    let stop = async move { signals.next().await };
    sandbox.serve(listener, stop).await.map_err(anyhow::Error::from)?;
    Ok(())
}

fn schema(message: SchemaOf) -> Result<(), Failure> {
    let schema = match message {
        SchemaOf::Request => schema::request(),
        SchemaOf::RequestStrict => schema::strict_request(),
        SchemaOf::Outcome => schema::outcome(),
    };
    print(format_args!("{}", serde_json::to_string_pretty(&schema).map_err(anyhow::Error::from)?))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line as a shell sees them, without a comment, a pipe and what follows.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut quoted = false;
        for part in line.split('\'') {
            match quoted {
                true => words.push(part.to_owned()),
                false => words.extend(part.split_whitespace().map(str::to_owned)),
            }
            quoted = !quoted;
        }
        let end = words.iter().position(|word| ["#", "|", ">"].contains(&word.as_str()));
        words.truncate(end.unwrap_or(words.len()));
        words
    }

    fn assert_examples(command: &clap::Command, path: &str) {
        let help = command.get_after_help().unwrap_or_else(|| panic!("{path} has no examples")).to_string();
        let examples: Vec<_> = help.lines().skip_while(|line| *line != "Examples:").skip(1).collect();
        assert!((1..=3).contains(&examples.len()), "{path}: {help}");
        for example in examples {
            let words = words(example);
            assert!(words.join(" ").starts_with("unlocker"), "{example}");
            let is_own = path == "unlocker" || words.join(" ").starts_with(path);
            assert!(is_own, "{path} has an example of another command: {example}");
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{example}\n{error}");
            }
        }
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            assert_examples(child, &format!("{path} {}", child.get_name()));
        }
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        assert_examples(&Cli::command(), "unlocker");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
