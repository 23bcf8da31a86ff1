//! Looks at the letters: one at a time, and what was seen serves for a moment, so that no number of
//! reloads costs the broker more than one look.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::trouble::Trouble;
use crate::dead_letters::{Actor, Brief, DeadLetters, Error, Extent, Filter, Letter, Listing, Plan, Summary, plan::Action};

/// How long what was seen serves.
const FRESH: Duration = Duration::from_secs(2);
/// How long others are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Different lists that are kept.
const MOST: usize = 16;

/// Some of the letters that match, and how many there are.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub letters: Vec<Brief>,
    pub total: usize,
    pub extent: Extent,
}

/// Which letters of those that match: the first, counted from zero, and how many.
pub(super) type Span = (usize, usize);

#[derive(Debug, Default)]
struct Seen {
    summary: Option<(Instant, Arc<Summary>)>,
    pages: HashMap<String, (Instant, Arc<Page>)>,
}

/// Looks. Clones share what was seen.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    letters: DeadLetters,
    seen: Arc<Mutex<Seen>>,
    tasks: TaskTracker,
}

impl Looks {
    pub(super) fn new(letters: DeadLetters, tasks: TaskTracker) -> Self {
        Self { letters, seen: Arc::default(), tasks }
    }

    /// What was seen is so no longer.
    pub(super) async fn forget(&self) {
        *self.seen.lock().await = Seen::default();
    }

    pub(super) async fn summary(&self, actor: Actor) -> Result<Arc<Summary>, Trouble> {
        let (mut seen, letters) = (self.turn().await?, self.letters.clone());
        self.whole(async move {
            if let Some((at, summary)) = &seen.summary
                && at.elapsed() < FRESH
            {
                return Ok(Arc::clone(summary));
            }
            let summary = Arc::new(letters.summary(&actor, &Filter::default()).await?);
            seen.summary = Some((Instant::now(), Arc::clone(&summary)));
            Ok(summary)
        })
        .await
    }

    pub(super) async fn page(
        &self,
        actor: Actor,
        filter: Filter,
        (first, count): Span,
    ) -> Result<Arc<Page>, Trouble> {
        let (mut seen, letters) = (self.turn().await?, self.letters.clone());
        let key = format!("{filter:?} {first} {count}");
        self.whole(async move {
            seen.pages.retain(|_, (at, _)| at.elapsed() < FRESH);
            if let Some((_, page)) = seen.pages.get(&key) {
                return Ok(Arc::clone(page));
            }
            let (mut wanted, mut total) = (Vec::new(), 0);
            let see = |letter: Letter| {
                if filter.matches(&letter.brief) {
                    if total >= first && wanted.len() < count {
                        wanted.push(letter.brief);
                    }
                    total += 1;
                }
                filter.limit.is_none_or(|limit| total < limit)
            };
            let extent = letters.look(&actor, see).await?;
            let page = Arc::new(Page { letters: wanted, total, extent });
            if seen.pages.len() < MOST {
                seen.pages.insert(key, (Instant::now(), Arc::clone(&page)));
            }
            Ok(page)
        })
        .await
    }

    /// All of a letter. It is written down first.
    pub(super) async fn show(&self, actor: Actor, id: String) -> Result<Listing<Letter>, Trouble> {
        let (seen, letters) = (self.turn().await?, self.letters.clone());
        self.whole(async move {
            let shown = letters.show(&actor, &id).await;
            drop(seen);
            shown
        })
        .await
    }

    pub(super) async fn plan(
        &self,
        actor: Actor,
        action: Action,
        filter: Filter,
    ) -> Result<(Plan, Listing<Brief>), Trouble> {
        let (seen, letters) = (self.turn().await?, self.letters.clone());
        self.whole(async move {
            let planned = letters.plan(&actor, action, &filter).await;
            drop(seen);
            planned
        })
        .await
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<Seen>, Trouble> {
        let turn = Arc::clone(&self.seen).lock_owned();
        tokio::time::timeout(PATIENCE, turn).await.map_err(|_elapsed| Trouble::Busy)
    }

    /// Whoever asked may go away in the middle of a look; but half a look would change the order.
    async fn whole<T: Send + 'static>(
        &self,
        look: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Trouble> {
        match self.tasks.spawn(look).await {
            Ok(seen) => Ok(seen?),
            Err(error) => Err(Trouble::Internal(error.to_string())),
        }
    }
}
