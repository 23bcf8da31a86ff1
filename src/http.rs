//! What all HTTP servers of the program share: serving with bounds, and problems as RFC 9457 says.

mod listen;
mod problem;
mod server;

pub use self::{
    listen::{ListenError, bind},
    problem::{Body as ProblemBody, FieldError, Problem, Taken},
    server::{Bounds, Peer, Server, Slot},
};
