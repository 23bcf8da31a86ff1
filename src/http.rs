//! What all HTTP servers of the program share: serving with bounds, problems as RFC 9457 says, and limits of
//! rates.

mod gcra;
mod listen;
mod problem;
mod server;
mod slot;
mod throttle;

pub use self::{
    gcra::Gcra,
    listen::{ListenError, bind},
    problem::{Body as ProblemBody, FieldError, Problem, Taken, sentence},
    server::{Bounds, Handler, Peer, Server},
    slot::Slot,
    throttle::{Throttle, Wait, network},
};
