//! Who may use the gateway: a directory with a file for each client, named after it.
//!
//! A line of a file is a secret. `whsec_…` verifies signed requests (Standard Webhooks); any other
//! line is a bearer token. All lines are valid at the same time, so that a secret can be replaced
//! without a gap. `# rate=20` limits the client's requests per second. Other lines with `#` are
//! comments.
//!
//! The directory is read again while the program runs. Only digests of tokens are kept.

mod access;
mod client;
mod credentials;
mod directory;
mod error;
mod file;
mod registry;
mod signature;
#[cfg(test)]
mod tests;

pub use self::{
    access::{Clients, Denied, Identified, Signed},
    client::Client,
    error::{ClientFault, ClientsError},
};
