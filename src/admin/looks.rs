//! Looks at the dead letters, one at a time; what was seen a moment ago is shown again, so that no
//! number of visitors makes work for the broker.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use super::problem::Problem;
use crate::dead_letters::{
    Action, Actor, Brief, DeadLetters, Error, Filter, Letter, Listing, Plan, Planned, Summary,
};

/// How long what was seen is shown again.
const FRESH: Duration = Duration::from_secs(2);
/// The most looks whose result is kept.
const MOST: usize = 16;

/// Some of the letters that match, and how many there are.
pub(super) type Page = Listing<Brief>;

/// Looks; clones share what was seen.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    letters: DeadLetters,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    filter: Filter,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Summary(Arc<Summary>),
    /// From this letter on, so many.
    Page(usize, usize, Arc<Page>),
}

impl Looks {
    pub(super) fn new(letters: DeadLetters) -> Self {
        Self { letters, seen: Arc::default() }
    }

    pub(super) async fn summary(&self, actor: &Actor, filter: &Filter) -> Result<Arc<Summary>, Problem> {
        let mut seen = self.turn().await;
        let known = seen.iter().find_map(|seen| match &seen.what {
            What::Summary(summary) if seen.filter == *filter => Some(Arc::clone(summary)),
            _ => None,
        });
        if let Some(summary) = known {
            return Ok(summary);
        }
        let (letters, actor, filter) = (self.letters.clone(), actor.clone(), filter.clone());
        to_its_end(async move {
            let summary = Arc::new(letters.summary(&actor, &filter).await?);
            keep(&mut seen, filter, What::Summary(Arc::clone(&summary)));
            Ok(summary)
        })
        .await
    }

    /// Letters that match, oldest first, from the `first` on, counted from zero.
    pub(super) async fn page(
        &self,
        actor: &Actor,
        filter: &Filter,
        first: usize,
        most: usize,
    ) -> Result<Arc<Page>, Problem> {
        let mut seen = self.turn().await;
        let known = seen.iter().find_map(|seen| match &seen.what {
            What::Page(at, of, page) if (*at, *of) == (first, most) && seen.filter == *filter => {
                Some(Arc::clone(page))
            }
            _ => None,
        });
        if let Some(page) = known {
            return Ok(page);
        }
        let (letters, actor, filter) = (self.letters.clone(), actor.clone(), filter.clone());
        to_its_end(async move {
            let page = Arc::new(letters.page(&actor, &filter, first, most).await?);
            keep(&mut seen, filter, What::Page(first, most, Arc::clone(&page)));
            Ok(page)
        })
        .await
    }

    /// Everything about a letter; written down before it is looked at.
    pub(super) async fn show(&self, actor: &Actor, id: &str) -> Result<Listing<Letter>, Problem> {
        let turn = self.turn().await;
        let (letters, actor, id) = (self.letters.clone(), actor.clone(), id.to_owned());
        to_its_end(async move {
            let shown = letters.show(&actor, &id).await;
            drop(turn);
            shown
        })
        .await
    }

    pub(super) async fn plan(
        &self,
        actor: &Actor,
        action: Action,
        filter: &Filter,
    ) -> Result<Planned, Problem> {
        let turn = self.turn().await;
        let (letters, actor, filter) = (self.letters.clone(), actor.clone(), filter.clone());
        to_its_end(async move {
            let planned = letters.plan(&actor, action, &filter).await;
            drop(turn);
            planned
        })
        .await
    }

    pub(super) async fn planned(&self, digest: &str) -> Result<Plan, Problem> {
        let turn = self.turn().await;
        let (letters, digest) = (self.letters.clone(), digest.to_owned());
        to_its_end(async move {
            let plan = letters.planned(&digest).await;
            drop(turn);
            plan
        })
        .await
    }

    /// What was seen is no longer so.
    pub(super) async fn forget(&self) {
        self.seen.lock().await.clear();
    }

    /// Waits for its turn; what is given holds it.
    async fn turn(&self) -> OwnedMutexGuard<Vec<Seen>> {
        let mut seen = Arc::clone(&self.seen).lock_owned().await;
        seen.retain(|seen| seen.at.elapsed() < FRESH);
        seen
    }
}

fn keep(seen: &mut Vec<Seen>, filter: Filter, what: What) {
    seen.truncate(MOST - 1);
    seen.push(Seen { at: Instant::now(), filter, what });
}

/// Looks to the end even if nobody waits for it any more: the next one wants to know, too.
async fn to_its_end<T: Send + 'static>(
    look: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(look).await {
        Ok(looked) => Ok(looked?),
        Err(error) => Err(Problem::internal(&error)),
    }
}
