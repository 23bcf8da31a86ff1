//! Searches the stream, from a time to the end that it had when the search began; or follows it.

use std::{collections::VecDeque, ops::RangeInclusive, time::Duration};

use lapin::Connection;

use super::query::Query;
use crate::{
    broker::stream::{Entry, Reader, STALLED_AFTER, Start, Stream, StreamError},
    message::{RecordedOutcome, Timestamp},
    telemetry::TraceContext,
};

/// How far the clocks of workers and RabbitMQ may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Progress is reported each time this many outcomes were read.
const PROGRESS_EVERY: u64 = 5_000;
/// How long to wait for the first entry at a time that may be behind the end.
const BEHIND_THE_END_AFTER: Duration = Duration::from_secs(5);
/// How many entries RabbitMQ leaves out in a second, at the least.
const SCANNED_PER_SECOND: u64 = 5_000;

/// The history could not be searched.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("there is no history: stream {0} does not exist. Set history.enabled = true for the workers")]
    Off(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// An outcome that was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub outcome: RecordedOutcome,
    /// The outcome as it was published.
    pub body: Vec<u8>,
    /// The trace in which it was published, 32 hex digits.
    pub trace_id: Option<String>,
}

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Outcomes that were read.
    pub read: u64,
    /// Entries from the first one read to the end; some of them RabbitMQ may leave out.
    pub span: u64,
    /// Entries of this span that lie behind.
    pub passed: u64,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Newest first.
    pub found: Vec<Found>,
    /// How many more were found, older than these.
    pub left_out: u64,
    /// When the oldest outcome that was looked at was decided.
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
        mut progress: impl FnMut(Progress),
    ) -> Result<Self, HistoryError> {
        let reading = Stream::new(connection, stream);
        let last = reading.last_entries().await.map_err(|error| off(error, stream))?;
        let mut outcomes = Collected::new(query, limit);
        let Some(end) = last.last() else { return Ok(outcomes.finish()) };
        let first = first_entry(&reading, query.since, &last).await?;
        outcomes.look_back_to(&first);
        let span = end.offset.saturating_sub(first.offset);
        let filters = filters(query, end);
        let patience = if filters.is_empty() { STALLED_AFTER } else { patience(span) };
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let mut reader = reading.read(Start::Offset(first.offset), &filters).await?;
        loop {
            let entry = reader.next(patience).await?;
            outcomes.look_at(&entry);
            if outcomes.read.is_multiple_of(PROGRESS_EVERY) {
                let passed = entry.offset.saturating_sub(first.offset);
                progress(Progress { read: outcomes.read, span, passed });
            }
            if entry.offset >= end.offset {
                break;
            }
        }
        reader.close().await;
        Ok(outcomes.finish())
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

    /// Hands over each outcome that comes from now on. Ends with an error only.
    ///
    /// # Errors
    /// If the stream does not exist or cannot be read any more.
    pub async fn follow<E: From<HistoryError>>(
        connection: &Connection,
        stream: &str,
        query: &Query,
        mut hand_over: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let reading = Stream::new(connection, stream).read(Start::Next, &[]).await;
        let mut reader = reading.map_err(|error| off(error, stream))?;
        loop {
            let entry = reader.wait_next().await.map_err(HistoryError::from)?;
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

/// How long nothing may come of this many entries, most of which RabbitMQ leaves out.
fn patience(span: u64) -> Duration {
    STALLED_AFTER + Duration::from_secs(span / SCANNED_PER_SECOND)
}

/// What RabbitMQ may leave out, it leaves out by these; none if it may leave out nothing. The end itself must
/// come.
fn filters(query: &Query, end: &Entry) -> Vec<String> {
    let own = query.filter_value();
    own.into_iter()
        .flat_map(|own| std::iter::once(own).chain(end.filter_value().map(str::to_owned)))
        .collect()
}

impl Found {
    /// The outcome in an entry; `None` if it is none.
    pub fn read(entry: &Entry) -> Option<Self> {
        let outcome = RecordedOutcome::parse(&entry.delivery.data)?;
        let trace = TraceContext::from_headers(entry.delivery.properties.headers().as_ref());
        Some(Self {
            outcome,
            body: entry.delivery.data.clone(),
            trace_id: trace.map(|trace| trace.trace_id().to_owned()),
        })
    }
}

/// The newest matches so far.
struct Collected<'a> {
    query: &'a Query,
    filter_value: Option<String>,
    limit: usize,
    found: VecDeque<Found>,
    left_out: u64,
    from: Option<Timestamp>,
    read: u64,
}

impl<'a> Collected<'a> {
    fn new(query: &'a Query, limit: usize) -> Self {
        let filter_value = query.filter_value();
        Self { query, filter_value, limit, found: VecDeque::new(), left_out: 0, from: None, read: 0 }
    }

    /// Notes the oldest entry of the search.
    fn look_back_to(&mut self, first: &Entry) {
        self.from = Found::read(first).map(|found| found.outcome.finished_at);
    }

    fn look_at(&mut self, entry: &Entry) {
        self.read += 1;
        // Most entries differ in this, and need not be read.
        let differs = matches!(
            (&self.filter_value, entry.filter_value()),
            (Some(wanted), Some(own)) if wanted != own
        );
        if differs {
            return;
        }
        let Some(found) = Found::read(entry) else { return };
        self.from.get_or_insert(found.outcome.finished_at);
        if !self.query.matches(&found.outcome) {
            return;
        }
        if self.found.len() >= self.limit {
            self.found.pop_front();
            self.left_out += 1;
        }
        self.found.push_back(found);
    }

    fn finish(self) -> Outcomes {
        let Self { found, left_out, from, read, .. } = self;
        Outcomes { found: found.into_iter().rev().collect(), left_out, from, read }
    }
}
