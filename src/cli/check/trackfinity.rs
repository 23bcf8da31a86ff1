//! Which way calls to Trackfinity take, and whether it answers its ping.

use std::net::IpAddr;

use super::report::{Check, Report};
use crate::{
    breaker::Cause,
    cli::failure::Failure,
    policy::{Classification, Reason, Reply, classify},
    settings::Trackfinity,
    trackfinity::{BuildError, Client, Endpoint, Ends, Route},
};

pub(super) async fn check(settings: &Trackfinity, report: &mut Report) -> Result<(), Failure> {
    let client = match Client::new(settings) {
        Ok(client) => client,
        Err(error) => {
            let remedy = match error {
                BuildError::Route(_) => "correct it, or unset it",
                BuildError::Http(_) => {
                    "install the system's authorities (ca-certificates), or set trackfinity.ca_file"
                }
            };
            return report.add(Check::fail("Trackfinity", error.to_string(), remedy));
        }
    };
    let url = settings.base_url.endpoint(Endpoint::Ping.path());
    let (reply, ends) = client.ping_with_ends().await;
    report.add(route(client.route(), ends))?;
    let unreached = "check trackfinity.base_url, and that this machine reaches it";
    let (detail, remedy) = match &reply {
        Reply::Response(answer) if (200..=299).contains(&answer.status) => {
            return report.add(Check::pass("Trackfinity", format!("{url} answered {}", answer.status)));
        }
        Reply::Response(answer) => {
            let advice = match answer.status {
                500..=599 => "try again later",
                _ => fault_advice(&reply),
            };
            (format!("{url} answered {}", answer.status), advice)
        }
        Reply::Timeout if client.route().proxy().is_some() => (
            format!("{url}: no answer in time"),
            "check whether the proxy reaches Trackfinity, and trackfinity.base_url",
        ),
        Reply::Timeout => (format!("{url}: no answer in time"), unreached),
        Reply::NoTunnel { detail, .. } => (format!("{url}: {detail}"), fault_advice(&reply)),
        Reply::Certificate(fault) => (
            format!("{url}: the certificate is not accepted: {fault}"),
            "check trackfinity.base_url; if an authority of your own signed the certificate, name it in trackfinity.ca_file",
        ),
        Reply::Connection(error) => (format!("{url}: {error}"), unreached),
    };
    report.add(Check::fail("Trackfinity", detail, remedy))
}

/// What the breaker would advise.
fn fault_advice(reply: &Reply) -> &'static str {
    match (classify(reply), reply) {
        (Classification::Transient(..), Reply::NoTunnel { status: None, .. }) => {
            "check that the proxy runs, and its address in trackfinity.proxy or HTTPS_PROXY"
        }
        (Classification::Transient(..), Reply::NoTunnel { .. }) => {
            "check whether the proxy reaches Trackfinity"
        }
        (Classification::EndpointFault(reason), _) => Cause::EndpointFault(reason).advice(),
        (_, reply) => Cause::EndpointFault(Reason::Http(reply.status().unwrap_or_default())).advice(),
    }
}

/// Which way calls take, and which address Trackfinity sees, as far as this machine can know.
fn route(route: &Route, ends: Option<Ends>) -> Check {
    let name = "route to Trackfinity";
    let seen = "must be in the install's ADMIN_API_ALLOWED_IPS";
    match (route.proxy(), ends) {
        (Some(_), _) => Check::note(
            name,
            route.to_string(),
            format!(
                "Trackfinity sees the address with which the proxy calls others, not one of this machine: it {seen}. \
                 Those who run the proxy know it"
            ),
        ),
        (None, None) => Check::pass(name, route.to_string()),
        (None, Some(Ends { local, remote })) if local.is_loopback() || local == remote => {
            Check::pass(name, format!("{route}; it is on this machine"))
        }
        (None, Some(Ends { local, remote })) if is_private(local) && !is_private(remote) => Check::note(
            name,
            format!("{route}; this machine calls from {local}, a private address"),
            format!(
                "Trackfinity sees the address of a NAT on the way, which this machine cannot know. That address {seen}: \
                 ask those who run the network"
            ),
        ),
        (None, Some(Ends { local, .. })) => Check::note(
            name,
            format!("{route}; this machine calls from {local}"),
            format!(
                "Trackfinity sees this address, unless a NAT or a proxy on the way replaces it. What it sees {seen}"
            ),
        ),
    }
}

/// Whether the internet has no route to the address.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // 100.64.0.0/10 is for providers' own networks (RFC 6598).
            address.is_private() || address.is_link_local() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trackfinity::Direct;

    fn direct(local: &str, remote: &str) -> String {
        let [local, remote] = [local, remote].map(|address| address.parse().expect("an address"));
        let check = route(&Route::Direct(Direct::NoProxy), Some(Ends { local, remote }));
        serde_json::to_string(&check).expect("JSON")
    }

    #[test]
    fn a_direct_route_says_which_address_the_other_side_sees_as_far_as_it_can_be_known() {
        for (local, remote) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")] {
            assert!(direct(local, remote).contains("direct; it is on this machine"), "{local}");
        }
        for local in ["10.1.2.3", "172.16.0.9", "192.168.1.1", "100.64.0.1", "169.254.1.1"] {
            let text = direct(local, "93.184.216.34");
            assert!(text.contains(&format!("from {local}, a private address")), "{text}");
            assert!(
                text.contains("the address of a NAT on the way, which this machine cannot know"),
                "{text}"
            );
        }
        assert!(direct("fd00::1", "2001:db8::1").contains("of a NAT on the way"));
        // Both are in the same private network, or both are public.
        for (local, remote) in
            [("10.1.2.3", "10.9.9.9"), ("100.128.0.1", "93.184.216.34"), ("172.32.0.1", "1.1.1.1")]
        {
            let text = direct(local, remote);
            assert!(text.contains(&format!("this machine calls from {local}\"")), "{text}");
            assert!(text.contains("Trackfinity sees this address, unless a NAT"), "{text}");
        }
    }
}
