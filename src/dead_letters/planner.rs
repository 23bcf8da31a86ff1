//! Makes plans: chooses dead letters, and shows what a plan would do.

use tokio_util::sync::CancellationToken;

use super::{
    correction::{self, CorrectionPreview, Refusal},
    dead_letter::{DeadLetter, DeadLetterSummary},
    error::Error,
    filter::Filter,
    listing::Listing,
    oldest::{AgeKey, Limit, Sorted},
    plan::{Action, Plan},
    scan::IdMode,
    session::LockedSession,
};
use crate::message::{Correction, DeadLetterStatus};

/// A plan has the texts of at most this many corrections, of the oldest dead letters.
const MAX_PREVIEWS: usize = 100;

/// A plan, and a summary of each of its dead letters.
#[derive(Clone, Debug)]
pub struct PlanPreview {
    pub plan: Plan,
    pub listing: Listing<DeadLetterSummary>,
    /// Dead letters that match but are unreadable and so cannot be replayed.
    pub unreadable: usize,
    /// What a correction does to the oldest dead letters of the plan, at most 100. Empty without a
    /// correction.
    pub corrections: Vec<CorrectionPreview>,
}

/// A dead letter that matches, and why it cannot be corrected.
struct Candidate {
    summary: DeadLetterSummary,
    refusal: Option<Refusal>,
}

/// Plans the action for what matches now, and stores the plan. With a correction, either all dead
/// letters become requests that a worker can read, or nothing is planned.
pub(super) async fn plan(
    session: &LockedSession,
    stop: &CancellationToken,
    action: Action,
    filter: &Filter,
) -> Result<PlanPreview, Error> {
    let max = filter.max_count();
    let mut found = Sorted::new(Limit::Oldest(max));
    let mut previews = Sorted::new(Limit::Oldest(max.min(MAX_PREVIEWS)));
    let mut unreadable = 0;
    let correction = action.correction().filter(|correction| !correction.is_empty());
    let visit = |dead_letter: DeadLetter| {
        if !filter.matches(&dead_letter.summary) {
            return;
        }
        let key = AgeKey::new(&dead_letter.summary);
        let refusal = match (&action, correction) {
            (_, Some(correction)) => check(&dead_letter, correction, &key, &mut previews).err(),
            (Action::Replay { .. }, None) if dead_letter.summary.status == DeadLetterStatus::Unreadable => {
                unreadable += 1;
                return;
            }
            _ => None,
        };
        found.add(key, Candidate { summary: dead_letter.summary, refusal });
    };
    let coverage = session.browse(IdMode::Compute, stop, visit).await?;
    let candidates = found.into_vec();
    let total = candidates.len();
    let refusals = candidates.iter().filter_map(|of| Some((of.summary.id.clone(), of.refusal.clone()?)));
    correction::refused(total, refusals)?;

    let dead_letters: Vec<_> = candidates.into_iter().map(|candidate| candidate.summary).collect();
    let ids = dead_letters.iter().map(|dead_letter| dead_letter.id.clone()).collect();
    let plan = Plan::new(action, ids);
    if !plan.ids.is_empty() {
        session.store_plan(&plan).await?;
    }
    let listing = Listing { count: dead_letters.len(), dead_letters, coverage };
    Ok(PlanPreview { plan, listing, unreadable, corrections: previews.into_vec() })
}

/// Keeps what the correction does to this dead letter, unless it is younger than all that are kept.
fn check(
    dead_letter: &DeadLetter,
    correction: &Correction,
    key: &AgeKey,
    previews: &mut Sorted<CorrectionPreview>,
) -> Result<(), Refusal> {
    match previews.would_keep(key) {
        true => previews.add(key.clone(), dead_letter.preview(correction)?),
        false => drop(dead_letter.corrected(correction)?),
    }
    Ok(())
}
