//! Reads dead letters, one browse at a time, and caches results for a moment, so that many users of
//! the page cause little work for RabbitMQ. A browse stops when its client has gone.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::dead_letters::{
    Action, Actor, DeadLetter, DeadLetterSummary, DeadLetters, Error, Filter, Listing, Plan, PlanPreview,
    Summary,
};

/// How long a result is reused.
const CACHE_TTL: Duration = Duration::from_secs(2);
/// How old a summary may be that the overview shows at once, while a newer one is read.
const MAX_SUMMARY_AGE: Duration = Duration::from_secs(60);
/// The pause until the next summary, in times of what the last one took: so that dead letters are browsed only a
/// small part of the time.
const READ_SHARE: u32 = 5;
/// The most cached results.
const MAX_ENTRIES: usize = 16;

/// One page of the dead letters that match, and their number.
pub(super) type Page = Listing<DeadLetterSummary>;

/// Reads through a cache. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct CachedReader {
    dead_letters: DeadLetters,
    cache: Arc<Mutex<Vec<Entry>>>,
    /// The last summary of all dead letters.
    last: Arc<std::sync::Mutex<LastSummary>>,
}

#[derive(Debug, Default)]
struct LastSummary {
    summary: Option<(Instant, Arc<Summary>)>,
    /// How long it took to read.
    took: Duration,
    is_being_read: bool,
    /// How often the dead letters have changed: a count that was begun before is not kept.
    changes: u64,
}

#[derive(Debug)]
struct Entry {
    read_at: Instant,
    filter: Filter,
    result: Cached,
}

#[derive(Clone, Debug)]
enum Cached {
    Summary(Arc<Summary>),
    Page { offset: usize, max: usize, page: Arc<Page> },
}

impl CachedReader {
    pub(super) fn new(dead_letters: DeadLetters) -> Self {
        Self { dead_letters, cache: Arc::default(), last: Arc::default() }
    }

    pub(super) async fn summary(&self, actor: &Actor, filter: &Filter) -> Result<Arc<Summary>, Problem> {
        let mut cache = self.lock().await;
        let cached = cache.iter().find_map(|entry| match &entry.result {
            Cached::Summary(summary) if entry.filter == *filter => Some(Arc::clone(summary)),
            _ => None,
        });
        if let Some(summary) = cached {
            return Ok(summary);
        }
        let (actor, filter) = (actor.clone(), filter.clone());
        self.read(|dead_letters| async move {
            let summary = Arc::new(dead_letters.summary(&actor, &filter).await?);
            insert(&mut cache, filter, Cached::Summary(Arc::clone(&summary)));
            Ok(summary)
        })
        .await
    }

    /// The summary of all dead letters, and its age. One that is not too old is returned at once, and a newer one
    /// is read in the background.
    pub(super) async fn overview(&self, actor: &Actor) -> Result<(Arc<Summary>, Duration), Problem> {
        let known = {
            let mut last = self.last();
            let known = last.summary.clone().filter(|(at, _)| at.elapsed() < MAX_SUMMARY_AGE);
            let pause = (last.took * READ_SHARE).clamp(CACHE_TTL, MAX_SUMMARY_AGE / 2);
            let is_due = known.as_ref().is_some_and(|(at, _)| at.elapsed() > pause);
            if is_due && !std::mem::replace(&mut last.is_being_read, true) {
                let (reader, actor) = (self.clone(), actor.clone());
                tokio::spawn(async move {
                    let read = reader.read_overview(&actor).await;
                    reader.last().is_being_read = false;
                    if let Err(problem) = read {
                        tracing::debug!(what = problem.what, "the dead letters could not be counted again");
                        // The next one to ask sees why.
                        reader.last().summary = None;
                    }
                });
            }
            known
        };
        match known {
            Some((at, summary)) => Ok((summary, at.elapsed())),
            None => Ok((self.read_overview(actor).await?, Duration::ZERO)),
        }
    }

    async fn read_overview(&self, actor: &Actor) -> Result<Arc<Summary>, Problem> {
        let (began, changes) = (Instant::now(), self.last().changes);
        let summary = self.summary(actor, &Filter::default()).await?;
        let mut last = self.last();
        last.took = began.elapsed();
        if last.changes == changes {
            last.summary = Some((Instant::now(), Arc::clone(&summary)));
        }
        drop(last);
        Ok(summary)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, LastSummary> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// At most `max` of the dead letters that match, oldest first, after skipping `offset`.
    pub(super) async fn page(
        &self,
        actor: &Actor,
        filter: &Filter,
        offset: usize,
        max: usize,
    ) -> Result<Arc<Page>, Problem> {
        let mut cache = self.lock().await;
        let cached = cache.iter().find_map(|entry| match &entry.result {
            Cached::Page { offset: from, max: count, page }
                if (*from, *count) == (offset, max) && entry.filter == *filter =>
            {
                Some(Arc::clone(page))
            }
            _ => None,
        });
        if let Some(page) = cached {
            return Ok(page);
        }
        let (actor, filter) = (actor.clone(), filter.clone());
        self.read(|dead_letters| async move {
            let page = Arc::new(dead_letters.page(&actor, &filter, offset, max).await?);
            insert(&mut cache, filter, Cached::Page { offset, max, page: Arc::clone(&page) });
            Ok(page)
        })
        .await
    }

    /// Everything about a dead letter. Writes to the audit log first. Not cached.
    pub(super) async fn show(&self, actor: &Actor, id: &str) -> Result<Listing<DeadLetter>, Problem> {
        let (actor, id) = (actor.clone(), id.to_owned());
        self.read_alone(|dead_letters| async move { dead_letters.show(&actor, &id).await }).await
    }

    /// The dead letters that have this text as an identifier or an id. Not cached.
    pub(super) async fn search(&self, actor: &Actor, text: &str) -> Result<Page, Problem> {
        let (actor, text) = (actor.clone(), text.to_owned());
        self.read_alone(|dead_letters| async move { dead_letters.search(&actor, &text).await }).await
    }

    pub(super) async fn plan(
        &self,
        actor: &Actor,
        action: Action,
        filter: &Filter,
    ) -> Result<PlanPreview, Problem> {
        let (actor, filter) = (actor.clone(), filter.clone());
        self.read_alone(|dead_letters| async move { dead_letters.plan(&actor, action, &filter).await }).await
    }

    pub(super) async fn find_plan(&self, digest: &str) -> Result<Plan, Problem> {
        let digest = digest.to_owned();
        self.read_alone(|dead_letters| async move { dead_letters.find_plan(&digest).await }).await
    }

    /// Clears the cache, because the dead letters change.
    pub(super) async fn invalidate(&self) {
        {
            let mut last = self.last();
            last.summary = None;
            last.changes += 1;
        }
        self.cache.lock().await.clear();
    }

    /// Waits until no one else reads. No one else can read until the guard is dropped.
    async fn lock(&self) -> OwnedMutexGuard<Vec<Entry>> {
        let mut cache = Arc::clone(&self.cache).lock_owned().await;
        cache.retain(|entry| entry.read_at.elapsed() < CACHE_TTL);
        cache
    }

    /// Reads what is not cached, while no one else reads.
    async fn read_alone<T, R>(&self, read: impl FnOnce(DeadLetters) -> R) -> Result<T, Problem>
    where
        T: Send + 'static,
        R: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let lock = self.lock().await;
        self.read(|dead_letters| {
            let reading = read(dead_letters);
            async move {
                let _lock = lock;
                reading.await
            }
        })
        .await
    }

    /// Reads in a task of its own. If the returned future is dropped, because the client has gone,
    /// the browse stops. The task then still holds its lock until RabbitMQ has requeued what the
    /// browse consumed, so that the next browse sees it.
    async fn read<T, R>(&self, read: impl FnOnce(DeadLetters) -> R) -> Result<T, Problem>
    where
        T: Send + 'static,
        R: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let reading = tokio::spawn(read(self.dead_letters.stopped_by(stop.clone())));
        let _stop_when_dropped = stop.drop_guard();
        match reading.await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

fn insert(cache: &mut Vec<Entry>, filter: Filter, result: Cached) {
    cache.truncate(MAX_ENTRIES - 1);
    cache.push(Entry { read_at: Instant::now(), filter, result });
}
