//! What can be checked on this machine: files, and addresses to listen on.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use super::report::{Check, Report};
use crate::{
    cli::failure::Failure,
    dead_letters::Audit,
    fips,
    gateway::{Clients, ClientsError},
};

/// In a build with the feature: the program would not have started without the module.
pub(super) fn check_fips(report: &mut Report) -> Result<(), Failure> {
    if !fips::IS_ON {
        return Ok(());
    }
    report.add(Check::pass("FIPS", "TLS to RabbitMQ, Trackfinity and OTLP uses the FIPS module of AWS-LC"))
}

pub(super) async fn check_audit_log(path: Option<&Path>, report: &mut Report) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let name = "console.audit_log";
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

/// Reads the files of the gateway's clients. Each fault is a check of its own.
pub(super) fn check_clients(directory: Option<&Path>, report: &mut Report) -> Result<(), Failure> {
    let name = "gateway.clients_dir";
    let Some(directory) = directory else {
        return report.add(Check::note(
            name,
            "not set: everyone on this machine may send requests, as the client local",
            "for others, name a directory with a file for each client",
        ));
    };
    match Clients::open(directory) {
        Ok(clients) => {
            let names = clients.names();
            let count = names.len();
            let noun = if count == 1 { "client" } else { "clients" };
            report.add(Check::pass(name, format!("{count} {noun}: {}", names.join(", "))))
        }
        Err(ClientsError { faults, .. }) => faults.into_iter().try_for_each(|fault| {
            let file = fault.file.map(|file| format!(", {file}")).unwrap_or_default();
            let line = fault.line.map(|line| format!(", line {line}")).unwrap_or_default();
            report.add(Check::fail(format!("{name}{file}{line}"), fault.wrong, fault.remedy))
        }),
    }
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
            format!("by this very {}, if it runs already; otherwise it could not start", report.role()),
        ),
        Err(error) => Check::fail(
            key,
            format!("cannot listen on {address}: {error}"),
            format!("set {key} to an address of this machine and a port that its user may use"),
        ),
    })
}
