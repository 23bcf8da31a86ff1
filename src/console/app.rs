//! State that all HTTP requests share.

use std::sync::Arc;

use super::{
    access::{self, Tokens},
    cached_reader::CachedReader,
    jobs::Jobs,
    link::Link,
    log::ConsoleLog,
    queues::QueueReader,
    recent::Recent,
    search::Search,
};
use crate::{
    broker::{Connector, Topology},
    dead_letters::{Audit, DeadLetters},
    http::Throttle,
    settings::ConsoleSettings,
};

/// State that all HTTP requests share.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) tokens: Tokens,
    pub(super) throttle: Arc<Throttle>,
    pub(super) reader: CachedReader,
    pub(super) jobs: Jobs,
    pub(super) log: ConsoleLog,
    pub(super) link: Link,
    pub(super) connector: Connector,
    pub(super) queues: QueueReader,
    /// None if outcomes are not kept.
    pub(super) recent: Option<Recent>,
    pub(super) search: Search,
    pub(super) trace_url: Option<Arc<str>>,
    pub(super) metrics_url: Option<Arc<str>>,
}

impl App {
    pub(super) fn new(settings: &ConsoleSettings) -> Self {
        let (console, rabbitmq) = (&settings.console, &settings.rabbitmq);
        let audit = Audit::new(console.audit_log.as_deref());
        let dead_letters = DeadLetters::new(rabbitmq.clone(), audit);
        let reader = CachedReader::new(dead_letters.clone());
        let topology = Topology::new(&rabbitmq.topology_prefix).with_history(&rabbitmq.history);
        // One for all, so that they share one token.
        let connector = dead_letters.connector().clone();
        let log = ConsoleLog::new(connector.clone(), topology.console_log());
        let recent = rabbitmq.history.enabled.then(|| Recent::new(connector.clone(), topology.history()));
        let link = Link::new(connector.clone());
        Self {
            tokens: Tokens::new(console),
            throttle: Arc::new(access::throttle()),
            jobs: Jobs::new(dead_letters, reader.clone(), log.clone()),
            search: Search::new(reader.clone(), recent.clone(), log.clone()),
            recent,
            reader,
            queues: QueueReader::new(link.clone(), topology),
            link,
            connector,
            log,
            trace_url: console.trace_url.as_deref().map(Arc::from),
            metrics_url: console.metrics_url.as_deref().map(Arc::from),
        }
    }
}
