//! Publishes the requests and shows what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use testbed::{Inbox, Message};
use tokio::time::{Instant, sleep};

use crate::cases::Case;
use crate::stage::{EXCHANGE, REQUEST_KEY, RESULTS, Stage};
use crate::table::{Align, Column, Table};

const LOOK_EVERY: Duration = Duration::from_millis(2);
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

pub struct Outcome {
    pub id: String,
    pub status: String,
    reason: Option<String>,
    attempts: u64,
    http_status: Option<u64>,
}

impl Outcome {
    fn read(message: &Message) -> Self {
        let outcome = message.json();
        let text = |field: &str| outcome[field].as_str().map(str::to_owned);
        Self {
            id: text("request_id").unwrap_or_default(),
            status: text("status").unwrap_or_default(),
            reason: text("reason"),
            attempts: outcome["attempts"].as_u64().unwrap_or_default(),
            http_status: outcome.get("http_status").and_then(Value::as_u64),
        }
    }

    fn row(&self, request: &str, took: Option<Duration>) -> [String; 6] {
        let [status, reason, attempts, http] = self.cells();
        let took = took.map_or_else(|| "-".into(), |took| format!("{} ms", took.as_millis()));
        [request.to_owned(), status, reason, attempts, http, took]
    }

    fn cells(&self) -> [String; 4] {
        let reason = self.reason.clone().unwrap_or_else(|| "-".into());
        let http_status = self.http_status.map_or_else(|| "-".into(), |status| status.to_string());
        [self.status.clone(), reason, self.attempts.to_string(), http_status]
    }
}

pub struct Outcomes {
    inbox: Inbox,
    seen: Vec<Outcome>,
}

const COLUMNS: [Column; 4] = [
    ("status", 9, Align::Left),
    ("reason", 24, Align::Left),
    ("attempts", 8, Align::Right),
    ("HTTP", 4, Align::Right),
];

impl Outcomes {
    pub async fn listen(stage: &Stage) -> Self {
        let inbox = stage.amqp.consume_into(RESULTS, "unlock.#").await;
        Self { inbox, seen: Vec::new() }
    }

    /// Publishes all requests, and prints each outcome as it arrives, until all have one or `deadline` is over.
    pub async fn play(&mut self, stage: &Stage, cases: &[Case], deadline: Duration) {
        let [status, reason, attempts, http] = COLUMNS;
        let request = ("request", 27, Align::Left);
        let table = Table::new([request, status, reason, attempts, http, ("time", 8, Align::Right)]);
        table.print_head();
        let published = tokio::sync::Mutex::new(BTreeMap::new());
        let publish = async {
            for case in cases {
                published.lock().await.insert(case.id, Instant::now());
                stage.amqp.publish(EXCHANGE, REQUEST_KEY, case.properties.clone(), &case.body).await;
            }
        };
        let until = Instant::now() + deadline;
        let show = async {
            while self.of(cases).count() < cases.len() && Instant::now() < until && !stage.has_fallen() {
                for outcome in self.news() {
                    let now = Instant::now();
                    let took = published.lock().await.get(outcome.id.as_str()).map(|then| now - *then);
                    let name = cases.iter().find(|case| case.id == outcome.id).map_or("?", |case| case.name);
                    table.print(&outcome.row(name, took));
                    self.seen.push(outcome);
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::join!(publish, show);
    }

    fn news(&self) -> Vec<Outcome> {
        self.inbox.all().iter().skip(self.seen.len()).map(Outcome::read).collect()
    }

    /// Waits for the outcome of a request that was not published here, and does not print it.
    pub async fn absorb(&mut self, id: &str, deadline: Duration) {
        let until = Instant::now() + deadline;
        while !self.seen.iter().any(|outcome| outcome.id == id) && Instant::now() < until {
            self.seen.extend(self.news());
            sleep(LOOK_EVERY).await;
        }
    }

    /// Prints further outcomes, by their requests' ids, for as long as `go_on`.
    pub async fn follow(&mut self, go_on: impl Fn() -> bool) {
        let [status, reason, attempts, http] = COLUMNS;
        let table = Table::new([("request id", 36, Align::Left), status, reason, attempts, http]);
        table.print_head();
        while go_on() {
            for outcome in self.news() {
                let [status, reason, attempts, http] = outcome.cells();
                table.print(&[outcome.id.clone(), status, reason, attempts, http]);
                self.seen.push(outcome);
            }
            sleep(FOLLOW_EVERY).await;
        }
    }

    /// All outcomes that have come.
    pub fn all(&self) -> &[Outcome] {
        &self.seen
    }

    /// The outcomes of these requests, in the order in which they came.
    pub fn of<'a>(&'a self, cases: &'a [Case]) -> impl Iterator<Item = &'a Outcome> {
        self.seen.iter().filter(|outcome| cases.iter().any(|case| case.id == outcome.id))
    }

    /// How a request's end differs from what it should be.
    pub fn fault(&self, case: &Case) -> Option<String> {
        let name = case.name;
        let mut outcomes = self.seen.iter().filter(|outcome| outcome.id == case.id);
        let Some(outcome) = outcomes.next() else {
            return Some(format!("{name}: no outcome"));
        };
        if outcomes.next().is_some() {
            return Some(format!("{name}: more than one outcome"));
        }
        let found = (outcome.status.as_str(), outcome.reason.as_deref(), outcome.attempts);
        let expected = (case.expected.status, case.expected.reason, case.expected.attempts);
        let say = |(status, reason, attempts): (&str, Option<&str>, u64)| {
            format!("{status}, reason {}, attempts {attempts}", reason.unwrap_or("-"))
        };
        (found != expected).then(|| format!("{name}: {}; expected {}", say(found), say(expected)))
    }
}
