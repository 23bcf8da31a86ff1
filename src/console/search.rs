//! Finds what happened to a customer, a subscription, an order or a request: in the history and among the dead
//! letters.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::ToSchema;

use super::{
    cached_reader::CachedReader,
    log::ConsoleLog,
    problem::Problem,
    recent::{Phase, Recent},
    records::Records,
    words,
};
use crate::{
    dead_letters::{Action, Actor, DeadLetterId, DeadLetterSummary},
    history::Found,
    message::{DeadLetterStatus, RecordedOutcome, Status, Timestamp},
};

/// The most outcomes of one answer.
const MAX_OUTCOMES: usize = 50;
/// The longest text to search for, in bytes, as identifiers are.
pub(super) const MAX_TEXT: usize = 255;
/// How long an answer is reused.
const CACHE_TTL: Duration = Duration::from_secs(10);
const MAX_CACHED: usize = 16;

/// What was found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SearchResult {
    /// The requests, the one that was heard of last first.
    pub(super) requests: Vec<RequestTimeline>,
    /// Outcomes that were decided before were not looked at; null if none was.
    pub(super) looked_back_to: Option<Timestamp>,
    /// What could not be seen, and why.
    pub(super) unseen: Vec<String>,
}

/// What is known of one request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RequestTimeline {
    pub(super) request_id: String,
    pub(super) requested_by: Option<String>,
    pub(super) trace_id: Option<String>,
    /// What happened, the oldest first.
    pub(super) events: Vec<TimelineEvent>,
    /// Its dead letters that wait for a decision.
    pub(super) dead_letters: Vec<DeadLetterId>,
}

/// Something that happened to a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TimelineEvent {
    pub(super) at: Option<Timestamp>,
    /// A status, `received` or `waits`.
    #[schema(value_type = String)]
    pub(super) kind: &'static str,
    /// In a sentence.
    pub(super) text: String,
}

/// Searches, one search at a time, and reuses an answer for a moment. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Search {
    reader: CachedReader,
    /// None if outcomes are not kept.
    recent: Option<Recent>,
    log: ConsoleLog,
    cache: Arc<Mutex<Vec<Cached>>>,
}

#[derive(Debug)]
struct Cached {
    at: Instant,
    text: String,
    result: Arc<SearchResult>,
}

impl Search {
    pub(super) fn new(reader: CachedReader, recent: Option<Recent>, log: ConsoleLog) -> Self {
        Self { reader, recent, log, cache: Arc::default() }
    }

    /// Finds requests by a text that is not blank.
    pub(super) async fn find(&self, actor: &Actor, text: &str) -> Result<Arc<SearchResult>, Problem> {
        if text.len() > MAX_TEXT {
            return Err(Problem::bad_request(format!("q: longer than {MAX_TEXT} bytes.")));
        }
        let mut cache = self.cache.lock().await;
        cache.retain(|cached| cached.at.elapsed() < CACHE_TTL);
        if let Some(cached) = cache.iter().find(|cached| cached.text == text) {
            return Ok(Arc::clone(&cached.result));
        }
        let (result, is_settled) = self.look(actor, text).await;
        let result = Arc::new(result);
        if is_settled {
            cache.truncate(MAX_CACHED - 1);
            cache.push(Cached { at: Instant::now(), text: text.to_owned(), result: Arc::clone(&result) });
        }
        Ok(result)
    }

    /// The result, and whether another search in a moment would find the same.
    async fn look(&self, actor: &Actor, text: &str) -> (SearchResult, bool) {
        let mut unseen = Unseen::default();
        let mut timelines = Timelines::default();
        let (outcomes, dead_letters) =
            tokio::join!(self.outcomes(text, &mut unseen), self.reader.search(actor, text));
        self.log.look(|records| outcomes.iter().for_each(|found| timelines.add_outcome(found, records)));
        match dead_letters {
            Ok(listing) => {
                listing.dead_letters.iter().for_each(|dead_letter| timelines.add_dead_letter(dead_letter));
                if listing.coverage.is_incomplete() {
                    unseen.for_now(format!("Not all dead letters were seen: {}.", listing.coverage));
                }
            }
            Err(problem) => unseen.for_now(format!("The dead letters: {} {}", problem.what, problem.advice)),
        }
        let looked_back_to = self.recent.as_ref().and_then(Recent::from);
        let result = SearchResult { requests: timelines.finish(), looked_back_to, unseen: unseen.notes };
        (result, !unseen.is_for_now)
    }

    async fn outcomes(&self, text: &str, unseen: &mut Unseen) -> Vec<Found> {
        let Some(recent) = &self.recent else {
            unseen.always(
                "The history is off (history.enabled), so only dead letters were searched.".to_owned(),
            );
            return Vec::new();
        };
        match recent.phase() {
            Phase::UpToDate => {}
            Phase::Reading { read, total } => {
                unseen.for_now(format!(
                    "The history is being read, {read} of {total} outcomes so far. Search again in a moment."
                ));
            }
            Phase::Failed(why) => unseen.for_now(format!("The history cannot be read: {why}.")),
        }
        match recent.find(text, MAX_OUTCOMES).await {
            Ok(matches) => {
                if matches.count > MAX_OUTCOMES {
                    unseen.always(format!(
                        "Of {} outcomes the newest {MAX_OUTCOMES} are shown.",
                        matches.count
                    ));
                }
                matches.found
            }
            Err(error) => {
                unseen.for_now(format!("The history cannot be read: {error}."));
                Vec::new()
            }
        }
    }
}

/// What could not be seen.
#[derive(Debug, Default)]
struct Unseen {
    notes: Vec<String>,
    /// Whether it may be seen in a moment.
    is_for_now: bool,
}

impl Unseen {
    fn for_now(&mut self, note: String) {
        self.notes.push(note);
        self.is_for_now = true;
    }

    fn always(&mut self, note: String) {
        self.notes.push(note);
    }
}

#[derive(Debug, Default)]
struct Timelines(BTreeMap<String, RequestTimeline>);

impl Timelines {
    fn of(&mut self, request_id: &str) -> &mut RequestTimeline {
        self.0.entry(request_id.to_owned()).or_insert_with(|| RequestTimeline {
            request_id: request_id.to_owned(),
            requested_by: None,
            trace_id: None,
            events: Vec::new(),
            dead_letters: Vec::new(),
        })
    }

    fn add_outcome(&mut self, found: &Found, records: &Records) {
        let outcome = &found.outcome;
        let timeline = self.of(&outcome.request_id);
        timeline.requested_by = timeline.requested_by.take().or_else(|| outcome.requested_by.clone());
        timeline.trace_id = timeline.trace_id.take().or_else(|| found.trace_id.clone());
        let event = TimelineEvent {
            at: Some(outcome.finished_at),
            kind: Status::named(&outcome.status).map_or("other", Status::as_str),
            text: words::outcome(outcome, who(outcome, records).as_deref()),
        };
        // After a crash the same outcome may be there twice.
        if timeline.events.iter().all(|known| (known.at, &known.text) != (event.at, &event.text)) {
            timeline.events.push(event);
        }
    }

    fn add_dead_letter(&mut self, dead_letter: &DeadLetterSummary) {
        let request_id =
            dead_letter.request_id.clone().unwrap_or_else(|| format!("dead letter {}", dead_letter.id));
        let timeline = self.of(&request_id);
        timeline.trace_id = timeline.trace_id.take().or_else(|| dead_letter.trace_id.clone());
        timeline.dead_letters.push(dead_letter.id.clone());
        if let Some(at) = dead_letter.first_received_at
            && timeline.events.iter().all(|event| event.kind != "received")
        {
            let text = "Received".to_owned();
            timeline.events.push(TimelineEvent { at: Some(at), kind: "received", text });
        }
        let why = dead_letter.reason.as_deref().map(|reason| format!(": {}", words::explain(reason)));
        let status = match dead_letter.status {
            DeadLetterStatus::Unknown => "of unknown origin",
            status => status.as_str(),
        };
        let text = format!("Waits as a dead letter, {status}{}", why.unwrap_or_default());
        timeline.events.push(TimelineEvent { at: dead_letter.dead_at, kind: "waits", text });
    }

    fn finish(self) -> Vec<RequestTimeline> {
        let mut timelines: Vec<_> = self.0.into_values().collect();
        for timeline in &mut timelines {
            timeline.events.sort_by_key(|event| event.at);
        }
        let last = |timeline: &RequestTimeline| timeline.events.iter().filter_map(|event| event.at).max();
        timelines.sort_by_key(|timeline| std::cmp::Reverse(last(timeline)));
        timelines
    }
}

/// Who has replayed or discarded the request, if a console did.
fn who(outcome: &RecordedOutcome, records: &Records) -> Option<String> {
    let is_discard = outcome.status == Status::Discarded.as_str();
    if outcome.replays == 0 && !is_discard {
        return None;
    }
    // The newest first. Others may have done it by the command line.
    let mut jobs = records.jobs().filter(|job| {
        matches!(job.plan.action, Action::Discard { .. }) == is_discard
            && job.may_have_changed(&outcome.request_id, outcome.finished_at)
    });
    jobs.next().map(|job| job.actor.clone())
}
