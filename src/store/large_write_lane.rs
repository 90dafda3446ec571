//! The lane of large writes: a few at a time, within a budget of memory, in their order, so that a
//! burst of them neither fills the memory nor keeps the store busy for small calls.
//!
//! A large write may take as long as its size needs. That it is slow says nothing about whether
//! the store is alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// A write of this many bytes or more is large.
pub(super) const LARGE_WRITE_BYTES: usize = 128 * 1024;

/// How long a write waits for its turn before it is refused.
pub(super) const MAX_LANE_WAIT: Duration = Duration::from_mins(1);

/// The most large writes at a time.
const MAX_LARGE_WRITES: usize = 4;

/// The most bytes that are written at a time, KiB: while a write is under way there are about three
/// copies of it. A larger write is alone in the lane.
const LANE_BUDGET_KIB: u32 = 16 * 1024;

/// The slowest rate, bytes a second, at which a large write is not given up.
const MIN_WRITE_RATE: u64 = 1024 * 1024;

/// The rate, bytes a second, at which small calls wait for large writes that are under way: all of
/// them go through one disk or one server.
const SHARED_WRITE_RATE: u64 = 4 * 1024 * 1024;

/// The lane of one store.
pub(super) struct LargeWriteLane {
    slots: Semaphore,
    budget_kib: Semaphore,
    bytes_under_way: AtomicU64,
}

/// The right to make one large write.
pub(super) struct LanePermit<'a> {
    _slot: SemaphorePermit<'a>,
    _budget: SemaphorePermit<'a>,
    lane: &'a LargeWriteLane,
    bytes: u64,
}

// === impl LargeWriteLane ===

impl LargeWriteLane {
    /// Waits for the turn of a write of `bytes` bytes; none once the lane is closed, which it never
    /// is.
    pub(super) async fn enter(&self, bytes: usize) -> Option<LanePermit<'_>> {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).min(LANE_BUDGET_KIB);
        let slot = self.slots.acquire().await.ok()?;
        let budget = self.budget_kib.acquire_many(kib).await.ok()?;
        let bytes = bytes as u64;
        self.bytes_under_way.fetch_add(bytes, Ordering::Relaxed);
        Some(LanePermit { _slot: slot, _budget: budget, lane: self, bytes })
    }

    /// How much longer a small call may take because of the large writes that are under way.
    pub(super) fn delay_of_small_calls(&self) -> Duration {
        let bytes = self.bytes_under_way.load(Ordering::Relaxed);
        Duration::from_millis(bytes.saturating_mul(1000) / SHARED_WRITE_RATE)
    }
}

impl Default for LargeWriteLane {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(MAX_LARGE_WRITES),
            budget_kib: Semaphore::new(LANE_BUDGET_KIB as usize),
            bytes_under_way: AtomicU64::new(0),
        }
    }
}

impl Drop for LanePermit<'_> {
    fn drop(&mut self) {
        self.lane.bytes_under_way.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How much longer than a small call a write of `bytes` bytes may take.
pub(super) fn extra_write_time(bytes: usize) -> Duration {
    Duration::from_millis((bytes as u64).saturating_mul(1000) / MIN_WRITE_RATE)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn writes_enter_within_the_budget_and_in_their_order() {
        let lane = LargeWriteLane::default();
        let eight = 8 * 1024 * 1024;
        let first = lane.enter(eight).await.expect("open");
        let second = lane.enter(eight).await.expect("open");
        assert_eq!(lane.delay_of_small_calls(), Duration::from_secs(4));
        let (mut huge, mut small) =
            (Box::pin(lane.enter(usize::MAX / 2048)), Box::pin(lane.enter(LARGE_WRITE_BYTES)));
        assert!(huge.as_mut().now_or_never().is_none(), "there is no room");
        assert!(small.as_mut().now_or_never().is_none(), "it does not overtake");
        drop(first);
        assert!(huge.as_mut().now_or_never().is_none(), "one that is larger goes alone");
        drop(second);
        let huge = huge.await.expect("open");
        assert!(small.as_mut().now_or_never().is_none());
        drop(huge);
        drop(small.await.expect("open"));
        assert_eq!(lane.delay_of_small_calls(), Duration::ZERO);
    }
}
