//! The window of recent calls and their capacity, in the stored form.

use std::time::Duration;

use crate::rollout::capacity_window::{CapacityCounts, CapacitySlot, CapacityWindow};

/// A slot: milliseconds, assigned calls, saturated calls, calls without a worker.
pub(super) type StoredCapacitySlot = [u64; 4];

pub(super) fn capacity_to_stored(window: &CapacityWindow) -> Vec<StoredCapacitySlot> {
    let stored = |slot: &CapacitySlot| {
        let CapacityCounts { assigned, saturated, without_worker } = slot.counts;
        let millis = u64::try_from(slot.elapsed.as_millis()).unwrap_or(u64::MAX);
        [millis, assigned, saturated, without_worker]
    };
    window.slots().iter().map(stored).collect()
}

pub(super) fn capacity_from_stored(stored: &[StoredCapacitySlot]) -> CapacityWindow {
    let slot = |stored: &StoredCapacitySlot| {
        let [millis, assigned, saturated, without_worker] = *stored;
        CapacitySlot {
            elapsed: Duration::from_millis(millis),
            counts: CapacityCounts { assigned, saturated, without_worker },
        }
    };
    CapacityWindow::from_slots(stored.iter().map(slot).collect())
}
