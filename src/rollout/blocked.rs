//! Why soak time and gates of a rollout stand still although it is not paused.
//!
//! A reason is a code with its data. Decisions compare codes; text comes from
//! [`BlockedReason::render`] alone, so that a reworded sentence changes no decision.

use super::format::format_share;
use crate::cohort_hash::Weight;

/// Why soak time and gates stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedReason {
    /// `percent` in the file is 0: no request goes async. A later `percent` restarts the step.
    PercentZero,
    /// The store was unreachable for that many requests since the evaluation before.
    StoreUnavailable {
        /// Requests that would have been canaried and were served sync.
        requests: u64,
    },
    /// Replicas do not run the current weight, or their files differ.
    ReplicasLagging {
        /// The replicas, each as `name (cause)`, for people.
        replicas: Vec<String>,
    },
    /// A gate's source of evidence does not answer or answers nonsense.
    SourceError {
        /// The gate's name.
        gate: String,
        /// The gate's report, for people.
        explanation: String,
    },
    /// Recent calls that were assigned to the async path were served sync, since their tasks would
    /// have started too late.
    Saturated {
        /// These calls.
        calls: u64,
        /// All recent calls that were assigned to the async path.
        assigned: u64,
    },
    /// Recent calls that were assigned to the async path were served sync, since no consumer of the
    /// topic was live.
    NoWorker {
        /// These calls.
        calls: u64,
        /// All recent calls that were assigned to the async path.
        assigned: u64,
    },
    /// Requests are not split as the weight says.
    SampleRatio {
        /// Requests on another path than the bucket of their sticky key says, since the evaluation
        /// before.
        mismatched: u64,
        /// Requests of the step that were assigned to the async path at random.
        async_random: u64,
        /// Requests of the step that were assigned at random.
        random_requests: u64,
    },
    /// A stored reason that this release has no code for. It blocks, and decides nothing else.
    Unrecognized {
        /// The reason, for people.
        text: String,
        /// The stored reason as JSON, to be written back as it was; none in a record of an earlier
        /// release, which has the text alone.
        stored_json: Option<String>,
    },
}

// === impl BlockedReason ===

impl BlockedReason {
    /// The code, in the stored record and in the API.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PercentZero => "percent_zero",
            Self::StoreUnavailable { .. } => "store_unavailable",
            Self::ReplicasLagging { .. } => "replicas_lagging",
            Self::SourceError { .. } => "source_error",
            Self::Saturated { .. } => "saturated",
            Self::NoWorker { .. } => "no_worker",
            Self::SampleRatio { .. } => "sample_ratio",
            Self::Unrecognized { .. } => "unrecognized",
        }
    }

    /// The reason as a sentence for people, of a rollout at `weight`.
    #[must_use]
    pub fn render(&self, weight: Weight) -> String {
        match self {
            Self::PercentZero => "percent in the file is 0".to_owned(),
            Self::StoreUnavailable { requests } => format!(
                "the store was unreachable for {requests} requests since the last evaluation"
            ),
            Self::ReplicasLagging { replicas } => {
                format!("not all replicas run {weight}: {}", replicas.join(", "))
            }
            Self::SourceError { explanation, .. } => explanation.clone(),
            Self::Saturated { calls, assigned } => {
                describe_calls_without_capacity(*calls, *assigned, "all slots were busy")
            }
            Self::NoWorker { calls, assigned } => {
                describe_calls_without_capacity(*calls, *assigned, "no worker was live")
            }
            Self::SampleRatio { mismatched: 0, async_random, random_requests } => format!(
                "{async_random} of {random_requests} calls without a sticky key ({}) were \
                 assigned to the async path at {weight}, which chance does not explain",
                share_of(*async_random, *random_requests)
            ),
            Self::SampleRatio { mismatched, .. } => format!(
                "{mismatched} calls since the last evaluation were assigned to another path than \
                 the bucket of their sticky key has at {weight}"
            ),
            Self::Unrecognized { text, .. } => text.clone(),
        }
    }
}

fn describe_calls_without_capacity(calls: u64, assigned: u64, why: &str) -> String {
    let share = share_of(calls, assigned);
    format!(
        "{calls} of the last {assigned} calls assigned to the async path ({share}) were served \
         sync, since {why}"
    )
}

fn share_of(calls: u64, all: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // counts of requests stay below 2^53
    let share = calls as f64 / all.max(1) as f64;
    format_share(share)
}
