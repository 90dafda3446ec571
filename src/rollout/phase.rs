//! The phases of a rollout, and the reasons for which it is paused.

/// The phase of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutPhase {
    /// `percent` is 0, or the first step is not taken yet.
    Idle,
    /// `mode: manual`: the weight is the file's `percent`; gates are shown and decide nothing.
    Manual,
    /// The weight changed, and replicas are taking it up.
    Shifting,
    /// The step runs for its soak time; its requests form the cohort.
    Soaking,
    /// The cohort is closed; its outcomes are awaited and judged.
    Gating,
    /// `percent` is reached and its gates have passed; the gates keep judging.
    Healthy,
    /// Stopped until an operator resumes it, or until the reason of the pause is gone.
    Paused {
        /// Why it is paused.
        reason: PauseReason,
        /// The phase that it was in, and resumes to.
        resume_to: PausablePhase,
    },
    /// The weight went to 0, and not all replicas run that yet.
    RollingBack,
    /// Rolled back or aborted, and all replicas run weight 0; left by `retry`.
    Degraded,
}

/// A phase that can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausablePhase {
    /// [`RolloutPhase::Shifting`]
    Shifting,
    /// [`RolloutPhase::Soaking`]
    Soaking,
    /// [`RolloutPhase::Gating`]
    Gating,
    /// [`RolloutPhase::Healthy`]
    Healthy,
}

/// Why a rollout is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// An operator paused it.
    Operator,
    /// The step's gates have passed, and the step has `approval: manual`.
    AwaitingApproval,
    /// Replicas did not take up the weight within `converge`.
    NotConverged,
    /// The gates have been undecided for `max_wait`.
    Inconclusive,
    /// A source of evidence has been down for longer than its grace.
    MetricsUnavailable,
    /// The gates failed, and `on_fail` is `pause`.
    GatesFailed,
}

// === impl RolloutPhase ===

impl RolloutPhase {
    /// All phases but [`RolloutPhase::Paused`].
    pub const UNPAUSED: [Self; 8] = [
        Self::Idle,
        Self::Manual,
        Self::Shifting,
        Self::Soaking,
        Self::Gating,
        Self::Healthy,
        Self::RollingBack,
        Self::Degraded,
    ];

    /// The word in the API and in the stored record.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Manual => "manual",
            Self::Shifting => "shifting",
            Self::Soaking => "soaking",
            Self::Gating => "gating",
            Self::Healthy => "healthy",
            Self::Paused { .. } => "paused",
            Self::RollingBack => "rolling_back",
            Self::Degraded => "degraded",
        }
    }

    /// The phase as one that can be paused, and for a paused rollout the one that it resumes to;
    /// none where nothing is in progress.
    #[must_use]
    pub fn as_pausable(&self) -> Option<PausablePhase> {
        match self {
            Self::Shifting => Some(PausablePhase::Shifting),
            Self::Soaking => Some(PausablePhase::Soaking),
            Self::Gating => Some(PausablePhase::Gating),
            Self::Healthy => Some(PausablePhase::Healthy),
            Self::Paused { resume_to, .. } => Some(*resume_to),
            Self::Idle | Self::Manual | Self::RollingBack | Self::Degraded => None,
        }
    }

    /// Whether it was rolled back or aborted: only `retry` leaves that.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        matches!(self, Self::RollingBack | Self::Degraded)
    }

    /// Whether it is paused for that reason.
    #[must_use]
    pub fn is_paused_for(&self, wanted: PauseReason) -> bool {
        matches!(self, Self::Paused { reason, .. } if *reason == wanted)
    }
}

// === impl PausablePhase ===

impl From<PausablePhase> for RolloutPhase {
    fn from(phase: PausablePhase) -> Self {
        match phase {
            PausablePhase::Shifting => Self::Shifting,
            PausablePhase::Soaking => Self::Soaking,
            PausablePhase::Gating => Self::Gating,
            PausablePhase::Healthy => Self::Healthy,
        }
    }
}

// === impl PauseReason ===

impl PauseReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Operator,
        Self::AwaitingApproval,
        Self::NotConverged,
        Self::Inconclusive,
        Self::MetricsUnavailable,
        Self::GatesFailed,
    ];

    /// The word in the API and in the stored record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::AwaitingApproval => "awaiting_approval",
            Self::NotConverged => "not_converged",
            Self::Inconclusive => "inconclusive",
            Self::MetricsUnavailable => "metrics_unavailable",
            Self::GatesFailed => "failed",
        }
    }
}
