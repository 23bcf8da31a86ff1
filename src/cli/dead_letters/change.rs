//! `unlocker dead-letters replay` and `discard`: first the plan, then its execution once confirmed.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{OutputArgs, SelectionArgs, json, print_json, printer::Printer, tables};
use crate::{
    cli::{Failure, print, run::Signals},
    dead_letters::{
        Action, Actor, DeadLetters, DiscardReason, Ended, Filter, Finish, Plan, PlanPreview, ReplayOptions,
        ReplayRate, Step,
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

pub(super) async fn replay(dead_letters: &DeadLetters, args: ReplayArgs) -> Result<(), Failure> {
    let (filter, actor) = (args.selection.filter(), args.output.actor.actor());
    let Some(digest) = args.confirm.digest else {
        return show_plan(dead_letters, &actor, Action::Replay, &filter, args.output.json).await;
    };
    let plan = find_plan(dead_letters, &digest, "replay", &filter).await?;
    let options = ReplayOptions { rate: args.rate, wait: args.wait, keep_going: args.keep_going };
    execute(dead_letters, &actor, &plan, &options, args.output.json).await
}

pub(super) async fn discard(dead_letters: &DeadLetters, args: DiscardArgs) -> Result<(), Failure> {
    let (filter, actor) = (args.selection.filter(), args.output.actor.actor());
    let Some(digest) = args.confirm.digest else {
        let reason = args.note.ok_or_else(|| anyhow!("--note is required"))?;
        return show_plan(dead_letters, &actor, Action::Discard { reason }, &filter, args.output.json).await;
    };
    let plan = find_plan(dead_letters, &digest, "discard", &filter).await?;
    if args.note.is_some_and(|note| plan.action.reason() != Some(note.as_str())) {
        return Err(anyhow!("plan {digest} has another note; omit --note to confirm it").into());
    }
    execute(dead_letters, &actor, &plan, &ReplayOptions::default(), args.output.json).await
}

/// Makes a plan and prints it.
async fn show_plan(
    dead_letters: &DeadLetters,
    actor: &Actor,
    action: Action,
    filter: &Filter,
    as_json: bool,
) -> Result<(), Failure> {
    let PlanPreview { plan, listing, unreadable } = dead_letters.plan(actor, action, filter).await?;
    if unreadable > 0 {
        eprintln!(
            "unlocker: {unreadable} of the dead letters are unreadable and cannot be replayed; \
             `dead-letters list --status unreadable` lists them, `dead-letters discard` gives them up"
        );
    }
    super::warn_if_incomplete(&listing.coverage);
    if as_json {
        return print_json(&plan);
    }
    let action = plan.action.name();
    if plan.ids.is_empty() {
        return print(format_args!("no dead letter to {action}"));
    }
    let listed = listing.dead_letters.get(..MAX_LISTED).unwrap_or(&listing.dead_letters);
    tables::print_dead_letters(listed)?;
    if listing.dead_letters.len() > MAX_LISTED {
        print(format_args!("… and {} more", listing.dead_letters.len() - MAX_LISTED))?;
    }
    let (digest, count) = (&plan.digest, plan.ids.len());
    print(format_args!("\nplan {digest}: {action} {count} dead letters. Nothing is done yet; to do it:"))?;
    print(format_args!("  unlocker dead-letters {action} --confirm {digest}"))
}

/// Finds the plan to confirm, which must be for this action.
async fn find_plan(
    dead_letters: &DeadLetters,
    digest: &str,
    action: &str,
    filter: &Filter,
) -> Result<Plan, Failure> {
    let plan = dead_letters.find_plan(digest).await?;
    let planned = plan.action.name();
    if planned != action {
        let error = anyhow!("plan {digest} is a {planned}: confirm it with `dead-letters {planned}`");
        return Err(error.into());
    }
    if *filter != Filter::default() {
        eprintln!("unlocker: filters are ignored: plan {digest} lists its dead letters");
    }
    Ok(plan)
}

async fn execute(
    dead_letters: &DeadLetters,
    actor: &Actor,
    plan: &Plan,
    options: &ReplayOptions,
    as_json: bool,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
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
    let finish = dead_letters
        .execute(actor, plan, options, &stop, |step| {
            printer.step(match as_json {
                true => json(step),
                false => Ok(describe(step)),
            });
        })
        .await;
    if let Ok(finish) = &finish {
        printer.end(if as_json { json(finish) } else { Ok(describe_finish(plan, finish)) });
    }
    let printed = printer.finish().await;
    signal_task.abort();
    let finish = finish?;
    printed?;
    match finish.done == finish.total && matches!(finish.ended, Ended::Complete) {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

fn describe(step: &Step) -> String {
    let result = tables::clean(&step.result.to_string());
    let request = step.request_id.as_deref().map(|id| format!("  request {}", tables::clean(id)));
    format!("{}  {result}{}", step.id, request.unwrap_or_default())
}

fn describe_finish(plan: &Plan, finish: &Finish) -> String {
    let hint = match finish.ended {
        Ended::Complete => return finish.to_string(),
        Ended::Failure => " (with --keep-going it does not stop at a failure)",
        Ended::Stopped | Ended::PublishFailed => "",
    };
    format!(
        "{finish}. To continue{hint}:\n  unlocker dead-letters {} --confirm {}",
        plan.action.name(),
        plan.digest
    )
}
