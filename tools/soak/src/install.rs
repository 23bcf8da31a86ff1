//! The stand-in for Trackfinity: it asks for a key and fails at random.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kit::{Answer, Call, TcpCutter, Trackfinity};

use crate::checker::What;
use crate::recorder::Recorder;
use crate::requests::{self, Kind, dice, kind};

pub const KEY: &str = "soak-key";

/// Longer than the worker's timeout.
const TOO_LATE: Duration = Duration::from_millis(2_600);

pub struct Install {
    trackfinity: Trackfinity,
    /// Between the workers and the stand-in.
    pub line: Arc<TcpCutter>,
    said: Arc<Mutex<Said>>,
}

/// What was answered so far.
#[derive(Default)]
struct Said {
    calls: HashMap<u64, u64>,
    healed: bool,
    statuses: HashMap<&'static str, u64>,
}

impl Install {
    pub async fn start(seed: u64, recorder: Arc<Recorder>) -> Self {
        let trackfinity = Trackfinity::start(|_| Answer::status(503));
        trackfinity.record(false);
        let line = Arc::new(TcpCutter::start(trackfinity.address().to_string()).await);
        let said = Arc::new(Mutex::default());
        let (to_cut, noted) = (line.clone(), said.clone());
        trackfinity.answer_with(move |call| answer(seed, call, &to_cut, &noted, &recorder));
        Self { trackfinity, line, said }
    }

    /// For the workers, through the line.
    pub fn url(&self) -> String {
        format!("http://{}", self.line.address())
    }

    /// Fails no more. Were only requests left that always fail, nothing would be served between their failures: the
    /// key would be taken for wrong, and each be tried by itself, by a probe.
    pub fn heal(&self) {
        said(&self.said).healed = true;
    }

    pub fn in_flight(&self) -> usize {
        self.trackfinity.in_flight()
    }

    pub fn calls(&self) -> u64 {
        self.trackfinity.count()
    }

    /// Answers so far and their counts, the most frequent first.
    pub fn answers(&self) -> Vec<(&'static str, u64)> {
        let mut answers: Vec<_> = said(&self.said).statuses.iter().map(|(&what, &n)| (what, n)).collect();
        answers.sort_by_key(|&(what, count)| (std::cmp::Reverse(count), what));
        answers
    }
}

fn said(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().expect("no panic holds it")
}

fn answer(seed: u64, call: &Call, line: &TcpCutter, noted: &Mutex<Said>, recorder: &Recorder) -> Answer {
    let number = |id: String| id.parse().ok().or_else(|| requests::number(&id));
    let called = call.field("customer_id").and_then(number);
    let n = called.unwrap_or_default();
    let mut said = said(noted);
    let (what, answer) = if call.header("api-key") != Some(KEY) {
        ("401", Answer::json(401, r#"{"error":"this is not the key"}"#))
    } else if call.path.ends_with("/api/service/ping") {
        ("ping", Answer::json(200, "true"))
    } else if said.healed {
        match kind(seed, n) {
            Kind::Good | Kind::Expiring | Kind::Shard | Kind::Forbidden => ("true", Answer::unlocked()),
            Kind::Refused | Kind::Invalid | Kind::Unreadable => bad_request(),
        }
    } else {
        let count = said.calls.entry(n).or_default();
        *count += 1;
        decide(seed, n, *count, line)
    };
    if let Some(n) = called {
        recorder.record(n, What::Called(what));
    }
    *said.statuses.entry(what).or_default() += 1;
    answer
}

/// The same for the same call of the same request, whatever else happens.
fn decide(seed: u64, n: u64, count: u64, line: &TcpCutter) -> (&'static str, Answer) {
    let mut dice = dice(seed, n, count);
    let latency = Duration::from_millis(dice.u64(5..45));
    let kind = kind(seed, n);
    let unlocked = matches!(kind, Kind::Good | Kind::Expiring);
    let (what, answer) = match dice.f64() {
        dice if dice < 0.0500 => ("503", Answer::status(503)),
        dice if dice < 0.0550 && unlocked => return ("too late", Answer::unlocked().after(TOO_LATE)),
        dice if dice < 0.0600 && unlocked => {
            // Within the next answer's head: its own, or that of another call at the time.
            line.sever_after(40);
            ("reset", Answer::unlocked())
        }
        dice if dice < 0.0650 => ("not JSON", Answer::status(200).body("<html>Back soon</html>")),
        dice if dice < 0.0655 => ("429", Answer::status(429).header("retry-after", "1")),
        _ => match kind {
            Kind::Good | Kind::Expiring => ("true", Answer::unlocked()),
            Kind::Shard => ("503", Answer::status(503)),
            Kind::Forbidden => ("403", Answer::json(403, r#"{"error":"not this customer"}"#)),
            Kind::Refused | Kind::Invalid | Kind::Unreadable => bad_request(),
        },
    };
    (what, answer.after(latency))
}

fn bad_request() -> (&'static str, Answer) {
    ("400", Answer::json(400, r#"{"error":"no such customer"}"#))
}
