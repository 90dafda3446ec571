//! Limits on the shadow copies that one thread has in progress.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::proxy::http::collect::{BodyBudget, BodyPermit};

/// Shadow copies that one thread has in progress at a time.
const MAX_COPIES: usize = 256;
/// Bytes of bodies that these copies hold at a time: less than the requests of clients may.
const MAX_COPIED_BYTES: usize = 64 * 1024 * 1024;
/// Pairs of answers that are compared at a time, per thread: both are in memory whole.
const MAX_COMPARISONS: usize = 2;

/// Limits on the shadow copies of one thread: how many, how many bytes, how many comparisons.
pub(crate) struct ShadowLimits {
    body_budget: BodyBudget,
    copy_slots: Arc<Semaphore>,
    comparison_slots: Arc<Semaphore>,
}

// === impl ShadowLimits ===

impl Default for ShadowLimits {
    fn default() -> Self {
        Self {
            body_budget: BodyBudget::new(MAX_COPIED_BYTES),
            copy_slots: Arc::new(Semaphore::new(MAX_COPIES)),
            comparison_slots: Arc::new(Semaphore::new(MAX_COMPARISONS)),
        }
    }
}

impl ShadowLimits {
    /// A slot for one more copy; `None` if all are taken.
    pub(crate) fn acquire_copy_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.copy_slots.clone().try_acquire_owned().ok()
    }

    /// An empty permit for one body of a copy.
    pub(crate) fn new_body_permit(&self) -> BodyPermit {
        self.body_budget.new_permit()
    }

    /// The slots of which a comparison takes one while it runs.
    pub(crate) fn comparison_slots(&self) -> Arc<Semaphore> {
        self.comparison_slots.clone()
    }
}
