//! Stores the results of a job: several at a time, so that a fast job does not make an event of each.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    events::{Event, JobEnd},
    log::ConsoleLog,
};
use crate::{broker::Backoff, dead_letters::Step};

/// The time between two events of a job.
const INTERVAL: Duration = Duration::from_millis(300);
/// The most results in one event.
const MAX_STEPS: usize = 1000;

/// What is new about a job.
#[derive(Debug)]
pub(super) enum Update {
    Step(Step),
    End(JobEnd),
}

/// Stores updates until the end is stored. While RabbitMQ is away, it tries again.
pub(super) async fn write(log: ConsoleLog, job: String, mut updates: UnboundedReceiver<Update>) {
    while let Some(first) = updates.recv().await {
        let mut next = Some(first);
        let (mut steps, mut end) = (Vec::new(), None);
        while let Some(update) = next.take() {
            match update {
                Update::Step(step) => steps.push(step),
                Update::End(ended) => end = Some(ended),
            }
            if end.is_none() && steps.len() < MAX_STEPS {
                next = updates.try_recv().ok();
            }
        }
        if !steps.is_empty() {
            append(log.clone(), Event::Progress { job: job.clone(), steps }).await;
        }
        if let Some(end) = end {
            append(log.clone(), Event::Ended { job, end }).await;
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Stores an event. While RabbitMQ is away, it tries again.
pub(super) async fn append(log: ConsoleLog, event: Event) {
    let mut backoff = Backoff::new();
    while let Err(error) = log.append(event.clone()).await {
        tracing::warn!(event = "job_not_stored", error = %error, "a result of a job could not be stored, and is tried again");
        tokio::time::sleep(backoff.next(fastrand::f64())).await;
    }
}
