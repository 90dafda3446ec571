//! Statistics of shares of requests: confidence intervals for one evaluation (`interval.rs`), and
//! bounds and tests that hold over any number of evaluations (`sequential.rs`). Numbers in, numbers
//! out; nothing here knows rollouts or gates.

mod interval;
mod numeric;
mod sequential;

pub use self::interval::{BoundedShare, Z_95_ONE_SIDED, newcombe_upper_bound, wilson_interval};
pub(super) use self::numeric::{count_as_float, find_least, share_of};
pub use self::sequential::{
    FALSE_PASS_CHANCE, SequentialScores, add_restarted_scores, add_scores, clean_events_needed,
    log_e_against_at_least, log_e_against_at_most, log_e_value, lower_bound, rejection_threshold,
    restarted_threshold, score_events, score_weighted_events, upper_bound,
};
