//! What travels: requests, outcomes, and the headers that carry a request's history. No IO.

pub mod dead_letter;
pub mod envelope;
pub mod headers;
pub mod outcome;
pub mod parked;
pub mod pending_outcome;
pub mod raw_properties;
pub mod request;
pub mod timestamp;
pub mod x_death;

pub use dead_letter::{Death, LetterStatus, Record};
pub use envelope::Envelope;
pub use headers::History;
pub use outcome::{Outcome, Status};
pub use parked::Parked;
pub use pending_outcome::PendingOutcome;
pub use raw_properties::{Flaw, Properties, RawProperties};
pub use request::{Fault, FaultCode, Identifiers, UnlockRequest};
pub use timestamp::Timestamp;
pub use x_death::XDeath;
