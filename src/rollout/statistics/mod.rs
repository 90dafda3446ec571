//! Statistics of shares of requests: confidence intervals for a sample that is evaluated once
//! (`fixed_sample_bounds.rs`), and bounds and tests that hold over any number of evaluations
//! (`sequential_bounds.rs`). Functions take and return numbers, and know neither rollouts nor
//! gates.

mod fixed_sample_bounds;
mod numeric;
mod sequential_bounds;

pub use self::fixed_sample_bounds::{
    BoundedShare, Z_95_ONE_SIDED, newcombe_upper_bound, wilson_interval,
};
pub(super) use self::numeric::{count_as_float, find_least, share_of};
pub use self::sequential_bounds::{
    FALSE_PASS_CHANCE, SequentialScores, add_restarted_scores, add_scores, clean_events_needed,
    log_e_against_at_least, log_e_against_at_most, log_e_value, lower_bound, rejection_threshold,
    restarted_threshold, score_events, score_weighted_events, upper_bound,
};
