//! How many handlers wait for a confirm.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests wait for the confirm of their outcome, and how many may be in flight at all.
#[derive(Debug)]
pub(in crate::worker) struct HandlerSlots {
    awaiting_confirm: AtomicUsize,
    total: AtomicUsize,
}

impl Default for HandlerSlots {
    fn default() -> Self {
        Self { awaiting_confirm: AtomicUsize::new(0), total: AtomicUsize::new(usize::MAX) }
    }
}

impl HandlerSlots {
    pub(in crate::worker) fn set_total(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// How many requests wait for a confirm.
    pub(super) fn awaiting_confirm(&self) -> usize {
        self.awaiting_confirm.load(Ordering::Relaxed)
    }

    /// Counts one more request that waits, until the result is dropped.
    pub(super) fn await_confirm(&self) -> AwaitingConfirm<'_> {
        self.awaiting_confirm.fetch_add(1, Ordering::Relaxed);
        AwaitingConfirm(&self.awaiting_confirm)
    }

    /// Whether requests that wait for a confirm use half of the slots or more.
    pub(super) fn are_half_awaiting_confirm(&self) -> bool {
        self.awaiting_confirm() >= self.total.load(Ordering::Relaxed).div_ceil(2)
    }
}

/// Counts one request that waits for a confirm, until it is dropped.
#[must_use]
pub(super) struct AwaitingConfirm<'a>(&'a AtomicUsize);

impl Drop for AwaitingConfirm<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
