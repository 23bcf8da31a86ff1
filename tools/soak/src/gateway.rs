//! Sends requests to the gateway, each with a key until it is taken, and asks for its outcome until there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::checker::{Outcome, What};
use crate::journal::Journal;
use crate::recorder::Recorder;
use crate::requests::{self, GATEWAY_CLIENT, Kind, message_id};

/// Longer than the gateway waits for a confirm, shorter than some freezes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(12);
const BETWEEN_TRIES: Duration = Duration::from_millis(300);
/// The first time between two polls, which doubles.
const FIRST_POLL: Duration = Duration::from_millis(300);
const MAX_POLL: Duration = Duration::from_secs(5);
/// What some of them ask the gateway to wait for the outcome.
const WAIT: &str = "wait=5";

pub struct GatewayClient {
    /// For the numbers of requests to send.
    numbers: Option<UnboundedSender<u64>>,
    /// From then on each asks once more, and no more.
    last_poll: CancellationToken,
    unanswered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl GatewayClient {
    /// With `polls` it asks for outcomes; else only those who wait for theirs get one.
    pub fn start(
        address: &str,
        seed: u64,
        polls: bool,
        recorder: Arc<Recorder>,
        journal: Arc<Journal>,
    ) -> Self {
        let (numbers, received) = unbounded_channel();
        let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWERS_WITHIN).build();
        let (last_poll, unanswered) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let work = Work {
            base: format!("http://{address}"),
            client: client.expect("a client without options that fail"),
            seed,
            polls,
            recorder,
            journal,
            last_poll: last_poll.clone(),
            unanswered: unanswered.clone(),
        };
        Self {
            numbers: Some(numbers),
            last_poll,
            unanswered,
            task: tokio::spawn(async move { work.run(received).await }),
        }
    }

    pub fn numbers(&self) -> UnboundedSender<u64> {
        self.numbers.clone().expect("it is not finished")
    }

    /// Requests of which it is not known whether they are taken.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::SeqCst)
    }

    /// Waits until each has asked for the last time, for so long at most. The others' histories show what they lack.
    pub async fn finish(&mut self, limit: Duration) {
        self.numbers = None;
        self.last_poll.cancel();
        match timeout(limit, &mut self.task).await {
            Err(_) => self.task.abort(),
            Ok(Ok(())) => {}
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// What the gateway says of a request that was sent to it.
enum Said {
    /// It has it, and where its outcome will be.
    Taken(String),
    /// It has it, and this is its outcome.
    Finished(Outcome),
    /// It certainly has not.
    NotTaken(String),
    Unknown,
}

struct Work {
    base: String,
    client: Client,
    seed: u64,
    polls: bool,
    recorder: Arc<Recorder>,
    journal: Arc<Journal>,
    last_poll: CancellationToken,
    unanswered: Arc<AtomicUsize>,
}

impl Work {
    async fn run(&self, mut numbers: UnboundedReceiver<u64>) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                n = numbers.recv() => match n {
                    Some(n) => under_way.push(self.see_through(n)),
                    None => break,
                },
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
        }
        while under_way.next().await.is_some() {}
    }

    async fn see_through(&self, n: u64) {
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let mut said = self.send(n).await;
        let mut may_be_taken = matches!(said, Said::Unknown);
        while !self.is_final(n, &said, may_be_taken) {
            sleep(BETWEEN_TRIES).await;
            said = self.send(n).await;
            may_be_taken |= matches!(said, Said::Unknown);
        }
        self.unanswered.fetch_sub(1, Ordering::SeqCst);
        match said {
            Said::Taken(location) if self.polls => self.poll(n, &location).await,
            _ => {}
        }
    }

    /// Some clients give up where an answer allows it: nothing must come of their requests.
    fn is_final(&self, n: u64, said: &Said, may_be_taken: bool) -> bool {
        let gives_up = !may_be_taken && n.is_multiple_of(2) || requests::kind(self.seed, n) == Kind::Invalid;
        match said {
            Said::Taken(_) | Said::Finished(_) => true,
            Said::NotTaken(_) => gives_up || self.last_poll.is_cancelled(),
            Said::Unknown => self.last_poll.is_cancelled(),
        }
    }

    /// Sends it once, and records what is said.
    async fn send(&self, n: u64) -> Said {
        let mut request = self.client.post(format!("{}/v1/unlocks", self.base));
        if n.is_multiple_of(4) {
            request = request.header("prefer", WAIT);
        }
        let request = request
            .header("content-type", "application/json")
            .header("idempotency-key", message_id(n))
            .body(requests::body(self.seed, n));
        self.recorder.record(n, What::Sent);
        let said = match request.send().await {
            Ok(response) => self.read(n, response).await,
            // Nobody listens there now.
            Err(error) if error.is_connect() => Said::NotTaken("no connection".into()),
            Err(_) => Said::Unknown,
        };
        match &said {
            Said::Taken(_) => self.recorder.record(n, What::Accepted),
            Said::Finished(outcome) => {
                self.recorder.record(n, What::Accepted);
                self.recorder.record(n, What::Answered(Box::new(outcome.clone())));
            }
            Said::NotTaken(why) => self.recorder.record(n, What::NotTaken(why.clone())),
            Said::Unknown => {}
        }
        said
    }

    async fn read(&self, n: u64, response: Response) -> Said {
        let (status, location) = (response.status(), location(&response));
        let Ok(body) = response.bytes().await else { return Said::Unknown };
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = json["code"].as_str().unwrap_or_default();
        let is_invalid = requests::kind(self.seed, n) == Kind::Invalid;
        match status {
            StatusCode::ACCEPTED if json["id"] == format!("{GATEWAY_CLIENT}{}", message_id(n)) => {
                if let Some(location) = location {
                    return Said::Taken(location);
                }
            }
            StatusCode::OK => {
                if let Some(outcome) = Outcome::read(None, &body) {
                    return Said::Finished(outcome);
                }
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if is_invalid => {
                return Said::NotTaken(format!("{status} {code}"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => match json["taken"].as_str() {
                Some("no") => return Said::NotTaken(format!("{status} {code}")),
                Some("unknown") => return Said::Unknown,
                _ => {}
            },
            _ => {}
        }
        self.complain(n, status, &body);
        Said::Unknown
    }

    /// Asks for the outcome, ever more rarely, until there is one.
    async fn poll(&self, n: u64, location: &str) {
        let since = since(location);
        let mut wait = FIRST_POLL;
        loop {
            let is_last = self.last_poll.run_until_cancelled(sleep(wait)).await.is_none();
            if is_last {
                sleep(BETWEEN_TRIES).await;
            }
            wait = MAX_POLL.min(wait * 2);
            let asked = SystemTime::now();
            let answer = self.client.get(format!("{}{location}", self.base)).send().await;
            let Ok(response) = answer else { continue };
            let status = response.status();
            let Ok(body) = response.bytes().await else { continue };
            let json: Value = serde_json::from_slice(&body).unwrap_or_default();
            match (status, Outcome::read(None, &body)) {
                (StatusCode::OK, Some(outcome)) => {
                    self.recorder.record(n, What::Answered(Box::new(outcome)));
                    return;
                }
                (StatusCode::OK, None) if json["status"] == "pending" => {
                    self.recorder.record(n, What::Pending { since, asked });
                    if is_last {
                        return;
                    }
                }
                (StatusCode::SERVICE_UNAVAILABLE, _) => {}
                _ => self.complain(n, status, &body),
            }
        }
    }

    fn complain(&self, n: u64, status: StatusCode, body: &[u8]) {
        let said = String::from_utf8_lossy(body);
        self.journal.complain(format!("the gateway answered {} with {status}: {said}", message_id(n)));
    }
}

fn location(response: &Response) -> Option<String> {
    Some(response.headers().get("location")?.to_str().ok()?.to_owned())
}

/// The time from which on a `Location` asks for outcomes.
fn since(location: &str) -> SystemTime {
    let since = location.split_once("since=").map(|(_, since)| since);
    let since = since.and_then(|since| humantime::parse_rfc3339(&since.replace("%3A", ":")).ok());
    since.unwrap_or(SystemTime::UNIX_EPOCH)
}
