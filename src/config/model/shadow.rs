//! `rollout.shadow`: requests of the sync path that are run a second time, on the async one, to
//! compare the answers.

use crate::cohort::Weight;

/// `rollout.shadow`, where its `percent` is not 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowConfig {
    /// The share of the sync path's requests that are copied.
    pub percent: Weight,
    /// Whether somebody said that running a request twice does no harm (`side_effects: allowed`).
    pub side_effects_allowed: bool,
    /// What of a JSON answer is not compared: JSON pointers (RFC 6901).
    pub ignored_pointers: Vec<String>,
    /// The highest share of copies whose answer differs.
    pub max_mismatch_ratio: f64,
}
