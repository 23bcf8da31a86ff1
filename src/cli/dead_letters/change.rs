//! `unlocker dead-letters replay` and `discard`: first the plan, then its execution once confirmed.

use std::{path::PathBuf, time::Duration};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::{OutputArgs, SelectionArgs},
    command_line,
    correction::{self, Setting},
    printer::Printer,
    tables,
};
use crate::{
    cli::{
        failure::Failure,
        print::{json, print, print_json},
        run::Signals,
    },
    dead_letters::{
        Action, CorrectionPreview, Coverage, DeadLetters, DiscardReason, Ended, Filter, Finish, Plan,
        PlanPreview, ReplayOptions, ReplayRate, Step,
    },
};

/// The most dead letters of a plan in the table; `--json` has all.
const MAX_LISTED: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    confirm: ConfirmArgs,
    /// The highest rate: 1/s, 30/m.
    #[arg(long, default_value = "1/s", value_name = "RATE")]
    rate: ReplayRate,
    /// How long to wait for each outcome.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Continue after a dead letter that failed again.
    #[arg(long)]
    keep_going: bool,
    /// Correct invalid dead letters: set customer_id, subscription_id, orderid, content_type, or
    /// body_file (a file with the new body, - is stdin). An empty value removes the field. Repeatable.
    /// The plan shows each request before and after.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<Setting>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiscardArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    confirm: ConfirmArgs,
    /// Why; it becomes the reason of the outcome.
    #[arg(long, value_name = "TEXT", required_unless_present = "digest")]
    note: Option<DiscardReason>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct ConfirmArgs {
    /// Execute the plan with this digest. Without it the plan is shown and nothing is done.
    #[arg(long = "confirm", value_name = "DIGEST")]
    digest: Option<String>,
}

/// A replay or a discard, as the command line asks for it.
struct Change<'a> {
    dead_letters: &'a DeadLetters,
    /// The files of `--config`.
    files: &'a [PathBuf],
    filter: Filter,
    output: OutputArgs,
    /// Of a replay.
    options: ReplayOptions,
}

pub(super) async fn replay(
    dead_letters: &DeadLetters,
    files: &[PathBuf],
    args: ReplayArgs,
) -> Result<(), Failure> {
    let options = ReplayOptions { rate: args.rate, wait: args.wait, keep_going: args.keep_going };
    let filter = args.selection.filter();
    let change = Change { dead_letters, files, filter, output: args.output, options };
    let correction = correction::read(&args.set)?;
    let Some(digest) = args.confirm.digest else {
        return change.show_plan(Action::Replay { correction }).await;
    };
    let plan = change.find_plan(&digest, "replay").await?;
    if !correction.is_empty() && plan.action.correction() != Some(&correction) {
        return Err(anyhow!("plan {digest} changes something else; omit --set to confirm it").into());
    }
    change.execute(&plan).await
}

pub(super) async fn discard(
    dead_letters: &DeadLetters,
    files: &[PathBuf],
    args: DiscardArgs,
) -> Result<(), Failure> {
    let (filter, options) = (args.selection.filter(), ReplayOptions::default());
    let change = Change { dead_letters, files, filter, output: args.output, options };
    let Some(digest) = args.confirm.digest else {
        let reason = args.note.ok_or_else(|| anyhow!("--note is required"))?;
        return change.show_plan(Action::Discard { reason }).await;
    };
    let plan = change.find_plan(&digest, "discard").await?;
    if args.note.is_some_and(|note| plan.action.reason() != Some(note.as_str())) {
        return Err(anyhow!("plan {digest} has another note; omit --note to confirm it").into());
    }
    change.execute(&plan).await
}

impl Change<'_> {
    /// Makes a plan and prints it.
    async fn show_plan(&self, action: Action) -> Result<(), Failure> {
        let preview = self.dead_letters.plan(&self.output.actor.actor(), action, &self.filter).await?;
        let PlanPreview { plan, listing, unreadable, corrections } = preview;
        if unreadable > 0 {
            eprintln!(
                "unlocker: {unreadable} of the dead letters are unreadable and cannot be replayed; \
                 `dead-letters list --status unreadable` lists them, `dead-letters discard` gives them up"
            );
        }
        tables::warn_if_incomplete(&listing.coverage);
        correction::warn_if_the_same(&plan);
        if self.output.json {
            return print_json(&PlanJson {
                plan: &plan,
                count: plan.ids.len(),
                filter: &self.filter,
                unreadable,
                coverage: &listing.coverage,
                corrections: &corrections,
            });
        }
        let action = plan.action.name();
        let filter = tables::clean(&self.filter.to_string());
        if plan.ids.is_empty() {
            return print(format_args!("no dead letter to {action} (filter: {filter})"));
        }
        let listed = listing.dead_letters.get(..MAX_LISTED).unwrap_or(&listing.dead_letters);
        tables::print_dead_letters(listed)?;
        if listing.dead_letters.len() > MAX_LISTED {
            print(format_args!("… and {} more", listing.dead_letters.len() - MAX_LISTED))?;
        }
        correction::print_previews(corrections.get(..MAX_LISTED).unwrap_or(&corrections))?;
        print(format_args!("\nfilter: {filter}"))?;
        if let Some(note) = plan.action.reason() {
            print(format_args!("note: {note}"))?;
        }
        if let Some(correction) = plan.action.correction().filter(|correction| !correction.is_empty()) {
            print(format_args!("set: {}", correction.fields().join(", ")))?;
        }
        let (digest, count) = (&plan.digest, plan.ids.len());
        let dead_letters = if count == 1 { "dead letter" } else { "dead letters" };
        print(format_args!(
            "plan {digest}: {action} {count} {dead_letters}. Nothing is done yet; to do it:"
        ))?;
        print(format_args!("  {}", self.command_to_confirm(&plan)))
    }

    /// Finds the plan to confirm, which must be for this action.
    async fn find_plan(&self, digest: &str, action: &str) -> Result<Plan, Failure> {
        let plan = self.dead_letters.find_plan(digest).await?;
        let planned = plan.action.name();
        if planned != action {
            let error = anyhow!("plan {digest} is a {planned}: confirm it with `dead-letters {planned}`");
            return Err(error.into());
        }
        if self.filter != Filter::default() {
            eprintln!("unlocker: filters are ignored: plan {digest} lists its dead letters");
        }
        Ok(plan)
    }

    async fn execute(&self, plan: &Plan) -> Result<(), Failure> {
        let (stop, as_json) = (CancellationToken::new(), self.output.json);
        let mut signals = Signals::new().map_err(anyhow::Error::from)?;
        let first_signal = stop.clone();
        let signal_task = tokio::spawn(async move {
            signals.next().await;
            first_signal.cancel();
            signals.next().await;
            // RabbitMQ requeues what is not acknowledged, also a dead letter whose copy is not
            // confirmed.
            std::process::exit(1);
        });
        let printer = Printer::start(plan.ids.len(), stop.clone())?;
        let actor = self.output.actor.actor();
        let finish = self
            .dead_letters
            .execute(&actor, plan, &self.options, &stop, |step| {
                printer.step(match as_json {
                    true => json(step),
                    false => Ok(describe(step)),
                });
            })
            .await;
        if let Ok(finish) = &finish {
            printer.end(if as_json { json(finish) } else { Ok(self.describe_finish(plan, finish)) });
        }
        let printed = printer.finish().await;
        signal_task.abort();
        let finish = finish?;
        printed?;
        if finish.is_success() { Ok(()) } else { Err(Failure::Reported) }
    }

    fn describe_finish(&self, plan: &Plan, finish: &Finish) -> String {
        let text = tables::clean(&finish.to_string());
        let hint = match finish.ended {
            Ended::Complete => return text,
            Ended::Failure => " (with --keep-going it does not stop at a failure)",
            Ended::Stopped | Ended::PublishFailed => "",
        };
        format!("{text}. To continue{hint}:\n  {}", self.command_to_confirm(plan))
    }

    fn command_to_confirm(&self, plan: &Plan) -> String {
        command_line::confirm(plan, self.files, &self.options, self.output.actor.name.as_deref())
    }
}

/// A plan, the filter that selected its dead letters, and what it changes in them.
#[derive(Serialize)]
struct PlanJson<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    count: usize,
    filter: &'a Filter,
    /// Dead letters that match, but cannot be replayed.
    unreadable: usize,
    /// Whether all dead letters were seen.
    coverage: &'a Coverage,
    /// What is changed in the oldest ones, at most 100.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    corrections: &'a [CorrectionPreview],
}

fn describe(step: &Step) -> String {
    let result = tables::clean(&step.result.to_string());
    let request = step.request_id.as_deref().map(|id| format!("  request {}", tables::clean(id)));
    format!("{}  {result}{}", step.id, request.unwrap_or_default())
}
