//! The verdict of a gate and the report around it.

use crate::config::GateType;

/// The verdict of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The gate's condition holds, with enough evidence.
    Pass,
    /// The gate's condition is broken, with enough evidence.
    Fail,
    /// The evidence is not enough for PASS or FAIL.
    Inconclusive,
    /// The gate's source does not answer, is stale, or answers nonsense.
    Error,
}

/// A gate's verdict with the numbers that it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReport {
    /// The gate's name.
    pub gate_name: String,
    /// The gate's `type`.
    pub gate_kind: ReportedGateKind,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, for people, such as `errors: 0 of 143 async failed, upper bound 2.4 % > 1 %, needs 204
    /// more`.
    pub explanation: String,
    /// Further async outcomes needed for PASS if none of them is bad; none where no number can be
    /// given.
    pub needed_outcomes: Option<u64>,
    /// The async path: bad outcomes, of how many.
    pub async_bad_of_total: Option<(u64, u64)>,
    /// The sync path: bad outcomes, of how many.
    pub sync_bad_of_total: Option<(u64, u64)>,
    /// The observed share (0 to 1) or value.
    pub value: Option<f64>,
    /// The lower and upper bound of the share, which hold over all evaluations: PASS wants the
    /// upper one at `max` or below, FAIL the lower one above it.
    pub interval: Option<(f64, f64)>,
}

/// The type of a reported gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedGateKind {
    /// A type of this release.
    Known(GateType),
    /// The stored word of a type that this release does not know; shown and written back as it is.
    Unknown(Box<str>),
}

/// A stored report whose verdict this release does not know. Shown and written back as it is;
/// counts as doubt wherever reports decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadGateReport {
    /// The gate's name.
    pub gate_name: String,
    /// The stored word of the verdict.
    pub verdict: String,
    /// The stored explanation, for people.
    pub explanation: String,
    /// The whole stored report, as JSON.
    pub stored_json: String,
}

// === impl Verdict ===

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Inconclusive, Self::Error];

    /// The word in the API and in stored reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Error => "error",
        }
    }

    /// The verdict of a word; none for a word that is no verdict.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == word)
    }

    /// The number in the metric `omnidaemon_gate_verdict`.
    #[must_use]
    pub fn as_metric(self) -> f64 {
        match self {
            Self::Pass => 1.0,
            Self::Inconclusive => 0.0,
            Self::Fail => -1.0,
            Self::Error => f64::NAN,
        }
    }
}

// === impl GateReport ===

impl GateReport {
    /// Whether the verdict is FAIL or ERROR.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Fail | Verdict::Error)
    }
}

// === impl ReportedGateKind ===

impl ReportedGateKind {
    /// The word in the file, in the API and in stored reports.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(gate_type) => gate_type.as_str(),
            Self::Unknown(word) => word,
        }
    }

    /// The type of a stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        GateType::parse(word).map_or_else(|| Self::Unknown(word.into()), Self::Known)
    }
}

impl From<GateType> for ReportedGateKind {
    fn from(gate_type: GateType) -> Self {
        Self::Known(gate_type)
    }
}
