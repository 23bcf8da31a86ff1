//! The last plans made on the page.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::dead_letters::DeadLetterSummary;

/// The most plans whose summaries are in memory.
const MAX_RECENT_PLANS: usize = 20;

/// The last plans made on the page. RabbitMQ stores the plans, but not the summaries of their
/// dead letters.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentPlans(Arc<Mutex<VecDeque<RecentPlan>>>);

#[derive(Clone, Debug)]
pub(super) struct RecentPlan {
    pub(super) digest: String,
    pub(super) dead_letters: Arc<[DeadLetterSummary]>,
    pub(super) note: Option<String>,
}

impl RecentPlans {
    pub(super) fn insert(&self, plan: RecentPlan) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|known| known.digest != plan.digest);
        plans.push_front(plan);
        plans.truncate(MAX_RECENT_PLANS);
    }

    pub(super) fn find(&self, digest: &str) -> Option<RecentPlan> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.iter().find(|known| known.digest == digest).cloned()
    }
}
