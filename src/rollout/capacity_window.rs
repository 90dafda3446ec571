//! Whether the topic's workers keep up with what the current step assigns to the async path.
//!
//! A canaried call that the workers cannot start soon is served sync: it is neither a failure nor
//! evidence. A rollout with many such calls is capped by its capacity: a higher weight would send
//! no more calls to the async path, so that the step does not climb, and is not rolled back.
//!
//! The window has the last few slots of the step, each of a third of the soak, of at most five
//! minutes and of at least a hundred calls. It holds the step while at least three of its calls and
//! more than 1 % were served sync for want of capacity. It forgets: once there is capacity, the
//! step goes on after a few slots.

use std::time::Duration;

use super::blocked::BlockedReason;
use super::evidence::RolloutEvidence;
use crate::metrics::FallbackReason;

/// How many slots are kept, the one that is being filled included.
const KEPT_SLOTS: usize = 3;
/// The longest time that a slot is filled for, if it has enough calls.
const MAX_SLOT_LENGTH: Duration = Duration::from_mins(5);
/// How many assigned calls a slot has at least.
const MIN_SLOT_CALLS: u64 = 100;
/// How many calls without capacity hold a step, at least.
const MIN_CALLS_WITHOUT_CAPACITY: u64 = 3;
/// Up to which share of the assigned calls, percent, may lack capacity.
const MAX_PERCENT_WITHOUT_CAPACITY: u64 = 1;

/// The recent calls of a step that were assigned to the async path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityWindow {
    /// Oldest first.
    slots: Vec<CapacitySlot>,
}

/// A part of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacitySlot {
    /// How long it has been filled for.
    pub elapsed: Duration,
    /// Its calls.
    pub counts: CapacityCounts,
}

/// Calls that were assigned to the async path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityCounts {
    /// All of them.
    pub assigned: u64,
    /// Those that were served sync since their task would have started too late.
    pub saturated: u64,
    /// Those that were served sync since no consumer of the topic was live.
    pub without_worker: u64,
}

// === impl CapacityWindow ===

impl CapacityWindow {
    /// The window with these slots, oldest first.
    #[must_use]
    pub fn from_slots(slots: Vec<CapacitySlot>) -> Self {
        Self { slots }
    }

    /// The slots, oldest first.
    #[must_use]
    pub fn slots(&self) -> &[CapacitySlot] {
        &self.slots
    }

    /// Adds the calls of `elapsed`, of a step that soaks for `soak`.
    pub fn record_calls(&mut self, counts: CapacityCounts, elapsed: Duration, soak: Duration) {
        let length = (soak / 3).min(MAX_SLOT_LENGTH);
        let is_full =
            |slot: &CapacitySlot| slot.elapsed >= length && slot.counts.assigned >= MIN_SLOT_CALLS;
        if self.slots.last().is_none_or(is_full) {
            self.slots.push(CapacitySlot::default());
        }
        if self.slots.len() > KEPT_SLOTS {
            self.slots.remove(0);
        }
        if let Some(slot) = self.slots.last_mut() {
            slot.elapsed += elapsed;
            slot.counts.add(counts);
        }
    }

    /// Why the step does not climb, if its workers do not keep up.
    #[must_use]
    pub fn find_blocked_reason(&self) -> Option<BlockedReason> {
        let mut sum = CapacityCounts::default();
        self.slots.iter().for_each(|slot| sum.add(slot.counts));
        let CapacityCounts { assigned, saturated, without_worker } = sum;
        let without_capacity = saturated + without_worker;
        if without_capacity < MIN_CALLS_WITHOUT_CAPACITY
            || without_capacity * 100 <= assigned * MAX_PERCENT_WITHOUT_CAPACITY
        {
            return None;
        }
        Some(if without_worker > saturated {
            BlockedReason::NoWorker { calls: without_worker, assigned }
        } else {
            BlockedReason::Saturated { calls: saturated, assigned }
        })
    }
}

// === impl CapacityCounts ===

impl CapacityCounts {
    fn add(&mut self, more: Self) {
        self.assigned += more.assigned;
        self.saturated += more.saturated;
        self.without_worker += more.without_worker;
    }
}

impl From<&RolloutEvidence> for CapacityCounts {
    fn from(evidence: &RolloutEvidence) -> Self {
        Self {
            assigned: evidence.assigned_to_async(),
            saturated: evidence.fallbacks.count_for(FallbackReason::Saturated),
            without_worker: evidence.fallbacks.count_for(FallbackReason::NoWorker),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const SOAK: Duration = Duration::from_mins(30);

    fn counts(assigned: u64, saturated: u64, without_worker: u64) -> CapacityCounts {
        CapacityCounts { assigned, saturated, without_worker }
    }

    fn window(calls: CapacityCounts) -> CapacityWindow {
        let mut window = CapacityWindow::default();
        window.record_calls(calls, MINUTE, SOAK);
        window
    }

    #[test]
    fn a_step_is_held_by_more_than_one_percent_and_at_least_three_calls_without_capacity() {
        let held = |assigned, saturated, without_worker| {
            window(counts(assigned, saturated, without_worker)).find_blocked_reason()
        };
        assert_eq!(held(10, 2, 0), None, "too few to tell");
        assert_eq!(held(300, 3, 0), None);
        assert_eq!(held(299, 3, 0), Some(BlockedReason::Saturated { calls: 3, assigned: 299 }));
        assert_eq!(held(299, 1, 2), Some(BlockedReason::NoWorker { calls: 2, assigned: 299 }));
        assert_eq!(held(0, 0, 0), None);
    }

    #[test]
    fn a_busy_hour_holds_a_step_for_a_few_slots_and_not_for_a_day() {
        let mut window = window(counts(6_000, 2_000, 0));
        let mut minutes = 0;
        while window.find_blocked_reason().is_some() {
            window.record_calls(counts(100, 0, 0), MINUTE, SOAK);
            minutes += 1;
        }
        assert!((10..=20).contains(&minutes), "{minutes}");
    }

    #[test]
    fn with_few_calls_the_window_is_longer() {
        let mut window = window(counts(60, 30, 0));
        for _ in 0..600 {
            window.record_calls(counts(0, 0, 0), MINUTE, SOAK);
        }
        assert!(window.find_blocked_reason().is_some(), "no call shows that there is capacity");
        assert_eq!(window.slots().len(), 1);
    }
}
