//! Counts the requests that can still crash the worker: those that are being decoded or called for.
//! Afterwards a request is only published, which cannot crash the worker.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Counts the requests that are being decoded or called for; clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct CallGauge(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    fell: Notify,
}

impl CallGauge {
    /// Counts one more, until the guard is dropped.
    pub(super) fn enter(&self) -> CallGuard {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        CallGuard(Arc::clone(&self.0))
    }

    pub(super) fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Waits until the count has fallen. May return once although it has not.
    pub(super) async fn fell(&self) {
        self.0.fell.notified().await;
    }
}

/// One request that is being decoded or called for.
#[derive(Debug)]
pub(super) struct CallGuard(Arc<Inner>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.fell.notify_one();
    }
}
