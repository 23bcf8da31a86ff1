//! Answers polls for outcomes from the history. Many pollers share one reader: it follows the stream while
//! there are polls, and knows where the latest outcomes are. A poll then reads one entry. A poll for something
//! older lets the index reach further back. Only if there is too much since then, it searches the stream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::outcome_index::{Known, OutcomeIndex};
use crate::{
    broker::{
        ConnectError, Connector,
        connection::Connection,
        stream::{STALLED_AFTER, Start, Stream, StreamError},
    },
    history::{CLOCK_SKEW, Found, HistoryError, Outcomes, Query},
    http::Problem,
    message::Timestamp,
    telemetry::LogThrottle,
};

/// How long a poll may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(50);
/// After this long without a poll the reader ends.
const IDLE_AFTER: Duration = Duration::from_secs(600);
/// How many searches of the stream may run at once.
const MAX_SEARCHES: usize = 2;

/// Why a poll has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the reader of the history ended: {0}")]
    Reader(Arc<str>),
    #[error("too many searches run")]
    Busy,
    #[error("the search took too long")]
    Timeout,
}

/// Finds outcomes for polls.
#[derive(Debug)]
pub(super) struct History {
    connector: Connector,
    stream: Arc<str>,
    reader: tokio::sync::Mutex<Current>,
    searches: Semaphore,
    throttle: LogThrottle,
}

/// The reader that all polls share.
#[derive(Debug, Default)]
struct Current {
    reader: Option<Reader>,
    /// When the last try to connect failed, and why.
    failed: Option<(Instant, Arc<str>)>,
}

/// A reader that follows the stream.
#[derive(Clone, Debug)]
struct Reader {
    connection: Arc<Connection>,
    index: Arc<Mutex<OutcomeIndex>>,
    state: watch::Receiver<State>,
    last_poll: Arc<Mutex<Instant>>,
    /// One extension of the index at a time.
    extending: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug)]
enum State {
    /// It has not reached the end that the stream had when it began.
    Behind,
    UpToDate,
    Ended(Arc<str>),
}

impl History {
    pub(super) fn new(connector: Connector, stream: String) -> Self {
        Self {
            connector,
            stream: stream.into(),
            reader: tokio::sync::Mutex::default(),
            searches: Semaphore::new(MAX_SEARCHES),
            throttle: LogThrottle::default(),
        }
    }

    /// The outcome of a request, as it was published; `None` if it has none yet. `since`: it was not decided
    /// before, as far as clocks agree.
    pub(super) async fn find(
        &self,
        request_id: &str,
        since: Option<Timestamp>,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let found = timeout(POLL_TIMEOUT, self.poll(request_id, since)).await;
        found.unwrap_or(Err(PollError::Timeout)).map_err(|error| {
            if let Some(left_out) = self.throttle.due(&("history_unavailable", error.to_string())) {
                tracing::warn!(
                    event = "history_unavailable",
                    %error,
                    left_out,
                    "an outcome that was asked for could not be searched"
                );
            }
            match error {
                PollError::Busy => {
                    problem("busy", "Too many searches run. Ask again, with the `since` of the Location.")
                }
                _ => unavailable(),
            }
        })
    }

    async fn poll(&self, request_id: &str, since: Option<Timestamp>) -> Result<Option<Vec<u8>>, PollError> {
        // The clocks of gateway and worker may differ.
        let since = since.map(|since| since.min(Timestamp::now()).minus(CLOCK_SKEW));
        let reader = self.reader(begin(since, Timestamp::now())).await?;
        reader.up_to_date().await?;
        let oldest = since.unwrap_or(Timestamp::EPOCH);
        let mut known = reader.index().find(request_id, oldest);
        if known == Known::Unknown && since.is_some() {
            reader.reach_back(&self.stream, oldest).await?;
            known = reader.index().find(request_id, oldest);
        }
        match known {
            Known::Pending => return Ok(None),
            Known::At(offset) => {
                if let Some(found) =
                    reader.read(&self.stream, offset).await?.filter(|it| it.outcome.request_id == request_id)
                {
                    // The latest one may be of an earlier request with the same id.
                    let is_meant = found.outcome.finished_at >= oldest;
                    return Ok(is_meant.then_some(found.body));
                }
                // The hash was another id's.
            }
            Known::Unknown => {}
        }
        let _permit = self.searches.try_acquire().map_err(|_| PollError::Busy)?;
        let query = Query { request_id: Some(request_id.to_owned()), since, ..Query::default() };
        let outcomes = Outcomes::search(&reader.connection, &self.stream, &query, 1, |_| ()).await?;
        Ok(outcomes.found.into_iter().next().map(|found| found.body))
    }

    /// The reader that runs; a new one if none does.
    async fn reader(&self, since: Timestamp) -> Result<Reader, PollError> {
        let asked = Instant::now();
        let mut current = self.reader.lock().await;
        if let Some(reader) = current.reader.as_ref().filter(|reader| reader.runs()) {
            *reader.last_poll.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Ok(reader.clone());
        }
        // Polls that have waited for a try do not try one after the other.
        if let Some((_, why)) = current.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(PollError::Reader(Arc::clone(why)));
        }
        let connected = self.connector.connect_with_small_frames("reads the history").await;
        current.failed = connected.as_ref().err().map(|error| (Instant::now(), error.to_string().into()));
        let connection = Arc::new(connected?);
        let (state, changes) = watch::channel(State::Behind);
        let reader = Reader {
            connection,
            index: Arc::new(Mutex::new(OutcomeIndex::new(since))),
            state: changes,
            last_poll: Arc::new(Mutex::new(Instant::now())),
            extending: Arc::default(),
        };
        let (following, stream) = (reader.clone(), Arc::clone(&self.stream));
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = following.follow(&stream, since, &state) => ended.map_or_else(|error| error.to_string(), |()| "it has ended".to_owned()),
                () = following.idle() => "nobody asks any more".to_owned(),
            };
            state.send_replace(State::Ended(ended.into()));
            following.connection.close().await;
        });
        current.reader = Some(reader.clone());
        Ok(reader)
    }
}

/// Where the reader begins for the first poll. Others wait until it has reached the end, so it does not begin long
/// ago: the index reaches back to what is older.
fn begin(since: Option<Timestamp>, now: Timestamp) -> Timestamp {
    since.unwrap_or(now).max(now.minus(CLOCK_SKEW * 2))
}

/// The problem while RabbitMQ is away.
pub(super) fn unavailable() -> Problem {
    problem("history_unavailable", "The history cannot be read now. Ask again later.")
}

fn problem(code: &'static str, detail: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_retry_after(Duration::from_secs(2))
}

impl Reader {
    fn index(&self) -> MutexGuard<'_, OutcomeIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> bool {
        !matches!(*self.state.borrow(), State::Ended(_))
    }

    async fn up_to_date(&self) -> Result<(), PollError> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| !matches!(state, State::Behind)).await;
        match reached.map(|state| state.clone()) {
            Ok(State::Ended(why)) => Err(PollError::Reader(why)),
            Ok(_) => Ok(()),
            Err(_gone) => Err(PollError::Reader("its task is gone".into())),
        }
    }

    /// Waits until nobody has asked for a while.
    async fn idle(&self) {
        loop {
            let last = *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= IDLE_AFTER {
                return;
            }
            tokio::time::sleep_until(last + IDLE_AFTER).await;
        }
    }

    /// Fills the index with what was decided from `since` on. Ends with the connection.
    async fn follow(
        &self,
        stream: &str,
        since: Timestamp,
        state: &watch::Sender<State>,
    ) -> Result<(), HistoryError> {
        let (mut reader, present) = Outcomes::read_from(&self.connection, stream, since).await?;
        match &present {
            Some(present) => self.index().begin_at(*present.start()),
            None => {
                self.index().begin_with_all();
                state.send_replace(State::UpToDate);
            }
        }
        loop {
            let entry = reader.wait_next().await?;
            if let Some(found) = Found::read(&entry) {
                self.index().add(&found.outcome.request_id, entry.offset, found.outcome.finished_at);
            }
            let is_end = present.as_ref().is_some_and(|present| entry.offset >= *present.end());
            if is_end && matches!(*state.borrow(), State::Behind) {
                state.send_replace(State::UpToDate);
            }
        }
    }

    /// Lets the index reach back to `since`, unless too much came since then. A client that hangs up does not end
    /// it: the next poll needs it, too.
    async fn reach_back(&self, stream: &Arc<str>, since: Timestamp) -> Result<(), PollError> {
        let (reader, stream) = (self.clone(), Arc::clone(stream));
        let extension = tokio::spawn(async move {
            let _one = reader.extending.lock().await;
            reader.extend(&stream, since).await
        });
        extension.await.map_err(|error| PollError::Reader(error.to_string().into()))?.map_err(Into::into)
    }

    async fn extend(&self, stream: &str, since: Timestamp) -> Result<(), HistoryError> {
        let (is_done, room) = {
            let index = self.index();
            (index.reaches(since) || index.has_given_up(since), index.room())
        };
        let Some((until, room)) = room.filter(|_| !is_done) else { return Ok(()) };
        let (mut reader, present) = Outcomes::read_from(&self.connection, stream, since).await?;
        let Some(from) = present.map(|present| *present.start()) else { return Ok(()) };
        let mut older = OutcomeIndex::new(since);
        older.begin_at(from.min(until));
        if until.saturating_sub(from) <= room {
            let mut next = from;
            while next < until {
                let entry = reader.next(STALLED_AFTER).await?;
                next = entry.offset + 1;
                if let Some(found) = Found::read(&entry).filter(|_| entry.offset < until) {
                    older.add(&found.outcome.request_id, entry.offset, found.outcome.finished_at);
                }
            }
            self.index().extend(&older, until);
        } else {
            self.index().give_up(since);
        }
        reader.close().await;
        Ok(())
    }

    async fn read(&self, stream: &str, offset: u64) -> Result<Option<Found>, StreamError> {
        let stream = Stream::new(&self.connection, stream);
        Ok(Found::read(&stream.entry_at(Start::Offset(offset), STALLED_AFTER).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_poll_for_something_old_does_not_let_all_polls_wait() {
        let now = Timestamp::now();
        assert_eq!(begin(Some(Timestamp::EPOCH), now), now.minus(Duration::from_secs(120)));
        let recent = now.minus(Duration::from_secs(70));
        assert_eq!((begin(Some(recent), now), begin(None, now)), (recent, now));
    }
}
