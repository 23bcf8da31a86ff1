//! An outcome that was found.

use crate::{broker::stream::Entry, message::RecordedOutcome, telemetry::TraceContext};

/// An outcome that was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub outcome: RecordedOutcome,
    /// The outcome as it was published.
    pub body: Vec<u8>,
    /// The trace in which it was published, 32 hex digits.
    pub trace_id: Option<String>,
}

impl Found {
    /// The outcome in an entry; `None` if it is none.
    pub fn read(entry: &Entry) -> Option<Self> {
        let outcome = RecordedOutcome::parse(&entry.delivery.data)?;
        let trace = TraceContext::from_headers(entry.delivery.properties.headers().as_ref());
        Some(Self {
            outcome,
            body: entry.delivery.data.clone(),
            trace_id: trace.map(|trace| trace.trace_id().to_owned()),
        })
    }
}
