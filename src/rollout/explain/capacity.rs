//! Why a step does not climb whose calls find no capacity on the async path, or are not split as
//! its weight says.

use super::input::{ExplanationInput, QueueLoad};
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::cohort_hash::CLIENT_GROUPS;
use crate::rollout::blocked::BlockedReason;
use crate::rollout::served_share::count_groups_on_both_paths;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    /// The explanation of a rollout that is capped by its capacity; none for any other.
    pub(super) fn explain_lacking_capacity(&self) -> Option<WaitReason> {
        let reason = self.state.blocked_reason.as_ref()?;
        let next = match reason {
            BlockedReason::Saturated { .. } => NextAction::AddSlots,
            BlockedReason::NoWorker { .. } => NextAction::StartWorker,
            _ => return None,
        };
        let load = self.queue_load.map(QueueLoad::describe).unwrap_or_default();
        let text = format!(
            "{}{load}; the weight is not raised while this holds, and not lowered for it",
            reason.render(self.state.weight)
        );
        Some(WaitReason::new(WaitingFor::Capacity, next, text))
    }

    /// The explanation of a rollout whose requests are not split as its weight says.
    pub(super) fn explain_split(&self) -> Option<WaitReason> {
        let reason = self.state.blocked_reason.as_ref()?;
        let cure = match reason {
            BlockedReason::SampleRatio { mismatched: 0, .. } => {
                "compare the replicas' weights; `set-weight` and `resume` start the step again"
            }
            BlockedReason::SampleRatio { .. } => {
                "compare the weights and files of the replicas; it goes on once none is"
            }
            _ => return None,
        };
        let groups = self.cohort_evidence.map(|evidence| {
            let groups = count_groups_on_both_paths(evidence);
            format!(" ({groups} of {CLIENT_GROUPS} client groups are on both paths)")
        });
        let text = format!(
            "{}{}; soak and gates stand still: {cure}",
            reason.render(self.state.weight),
            groups.unwrap_or_default()
        );
        Some(WaitReason::new(WaitingFor::Split, NextAction::CompareReplicas, text))
    }
}

// === impl QueueLoad ===

impl QueueLoad {
    fn describe(self) -> String {
        let Self { slots, waiting } = self;
        match (slots, waiting) {
            (0, 0) => " (now: no slot)".to_owned(),
            (0, waiting) => format!(" (now: no slot, {waiting} waiting)"),
            (slots, 0) => format!(" (now: {slots} slots, none waiting)"),
            (slots, waiting) => format!(" (now: {slots} of {slots} slots busy, {waiting} waiting)"),
        }
    }
}
