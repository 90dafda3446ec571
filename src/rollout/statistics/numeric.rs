//! Small helpers of the statistics: shares, counts as floats, and a search for a least number.

/// The least number from `from` on for which `holds` is true. `holds` must stay true from there on;
/// none where it is false up to 2^50.
pub(in crate::rollout) fn find_least(from: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    const FAR: u64 = 1 << 50;
    if holds(from) {
        return Some(from);
    }
    let (mut below, mut step) = (from, 1);
    while !holds(below + step) {
        (below, step) = (below + step, step * 2);
        if step > FAR {
            return None;
        }
    }
    let mut found = below + step;
    while found - below > 1 {
        let middle = below + (found - below) / 2;
        if holds(middle) { found = middle } else { below = middle }
    }
    Some(found)
}

/// The share `hits` of `of`, at most 1; 0 where `of` is 0.
pub(in crate::rollout) fn share_of(hits: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { count_as_float(hits.min(of)) / count_as_float(of) }
}

/// A count as a float.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53 requests
pub(in crate::rollout) fn count_as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_is_the_first_that_holds(
            wanted in 0u64..1_000_000_000, from in 0u64..1_000,
        ) {
            prop_assert_eq!(find_least(from, |at| at >= wanted), Some(wanted.max(from)));
            prop_assert_eq!(find_least(from, |_| false), None);
        }
    }
}
