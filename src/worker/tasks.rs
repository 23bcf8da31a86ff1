//! The tasks of a session that handle one request each, and how they ended.

use tokio::task::{JoinError, JoinSet};

use super::{handler::Settled, unsettled::Unsettled};
use crate::telemetry::LogThrottle;

/// Requests in flight.
pub(super) type Tasks = JoinSet<Result<Settled, Unsettled>>;

/// The result of a task that has ended.
pub(super) type Finished = Result<Result<Settled, Unsettled>, JoinError>;

/// The message that a task has settled. Otherwise logs why its request stays in the queue, unless
/// that is the end of the session or of the worker, which is logged itself.
pub(super) fn settled_or_log(finished: Finished, throttle: &LogThrottle) -> Option<Settled> {
    match finished {
        Ok(Ok(settled)) => return Some(settled),
        Ok(Err(Unsettled::Stopping | Unsettled::SessionEnded)) => {}
        Ok(Err(error)) => {
            if let Some(left_out) = throttle.due(&("request_unsettled", error.to_string())) {
                tracing::warn!(
                    event = "request_unsettled",
                    %error,
                    left_out,
                    "a request could not be settled: it stays in the queue and is delivered again"
                );
            }
        }
        Err(error) if error.is_cancelled() => {}
        Err(error) => tracing::error!(
            event = "task_panicked",
            %error,
            "a task panicked: this is a bug, please report it. Its request stays in the queue and is delivered again"
        ),
    }
    None
}

/// Ends all tasks, and logs what failed in those that have ended by themselves. RabbitMQ redelivers
/// their messages.
pub(super) async fn abort(tasks: &mut Tasks, throttle: &LogThrottle) {
    tasks.abort_all();
    while let Some(finished) = tasks.join_next().await {
        settled_or_log(finished, throttle);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lines").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn errors_and_panics_of_tasks_are_logged_when_the_session_is_lost() {
        let lines = Lines::default();
        let written = lines.clone();
        let logs = tracing_subscriber::fmt().with_writer(move || written.clone()).with_ansi(false).finish();
        let _logs = tracing::subscriber::set_default(logs);
        let mut tasks = Tasks::new();
        for _ in 0..3 {
            tasks.spawn(async { Err(Unsettled::Unproven) });
        }
        tasks.spawn(async { Err(Unsettled::SessionEnded) });
        tasks.spawn(async { panic!("a defect") });
        tasks.spawn(std::future::pending());
        tokio::task::yield_now().await;
        abort(&mut tasks, &LogThrottle::default()).await;
        assert!(tasks.is_empty());
        let text = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("an outcome cannot be signed") && text.contains("a task panicked"), "{text}");
    }
}
