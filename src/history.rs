//! Finds outcomes in the stream that keeps them. The stream is in RabbitMQ, so every process finds the same.

mod found;
mod part;
mod query;
mod search;

pub use self::{
    found::Found,
    part::Progress,
    query::Query,
    search::{CLOCK_SKEW, HistoryError, Outcomes},
};
