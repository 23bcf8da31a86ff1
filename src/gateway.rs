//! Requests over HTTP.

pub mod clients;
