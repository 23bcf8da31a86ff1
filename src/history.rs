//! Finds outcomes in the stream that keeps them. The stream is in RabbitMQ, so every process finds the same.

mod query;
mod search;

pub use self::{
    query::Query,
    search::{CLOCK_SKEW, Found, HistoryError, Outcomes, Progress},
};
