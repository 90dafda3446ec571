//! `rollout.shadow`: a share of the sync path's requests is run a second time on the async path, to
//! compare the two responses.

use crate::cohort_hash::Weight;

/// `rollout.shadow`, where its `percent` is not 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowConfig {
    /// The share of the sync path's requests that is copied.
    pub percent: Weight,
    /// Whether the operator allows copies of requests with side effects (`side_effects: allowed`).
    pub side_effects_allowed: bool,
    /// The parts of JSON responses that are not compared, as JSON pointers (RFC 6901).
    pub ignored_pointers: Vec<String>,
    /// The highest share of copies whose response may differ, from 0 to 1.
    pub max_mismatch_ratio: f64,
}
