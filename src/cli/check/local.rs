//! What can be checked on this machine: files, and addresses to listen on.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use super::report::{Check, Report};
use crate::{cli::failure::Failure, dead_letters::Audit};

pub(super) async fn check_audit_log(path: Option<&Path>, report: &mut Report) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let name = "admin.audit_log";
    report.add(match Audit::new(Some(path)).check().await {
        Ok(()) => Check::pass(name, format!("{} can be written", path.display())),
        Err(error) => Check::fail(
            name,
            error.to_string(),
            "create its folder, and let this process's user write there: without the audit log, \
             dead letters cannot be shown, replayed or discarded",
        ),
    })
}

/// Binds the address for a moment.
pub(super) fn check_listen(
    key: &'static str,
    address: Option<SocketAddr>,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(address) = address else { return Ok(()) };
    report.add(match TcpListener::bind(address) {
        Ok(_listener) => Check::pass(key, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::note(
            key,
            format!("{address} is in use"),
            "by this very worker, if it runs already; otherwise it could not start",
        ),
        Err(error) => Check::fail(
            key,
            format!("cannot listen on {address}: {error}"),
            format!("set {key} to an address of this machine and a port that its user may use"),
        ),
    })
}
