//! Counts as evidence for rollouts: what this process counts itself, and what the store and all
//! replicas counted together.

mod process;
mod reported;

pub(super) use self::process::ProcessCounts;
pub(super) use self::reported::{
    assignments_from_array, assignments_to_array, combine_evidence, pad_with_zeros,
    trim_trailing_zeros,
};
