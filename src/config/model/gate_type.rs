//! The types of gates with their names: the values of `gates.type`, which are also used in the API
//! and in stored reports.

/// The type of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateType {
    /// `error_ratio`
    ErrorRatio,
    /// `client_error_ratio`
    ClientErrorRatio,
    /// `deferred_ratio`
    DeferredRatio,
    /// `slow_ratio`
    SlowRatio,
    /// `shadow_mismatch`
    ShadowMismatch,
    /// `queue_oldest`
    QueueOldest,
    /// `queue_depth`
    QueueDepth,
    /// `prometheus`
    Prometheus,
}

// === impl GateType ===

impl GateType {
    /// Every type.
    pub const ALL: [Self; 8] = [
        Self::ErrorRatio,
        Self::ClientErrorRatio,
        Self::DeferredRatio,
        Self::SlowRatio,
        Self::ShadowMismatch,
        Self::QueueOldest,
        Self::QueueDepth,
        Self::Prometheus,
    ];

    /// The name of the type in the file, in the API and in stored reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRatio => "error_ratio",
            Self::ClientErrorRatio => "client_error_ratio",
            Self::DeferredRatio => "deferred_ratio",
            Self::SlowRatio => "slow_ratio",
            Self::ShadowMismatch => "shadow_mismatch",
            Self::QueueOldest => "queue_oldest",
            Self::QueueDepth => "queue_depth",
            Self::Prometheus => "prometheus",
        }
    }

    /// The type with this name; none for an unknown name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate_type| gate_type.as_str() == word)
    }
}
