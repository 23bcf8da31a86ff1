//! Why calls are paused, and what to do about it.

use std::fmt;

use crate::policy::{CertificateFault, Reason};

/// Why calls are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The key, the allow-list or the address is wrong.
    EndpointFault(Reason),
    /// Transient failures of different requests in a row.
    Failures(Reason),
    /// Trackfinity asked for a pause with a 429.
    RateLimited,
}

/// A cause without its reason, by which metrics count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CauseKind {
    EndpointFault,
    Failures,
    RateLimited,
}

impl CauseKind {
    pub const ALL: [Self; 3] = [Self::EndpointFault, Self::Failures, Self::RateLimited];

    /// Its name in logs, metrics and the ops endpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFault => "endpoint_fault",
            Self::Failures => "failures",
            Self::RateLimited => "rate_limited",
        }
    }
}

impl Cause {
    pub fn kind(self) -> CauseKind {
        match self {
            Self::EndpointFault(_) => CauseKind::EndpointFault,
            Self::Failures(_) => CauseKind::Failures,
            Self::RateLimited => CauseKind::RateLimited,
        }
    }

    /// Its kind, as logs and the ops endpoints name it.
    pub fn as_str(self) -> &'static str {
        self.kind().as_str()
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::EndpointFault(Reason::Http(401 | 403)) => {
                "Check trackfinity.api_key, trackfinity.api_username and the install's \
                 ADMIN_API_ALLOWED_IPS"
            }
            Self::EndpointFault(Reason::Http(407)) => "Check the HTTP proxy and its credentials",
            Self::EndpointFault(Reason::ProxyRefused(401 | 407)) => {
                "Check the user and the password in trackfinity.proxy, or in HTTPS_PROXY"
            }
            Self::EndpointFault(Reason::ProxyRefused(403)) => {
                "Let the proxy's rules allow CONNECT to Trackfinity's host and port, and from this worker"
            }
            Self::EndpointFault(Reason::ProxyRefused(_)) => {
                "Check that trackfinity.proxy, or HTTPS_PROXY, names an HTTP proxy that allows CONNECT"
            }
            Self::EndpointFault(Reason::Http(300..=399)) => {
                "Check trackfinity.base_url: redirects are never followed, as they would carry the \
                 key elsewhere"
            }
            Self::EndpointFault(_) => {
                "Check trackfinity.base_url: nothing there answers as Trackfinity's API does"
            }
            Self::Failures(Reason::Certificate(CertificateFault::UnknownIssuer)) => {
                "Check trackfinity.ca_file, and whether a proxy opens TLS to inspect it: calls resume by themselves"
            }
            Self::Failures(Reason::Certificate(_)) => {
                "Check trackfinity.base_url and the certificate there: calls resume by themselves"
            }
            Self::Failures(Reason::ProxyConnection) => {
                "Check the proxy, and its address in trackfinity.proxy or HTTPS_PROXY: calls resume by \
                 themselves"
            }
            Self::Failures(Reason::ProxyRefused(_)) => {
                "Check whether the proxy reaches Trackfinity: calls resume by themselves"
            }
            Self::Failures(_) => {
                "If Trackfinity is down, wait until it is repaired: calls resume by themselves"
            }
            Self::RateLimited => "If it happens often, set worker.rate_limit",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointFault(reason) | Self::Failures(reason) => f.write_str(&reason.describe()),
            Self::RateLimited => f.write_str(&Reason::RateLimited.describe()),
        }
    }
}
