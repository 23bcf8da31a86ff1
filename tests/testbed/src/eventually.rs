//! Waiting for a condition.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const POLL: Duration = Duration::from_millis(15);

/// The result of one check: the expected value, or what was seen instead.
pub trait Attempt {
    type Value;
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Attempt for bool {
    type Value = ();
    fn outcome(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Attempt for Option<T> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Display> Attempt for Result<T, E> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|seen| seen.to_string())
    }
}

/// Checks every 15 ms until `attempt` gives a value.
///
/// # Panics
/// With `what` and the last thing seen, once `deadline` is over.
pub async fn eventually<A: Attempt>(
    what: &str,
    deadline: Duration,
    mut attempt: impl AsyncFnMut() -> A,
) -> A::Value {
    let until = Instant::now() + deadline;
    let mut seen = String::from("nothing yet");
    loop {
        match timeout_at(until, attempt()).await.map(Attempt::outcome) {
            Ok(Ok(value)) => return value,
            Ok(Err(now)) => seen = now,
            Err(_) => {
                panic!("not within {deadline:?}: {what}; the last attempt did not end; seen before: {seen}")
            }
        }
        if Instant::now() >= until {
            panic!("not within {deadline:?}: {what}; last seen: {seen}");
        }
        sleep(POLL).await;
    }
}
