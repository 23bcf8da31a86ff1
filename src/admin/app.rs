//! State that all HTTP requests share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    access::{self, Tokens},
    cached_reader::CachedReader,
    jobs::Jobs,
    recent_plans::RecentPlans,
    sessions::Sessions,
};
use crate::{
    dead_letters::{Audit, DeadLetters},
    http::Throttle,
    ops::WorkerHandles,
    settings::Settings,
};

/// State that all HTTP requests share.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    pub(super) throttle: Arc<Throttle>,
    pub(super) reader: CachedReader,
    pub(super) jobs: Jobs,
    pub(super) plans: RecentPlans,
    pub(super) handles: WorkerHandles,
    pub(super) trace_url: Option<Arc<str>>,
}

impl App {
    /// Jobs end when `stop` is cancelled.
    pub(super) fn new(settings: &Settings, handles: WorkerHandles, stop: &CancellationToken) -> Self {
        let admin = &settings.admin;
        let audit = Audit::new(admin.audit_log.as_deref());
        let dead_letters = DeadLetters::new(settings.rabbitmq.clone(), audit);
        let reader = CachedReader::new(dead_letters.clone());
        Self {
            tokens: Tokens::new(admin),
            sessions: Sessions::default(),
            throttle: Arc::new(access::throttle()),
            jobs: Jobs::new(dead_letters, reader.clone(), stop.clone()),
            reader,
            plans: RecentPlans::default(),
            handles,
            trace_url: admin.trace_url.as_deref().map(Arc::from),
        }
    }
}
