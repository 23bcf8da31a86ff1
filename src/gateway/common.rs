//! What all requests of one HTTP request have in common.

use std::time::Duration;

use lapin::BasicProperties;
use tokio::time::{Instant, timeout_at};

use super::{app::App, clients::Client, request_headers as head, take::Request, taken::Taken};
use crate::http::Problem;

/// The longest id of a request, in bytes: with the number of a replay behind it, it fits into a property.
const MAX_ID_BYTES: usize = 253;

/// What all requests of an HTTP request have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) client: Client,
    /// What the client calls the request.
    pub(super) key: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) wait: Option<Duration>,
    /// When the wait ends.
    pub(super) deadline: Instant,
}

impl Common {
    /// A request; the one in `line` of a batch.
    pub(super) fn request<'a>(
        &'a self,
        line: Option<usize>,
        properties: BasicProperties,
        body: &'a [u8],
    ) -> Result<Request<'a>, Problem> {
        Ok(Request {
            id: self.id(line)?,
            is_keyed: self.key.is_some(),
            client: self.client.name(),
            properties,
            correlation_id: self.correlation_id.as_deref(),
            body,
            waits: self.wait.is_some(),
        })
    }

    /// The id of the request; of the request in `line` of a batch.
    fn id(&self, line: Option<usize>) -> Result<String, Problem> {
        let name = self.client.name();
        let id = match (&self.key, line) {
            (None, _) => format!("{name}/{}", uuid::Uuid::now_v7()),
            (Some(key), None) => format!("{name}/{key}"),
            (Some(key), Some(line)) => format!("{name}/{key}/{line}"),
        };
        match id.len() {
            0..=MAX_ID_BYTES => Ok(id),
            _ => {
                let longest = MAX_ID_BYTES - name.len() - 1;
                let why = format!("is too long: at most {longest} bytes, in a batch 5 less");
                Err(head::bad_header("Idempotency-Key or webhook-id", &why))
            }
        }
    }

    /// Waits for the outcome, if that was asked for and can be.
    pub(super) async fn finish(&self, app: &App, taken: &mut Taken) {
        if self.wait.is_none() {
            taken.outcome = None;
        } else if let (None, Some(waiter)) = (&taken.outcome, &mut taken.waiter) {
            tokio::select! {
                outcome = timeout_at(self.deadline, waiter.outcome()) => taken.outcome = outcome.ok().flatten(),
                () = app.status.stopped() => {}
            }
        }
        taken.waiter = None;
    }
}
