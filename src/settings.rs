//! The settings: `config/default.toml` (compiled in), then each file, then the environment; later
//! wins.
//!
//! A [`Settings`] is valid by its types. Loading reports every fault at once, each with its key,
//! its source and what to do. No fault, `Debug` or description ever shows a secret.

mod broker_urls;
mod certificates;
mod faults;
mod jwt;
mod keys;
mod layers;
mod load;
mod login_files;
mod proxy_url;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
mod values;

pub use self::{
    broker_urls::{BrokerUrls, BrokerUrlsError},
    certificates::{CertificateInfo, certificates, check_certificates, private_key},
    faults::{Fault, Faults},
    jwt::{TokenInfo, check_jwt, token_in},
    layers::DEFAULTS,
    load::{BrokerSettings, ConsoleSettings, GatewaySettings, Settings, environment},
    proxy_url::ProxyUrl,
    sections::{Broker, Console, Gateway, History, Log, Ops, Results, Trackfinity, Worker},
    values::{BaseUrl, Concurrency, RateLimit, RequestLog, TopologyPrefix},
};
