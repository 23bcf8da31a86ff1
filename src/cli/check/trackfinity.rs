//! Whether Trackfinity answers its ping.

use super::report::{Check, Report};
use crate::{
    breaker::Cause,
    cli::failure::Failure,
    policy::{Reason, Reply},
    settings::Trackfinity,
    trackfinity::{Client, Endpoint},
};

pub(super) async fn check(settings: &Trackfinity, report: &mut Report) -> Result<(), Failure> {
    let client = Client::new(settings).map_err(anyhow::Error::from)?;
    let url = settings.base_url.endpoint(Endpoint::Ping.path());
    let unreached = "check trackfinity.base_url, and that this machine reaches it";
    let (detail, remedy) = match client.ping(None).await {
        Reply::Response(answer) if (200..=299).contains(&answer.status) => {
            return report.add(Check::pass("Trackfinity", format!("{url} answered {}", answer.status)));
        }
        Reply::Response(answer) => {
            let advice = match answer.status {
                500..=599 => "try again later",
                _ => Cause::EndpointFault(Reason::Http(answer.status)).advice(),
            };
            (format!("{url} answered {}", answer.status), advice)
        }
        Reply::Timeout => (format!("{url}: no answer in time"), unreached),
        Reply::Connection(error) => (format!("{url}: {error}"), unreached),
    };
    report.add(Check::fail("Trackfinity", detail, remedy))
}
