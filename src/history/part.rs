//! A part of the stream, which one reader reads.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use super::{found::Found, query::Query};
use crate::broker::stream::{Entry, STALLED_AFTER, Start, Stream, StreamError};

/// How many readers read a long stream at once. RabbitMQ serves each on a processor of its own.
const READERS: u64 = 4;
/// A shorter part is not worth a reader.
const MIN_PART: u64 = 5_000;
/// Progress is reported each time this many outcomes of a part were read.
const PROGRESS_EVERY: u64 = 1_000;
/// How many entries RabbitMQ leaves out in a second, at the least.
const SCANNED_PER_SECOND: u64 = 5_000;

/// How far a search is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Outcomes that were read.
    pub read: u64,
    /// Entries from the first one to the end; some of them RabbitMQ may leave out.
    pub span: u64,
    /// Entries of this span that lie behind.
    pub passed: u64,
}

/// Adds up the progress of all parts.
pub(super) struct Reporter<F>(Mutex<(Progress, F)>);

impl<F: FnMut(Progress)> Reporter<F> {
    pub(super) fn new(span: u64, report: F) -> Self {
        Self(Mutex::new((Progress { span, ..Progress::default() }, report)))
    }

    fn add(&self, read: u64, passed: u64) {
        let mut inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (progress, report) = &mut *inner;
        progress.read += read;
        progress.passed += passed;
        report(*progress);
    }
}

/// From an offset to an entry of which it is known that it is there.
#[derive(Debug)]
pub(super) struct Part {
    from: u64,
    end: Entry,
}

impl Part {
    /// Divides what is from an offset to an entry, oldest part first.
    pub(super) async fn divide(
        stream: &Stream<'_>,
        first: u64,
        end: Entry,
    ) -> Result<Vec<Self>, StreamError> {
        let span = end.offset.saturating_sub(first);
        let count = (span / MIN_PART).clamp(1, READERS);
        let (mut parts, mut from) = (Vec::new(), first);
        for number in 1..count {
            let boundary = Start::Offset(first + span / count * number);
            let entry = stream.entry_at(boundary, STALLED_AFTER).await?;
            // Since the search began, RabbitMQ may have deleted what was here.
            if (from..end.offset).contains(&entry.offset) {
                let next = entry.offset + 1;
                parts.push(Self { from, end: entry });
                from = next;
            }
        }
        parts.push(Self { from, end });
        Ok(parts)
    }

    /// Reads it. Keeps the newest `limit` matches.
    pub(super) async fn read<'a, F: FnMut(Progress)>(
        self,
        stream: &Stream<'_>,
        query: &'a Query,
        limit: usize,
        reporter: &Reporter<F>,
    ) -> Result<Matches<'a>, StreamError> {
        let filters = self.filters(query);
        let patience = if filters.is_empty() { STALLED_AFTER } else { self.patience() };
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let mut reader = stream.read(Start::Offset(self.from), &filters).await?;
        let mut matches = Matches::new(query, limit);
        let (mut reported, mut next) = ((0, self.from), self.from);
        while next <= self.end.offset {
            let entry = reader.next(patience).await?;
            next = entry.offset.saturating_add(1);
            if entry.offset > self.end.offset {
                // The end was deleted.
                break;
            }
            matches.look_at(&entry);
            if matches.read.is_multiple_of(PROGRESS_EVERY) || next > self.end.offset {
                reporter.add(matches.read - reported.0, next - reported.1);
                reported = (matches.read, next);
            }
        }
        reader.close().await;
        Ok(matches)
    }

    /// How long nothing may come, while RabbitMQ leaves out most entries.
    fn patience(&self) -> Duration {
        let span = self.end.offset.saturating_sub(self.from);
        STALLED_AFTER + Duration::from_secs(span / SCANNED_PER_SECOND)
    }

    /// What RabbitMQ may leave out, it leaves out by these; none if it may leave out nothing. The end itself must
    /// come.
    fn filters(&self, query: &Query) -> Vec<String> {
        let own = query.filter_value();
        own.into_iter()
            .flat_map(|own| std::iter::once(own).chain(self.end.filter_value().map(str::to_owned)))
            .collect()
    }
}

/// The newest matches so far.
pub(super) struct Matches<'a> {
    query: &'a Query,
    filter_value: Option<String>,
    limit: usize,
    /// Oldest first.
    pub(super) found: VecDeque<Found>,
    /// How many more there are, older than these.
    pub(super) left_out: u64,
    pub(super) read: u64,
}

impl<'a> Matches<'a> {
    pub(super) fn new(query: &'a Query, limit: usize) -> Self {
        let filter_value = query.filter_value();
        Self { query, filter_value, limit, found: VecDeque::new(), left_out: 0, read: 0 }
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
        if let Some(found) = Found::read(entry).filter(|found| self.query.matches(&found.outcome)) {
            self.found.push_back(found);
            self.keep_to_limit();
        }
    }

    /// Adds what a later part has.
    pub(super) fn append(&mut self, mut later: Self) {
        self.found.append(&mut later.found);
        self.left_out += later.left_out;
        self.read += later.read;
        self.keep_to_limit();
    }

    fn keep_to_limit(&mut self) {
        while self.found.len() > self.limit {
            self.found.pop_front();
            self.left_out += 1;
        }
    }
}
