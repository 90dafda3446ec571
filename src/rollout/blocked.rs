//! Why soak time and gates of a rollout stand still although it is not paused.
//!
//! A reason is a code with its data. Decisions compare codes; text comes from
//! [`BlockedReason::render`] alone, so that a reworded sentence changes no decision.

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
            Self::Unrecognized { text, .. } => text.clone(),
        }
    }
}
