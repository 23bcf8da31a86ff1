//! How the program logs in to RabbitMQ, and until when that works.

use std::time::Duration;

use lapin::uri::AMQPUri;

use super::report::{Check, Report};
use crate::{
    broker::{Connector, Login},
    cli::failure::Failure,
    message::Timestamp,
};

/// Within this time before a certificate expires, it is worth a note.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// One line for each way to log in.
pub(super) fn check(connector: &Connector, urls: &[AMQPUri], report: &mut Report) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for url in urls {
        let login = connector.login(url);
        if !seen.contains(&login) {
            report.add(line("login to RabbitMQ", &login))?;
            seen.push(login);
        }
        // With a password, TLS may need a certificate all the same.
        if let Some(certificate) =
            connector.client_certificate(url).map(|info| Login::Certificate(Some(info)))
            && !seen.contains(&certificate)
        {
            report.add(line("client certificate for RabbitMQ", &certificate))?;
            seen.push(certificate);
        }
    }
    Ok(())
}

fn line(name: &str, login: &Login) -> Check {
    match login {
        Login::Token(token) if token.has_expired() => {
            Check::fail(name, format!("with {login}"), "put a new token into the file: see who issues it")
        }
        Login::Token(token) if token.expires_at.is_none() => Check::note(
            name,
            format!("with {login}"),
            "a token that never expires is as good as a password for who gets hold of it; some versions of RabbitMQ refuse it",
        ),
        Login::Certificate(Some(certificate)) if certificate.has_expired() => Check::fail(
            name,
            format!("with {login}"),
            "put a new certificate into the file, and its key beside it",
        ),
        Login::Certificate(Some(certificate)) if certificate.is_not_valid_yet() => Check::fail(
            name,
            format!("with {login}"),
            "correct this machine's clock, or put a certificate into the file that is valid now",
        ),
        Login::Certificate(Some(certificate)) if certificate.expires_at < Timestamp::now().plus(SOON) => {
            Check::note(
                name,
                format!("with {login}"),
                "renew it before that; the next connection uses the new one",
            )
        }
        login => Check::pass(name, format!("with {login}")),
    }
}
