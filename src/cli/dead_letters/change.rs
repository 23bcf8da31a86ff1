//! `unlocker dead-letters replay` and `discard`: the plan first, then what was confirmed.

use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Output, Selection, json, print_json, printer::Printer, tables};
use crate::{
    cli::{Failure, print, run::Signals},
    dead_letters::{
        Action, Actor, DeadLetters, Ended, Filter, Finish, Pace, Plan, Planned, Step, StepResult,
    },
};

/// Letters of a plan that are listed for people; all are in `--json`.
const LISTED: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    confirm: Confirm,
    /// How fast at most: 1/s, 30/m.
    #[arg(long, default_value = "1/s", value_name = "RATE", value_parser = rate)]
    rate: f64,
    /// How long each outcome is waited for.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Go on after a letter that failed again.
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Discard {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    confirm: Confirm,
    /// Why; it stands in the outcome as its reason.
    #[arg(long, value_name = "TEXT", required_unless_present = "confirm")]
    note: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Confirm {
    /// Carry out the plan with this digest. Without it the plan is shown and nothing is done.
    #[arg(long, value_name = "DIGEST")]
    confirm: Option<String>,
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not a rate such as 1/s, 10/s or 30/m");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let count: f64 = count.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let rate = count / seconds;
    if (1.0 / 3600.0..=10_000.0).contains(&rate) { Ok(rate) } else { Err(wrong()) }
}

pub(super) async fn replay(letters: &DeadLetters, replay: Replay) -> Result<(), Failure> {
    let pace = Pace { per_second: replay.rate, wait: replay.wait, keep_going: replay.keep_going };
    change(letters, Action::Replay, &replay.selection.filter(), replay.confirm, &pace, &replay.output).await
}

pub(super) async fn discard(letters: &DeadLetters, discard: Discard) -> Result<(), Failure> {
    let action = Action::Discard { reason: discard.note.unwrap_or_default() };
    let pace = Pace { per_second: f64::INFINITY, ..Pace::default() };
    change(letters, action, &discard.selection.filter(), discard.confirm, &pace, &discard.output).await
}

async fn change(
    letters: &DeadLetters,
    action: Action,
    filter: &Filter,
    confirm: Confirm,
    pace: &Pace,
    output: &Output,
) -> Result<(), Failure> {
    let actor = output.who.actor();
    let Some(digest) = confirm.confirm else {
        let Planned { plan, listing, unreadable } = letters.plan(&actor, action, filter).await?;
        if unreadable > 0 {
            eprintln!(
                "unlocker: {unreadable} of the letters cannot be replayed, as they cannot be read; \
                 `dead-letters list --status unreadable` shows them, `dead-letters discard` gives them up"
            );
        }
        super::warn_if_short(&listing.extent);
        if output.json {
            return print_json(&plan);
        }
        if plan.ids.is_empty() {
            return print(format_args!("no letter to {}", plan.action.name()));
        }
        tables::print_letters(listing.letters.get(..LISTED).unwrap_or(&listing.letters))?;
        if listing.letters.len() > LISTED {
            print(format_args!("… and {} more", listing.letters.len() - LISTED))?;
        }
        return say_plan(&plan);
    };
    let plan = letters.planned(&digest).await?;
    if plan.action.name() != action.name() {
        let is = plan.action.name();
        return Err(
            anyhow::anyhow!("plan {digest} is one to {is}: confirm it with `dead-letters {is}`").into()
        );
    }
    let other_note =
        action.reason().is_some_and(|reason| !reason.is_empty() && action.reason() != plan.action.reason());
    if other_note {
        return Err(anyhow::anyhow!("plan {digest} has another note; leave --note away to confirm it").into());
    }
    if *filter != Filter::default() {
        eprintln!("unlocker: the filters change nothing any more: plan {digest} names its letters");
    }
    carry_out(letters, &actor, &plan, pace, output.json).await
}

fn say_plan(plan: &Plan) -> Result<(), Failure> {
    let action = plan.action.name();
    print(format_args!(
        "\nplan {}: {action} {} letters. Nothing is done yet; to do it:",
        plan.digest,
        plan.ids.len()
    ))?;
    print(format_args!("  unlocker dead-letters {action} --confirm {}", plan.digest))
}

async fn carry_out(
    letters: &DeadLetters,
    actor: &Actor,
    plan: &Plan,
    pace: &Pace,
    as_json: bool,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let told = stop.clone();
    let listening = tokio::spawn(async move {
        signals.next().await;
        told.cancel();
        signals.next().await;
        // What is held goes back, and so does a letter whose copy is not confirmed.
        std::process::exit(1);
    });
    let printer = Printer::start(plan.ids.len(), stop.clone())?;
    let finish = letters
        .carry_out(actor, plan, pace, &stop, |step| {
            printer.step(match as_json {
                true => json(step),
                false => describe(step),
            });
        })
        .await;
    if let Ok(finish) = &finish {
        printer.end(if as_json { json(finish) } else { describe_finish(plan, finish) });
    }
    let printed = printer.finish().await;
    listening.abort();
    let finish = finish?;
    printed?;
    match finish.done == finish.of && matches!(finish.ended, Ended::Complete) {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

fn describe(step: &Step) -> String {
    let what = match &step.result {
        StepResult::Unlocked => "unlocked".to_owned(),
        StepResult::FailedAgain { status, reason } => {
            format!("failed again: {status}, {}", tables::or_dash(reason.as_deref()))
        }
        StepResult::Pending => "replayed; no outcome yet: it is queued, or waits for a retry".to_owned(),
        StepResult::Discarded { heard: true } => "discarded".to_owned(),
        StepResult::Discarded { heard: false } => "discarded; no queue receives the outcome".to_owned(),
        StepResult::Vanished => "vanished: it is no longer among the dead letters".to_owned(),
        StepResult::OutOfReach => "out of reach: too many letters lie before it; it stays".to_owned(),
        StepResult::Kept { why } => format!("kept: {why}"),
    };
    let request = step.request_id.as_deref().map(|id| format!("  request {}", tables::clean(id)));
    format!("{}  {}{}", step.id, tables::clean(&what), request.unwrap_or_default())
}

fn describe_finish(plan: &Plan, finish: &Finish) -> String {
    let Finish { done, left, of, ended } = *finish;
    let action = plan.action.name();
    let why = match ended {
        Ended::Complete => return format!("done: {done} of {of} left the dead letters"),
        Ended::Told => "told to stop",
        Ended::Failure => "one failed again or has no outcome yet (--keep-going goes on)",
        Ended::Kept => "one could not be published",
    };
    format!(
        "stopped: {why}. {done} of {of} left the dead letters, {left} are untouched; to go on:\n  \
         unlocker dead-letters {action} --confirm {}",
        plan.digest
    )
}
