//! The outcomes of the last week, as the history has them: how many there were, and where they are. It follows the
//! stream all the time, so that a page about them is there at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{
    outcome_counts::{Change, Interval, MAX_AGE, OutcomeCounts, Window},
    outcome_index::{OutcomeIndex, has},
};
use crate::{
    broker::{
        Backoff, ConnectError, Connector,
        connection::Connection,
        stream::{STALLED_AFTER, Start, Stream, StreamError, was_declared_anew},
    },
    history::{Found, HistoryError, Outcomes},
    message::Timestamp,
    telemetry::LogThrottle,
};

/// How many outcomes are read at once.
const CONCURRENT_READS: usize = 8;
/// How long reading them may take.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The outcomes could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecentError {
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("RabbitMQ is not reached")]
    NotConnected,
    #[error("reading them took more than {} s", READ_TIMEOUT.as_secs())]
    Timeout,
}

/// How far the follower is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// It has read this many of so many.
    Reading {
        read: u64,
        total: u64,
    },
    UpToDate,
    /// It cannot read, and tries again.
    Failed(Arc<str>),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// The newest ones, oldest first.
    pub(super) found: Vec<Found>,
    /// How many there are at most.
    pub(super) count: usize,
}

/// Clones share what is known.
#[derive(Clone, Debug)]
pub(super) struct Recent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connector: Connector,
    stream: String,
    state: Mutex<State>,
    throttle: LogThrottle,
}

#[derive(Debug)]
struct State {
    counts: OutcomeCounts,
    index: OutcomeIndex,
    phase: Phase,
    /// When the first outcome that was looked at was decided.
    from: Option<Timestamp>,
    connection: Option<Arc<Connection>>,
    /// The offset of the next entry.
    next: Option<u64>,
}

impl Recent {
    pub(super) fn new(connector: Connector, stream: String) -> Self {
        let state = State {
            counts: OutcomeCounts::default(),
            index: OutcomeIndex::default(),
            phase: Phase::Reading { read: 0, total: 0 },
            from: None,
            connection: None,
            next: None,
        };
        Self(Arc::new(Shared {
            connector,
            stream,
            state: Mutex::new(state),
            throttle: LogThrottle::default(),
        }))
    }

    pub(super) fn phase(&self) -> Phase {
        self.state().phase.clone()
    }

    /// Since when outcomes are known.
    pub(super) fn from(&self) -> Option<Timestamp> {
        self.state().from
    }

    pub(super) fn intervals(&self, window: Window, now: Timestamp) -> Vec<Interval> {
        self.state().counts.intervals(window, now)
    }

    pub(super) fn changes(&self, now: Timestamp) -> Vec<Change> {
        self.state().counts.changes(now)
    }

    /// At most `max` outcomes with this identifier, or of the request or trace with this id: the newest.
    pub(super) async fn find(&self, text: &str, max: usize) -> Result<Matches, RecentError> {
        let (connection, (offsets, count)) = {
            let state = self.state();
            (state.connection.clone(), state.index.find(text, max))
        };
        let mut matches = Matches { found: Vec::new(), count };
        if offsets.is_empty() {
            return Ok(matches);
        }
        let connection = connection.ok_or(RecentError::NotConnected)?;
        let read = self.read(&connection, &offsets);
        let entries =
            tokio::time::timeout(READ_TIMEOUT, read).await.map_err(|_elapsed| RecentError::Timeout)??;
        matches.found.extend(entries.into_iter().filter(|found| has(found, text)));
        Ok(matches)
    }

    /// Reads the entries at these offsets; leaves out those that are gone.
    async fn read(&self, connection: &Connection, offsets: &[u64]) -> Result<Vec<Found>, RecentError> {
        let stream = Stream::new(connection, &self.0.stream);
        let mut found = Vec::with_capacity(offsets.len());
        for some in offsets.chunks(CONCURRENT_READS) {
            let entries =
                join_all(some.iter().map(|offset| stream.entry_at(Start::Offset(*offset), STALLED_AFTER)))
                    .await;
            for (offset, entry) in some.iter().zip(entries) {
                let entry = entry?;
                found.extend(
                    Some(entry).filter(|entry| entry.offset == *offset).as_ref().and_then(Found::read),
                );
            }
        }
        Ok(found)
    }

    /// Follows the stream until `end` is cancelled.
    pub(super) async fn follow(self, end: CancellationToken) {
        let follow = async {
            let mut backoff = Backoff::new();
            loop {
                let error = self.follow_once(&mut backoff).await;
                let text = error.to_string();
                if let Some(left_out) = self.0.throttle.due(&text) {
                    tracing::warn!(
                        event = "history_unavailable",
                        error = text,
                        left_out,
                        "the history cannot be read, so the console shows no outcomes"
                    );
                }
                {
                    let mut state = self.state();
                    state.phase = Phase::Failed(text.into());
                    state.connection = None;
                }
                self.0.connector.wait_to_retry(backoff.next(fastrand::f64())).await;
            }
        };
        end.run_until_cancelled(follow).await;
    }

    /// Follows the stream until it cannot be read any more; returns why.
    async fn follow_once(&self, backoff: &mut Backoff) -> RecentError {
        let follow = async {
            let connection = Arc::new(self.0.connector.connect("follows the history").await?);
            let since = Timestamp::now().minus(MAX_AGE);
            let stream = Stream::new(&connection, &self.0.stream);
            let next = self.state().next;
            let known = match next {
                None => None,
                Some(next) => {
                    let last = stream.last_entries().await?.last().map(|entry| entry.offset);
                    (!was_declared_anew(next, last)).then_some((next, last))
                }
            };
            let (mut reader, last) = match known {
                None => {
                    self.state().clear();
                    let (reader, there) = Outcomes::read_from(&connection, &self.0.stream, since).await?;
                    (reader, there.map(|there| *there.end()))
                }
                Some((next, last)) => (stream.read(Start::Offset(next), &[]).await?, last),
            };
            self.state().connection = Some(Arc::clone(&connection));
            backoff.reset();
            let mut first = None;
            loop {
                self.report(first, last);
                let entry = reader.wait_next().await?;
                first.get_or_insert(entry.offset);
                let mut state = self.state();
                state.next = Some(entry.offset.saturating_add(1));
                let Some(found) = Found::read(&entry) else { continue };
                if found.outcome.finished_at >= since {
                    state.add(entry.offset, &found);
                }
            }
        };
        let followed: Result<std::convert::Infallible, RecentError> = follow.await;
        match followed {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn report(&self, first: Option<u64>, last: Option<u64>) {
        let mut state = self.state();
        let passed = state.next.unwrap_or(0);
        state.phase = match last {
            Some(last) if passed <= last => {
                let first = first.unwrap_or(last);
                Phase::Reading { read: passed.saturating_sub(first), total: last.saturating_sub(first) + 1 }
            }
            _ => Phase::UpToDate,
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets all outcomes.
    fn clear(&mut self) {
        (self.counts, self.index) = Default::default();
        (self.from, self.next) = (None, None);
    }

    fn add(&mut self, offset: u64, found: &Found) {
        let at = found.outcome.finished_at;
        self.counts.add(&found.outcome);
        if self.index.add(offset, found) {
            // What was dropped began before this one; nothing says where the rest begins.
            self.from = Some(at);
        }
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
        self.counts.forget(Timestamp::now());
    }
}
