//! The messages: requests, outcomes, retries, dead letters, and the headers that carry a request's
//! history. No IO.

pub mod canary;
pub mod correction;
pub mod dead_letter;
pub mod envelope;
pub mod headers;
mod moment;
pub mod outcome;
pub mod pending_outcome;
pub mod queue_wait;
pub mod raw_properties;
mod recorded_outcome;
pub mod request;
pub mod retry;
pub mod schema;
pub mod timestamp;
pub mod x_death;

pub use correction::{Correction, InvalidCorrection};
pub use dead_letter::{DeadLetterHeaders, DeadLetterInfo, DeadLetterStatus};
pub use envelope::Envelope;
pub use headers::History;
pub use moment::Moment;
pub use outcome::{Outcome, Status};
pub use pending_outcome::PendingOutcome;
pub use raw_properties::{Flaw, Properties, RawProperties};
pub use recorded_outcome::RecordedOutcome;
pub use request::{Fault, FaultCode, Identifiers, UnlockRequest};
pub use retry::RetryInfo;
pub use timestamp::Timestamp;
pub use x_death::XDeath;
