//! Searches the stream, from a time to the end that it had when the search began; or follows it.

use std::{ops::RangeInclusive, time::Duration};

use lapin::Connection;

use super::{
    found::Found,
    part::{Matches, Part, Progress, Reporter},
    query::Query,
};
use crate::{
    broker::stream::{Entry, Reader, STALLED_AFTER, Start, Stream, StreamError, was_declared_anew},
    message::Timestamp,
};

/// How far the clocks of workers and RabbitMQ may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How long to wait for the first entry at a time that may be behind the end.
const BEHIND_THE_END_AFTER: Duration = Duration::from_secs(5);

/// The history could not be searched.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("there is no history: stream {0} does not exist. Set history.enabled = true for the workers")]
    Off(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl HistoryError {
    /// Whether it may work again on another connection.
    pub fn is_passing(&self) -> bool {
        use StreamError::{Ended, Failed, Stalled};
        matches!(self, Self::Stream(Ended(_) | Failed { .. } | Stalled { .. }))
    }
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Newest first.
    pub found: Vec<Found>,
    /// How many more were found, older than these.
    pub left_out: u64,
    /// When the oldest outcome that was looked at was decided; `None` if there is none, or it cannot be read.
    pub from: Option<Timestamp>,
    /// How many outcomes were read.
    pub read: u64,
}

impl Outcomes {
    /// Searches to the end that the stream has now; at most `limit`, the newest ones. Dropping the future
    /// cancels the search.
    ///
    /// # Errors
    /// If the stream does not exist or cannot be read.
    pub async fn search(
        connection: &Connection,
        stream: &str,
        query: &Query,
        limit: usize,
        progress: impl FnMut(Progress),
    ) -> Result<Self, HistoryError> {
        let reading = Stream::new(connection, stream);
        let last = reading.last_entries().await.map_err(|error| off(error, stream))?;
        if last.is_empty() {
            return Ok(Self::default());
        }
        let first = first_entry(&reading, query.since, &last).await?;
        let from = Found::read(&first).map(|found| found.outcome.finished_at);
        let Some(end) = last.into_iter().next_back() else { return Ok(Self::default()) };
        let reporter = Reporter::new(end.offset.saturating_sub(first.offset) + 1, progress);
        let parts = Part::divide(&reading, first.offset, end).await?;
        let readers = parts.into_iter().map(|part| part.read(&reading, query, limit, &reporter));
        let mut matches = Matches::new(query, limit);
        for later in futures_util::future::try_join_all(readers).await? {
            matches.append(later);
        }
        let Matches { found, left_out, read, .. } = matches;
        Ok(Self { found: found.into_iter().rev().collect(), left_out, from, read })
    }

    /// A reader of all outcomes that were decided at `since` or later, and of those that come; and what there is
    /// now, `None` if nothing.
    ///
    /// # Errors
    /// If the stream does not exist or cannot be read.
    pub async fn read_from<'a>(
        connection: &'a Connection,
        stream: &'a str,
        since: Timestamp,
    ) -> Result<(Reader<'a>, Option<RangeInclusive<u64>>), HistoryError> {
        let reading = Stream::new(connection, stream);
        let last = reading.last_entries().await.map_err(|error| off(error, stream))?;
        let Some(end) = last.last() else { return Ok((reading.read(Start::First, &[]).await?, None)) };
        let first = first_entry(&reading, Some(since), &last).await?.offset;
        Ok((reading.read(Start::Offset(first), &[]).await?, Some(first..=end.offset)))
    }

    /// Hands over each outcome that comes from now on; or from `next`, the offset at which an earlier call ended.
    /// Ends with an error only.
    ///
    /// # Errors
    /// If the stream does not exist or cannot be read any more.
    pub async fn follow<E: From<HistoryError>>(
        connection: &Connection,
        stream: &str,
        query: &Query,
        next: &mut Option<u64>,
        mut hand_over: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let reading = Stream::new(connection, stream);
        let last = reading.last_entries().await.map_err(|error| off(error, stream))?;
        let last = last.last().map(|last| last.offset);
        let start = match *next {
            None => last.map_or(0, |last| last + 1),
            Some(next) if was_declared_anew(next, last) => 0,
            Some(next) => next,
        };
        *next = Some(start);
        let reader = reading.read(Start::Offset(start), &[]).await;
        let mut reader = reader.map_err(HistoryError::from)?;
        loop {
            let entry = reader.wait_next().await.map_err(HistoryError::from)?;
            *next = Some(entry.offset + 1);
            if let Some(found) = Found::read(&entry).filter(|found| query.matches(&found.outcome)) {
                hand_over(found)?;
            }
        }
    }
}

fn off(error: StreamError, stream: &str) -> HistoryError {
    match error {
        StreamError::Missing(_) => HistoryError::Off(stream.to_owned()),
        error => error.into(),
    }
}

/// The entry to begin with so that no match is missed: an outcome is published after it was decided, sometimes
/// long after. `last`: the last chunk.
async fn first_entry(
    stream: &Stream<'_>,
    since: Option<Timestamp>,
    last: &[Entry],
) -> Result<Entry, StreamError> {
    let newest = last.iter().filter_map(Found::read).map(|found| found.outcome.finished_at).max();
    if let (Some(since), Some(newest), Some(end)) = (since, newest, last.last()) {
        // A time behind the last chunk is the place of the next entry, which may never come; so not behind what is
        // known to be in that chunk.
        let start = Start::At(since.min(newest).minus(CLOCK_SKEW));
        match stream.entry_at(start, BEHIND_THE_END_AFTER).await {
            Ok(entry) if entry.offset <= end.offset => return Ok(entry),
            // The clock of a worker is further ahead of RabbitMQ's than was allowed for.
            Ok(_) | Err(StreamError::Stalled { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    stream.entry_at(Start::First, STALLED_AFTER).await
}
