//! Confidence intervals for a share of requests that is evaluated once.
//!
//! They hold for a sample whose size was fixed before it was evaluated: they tell how many requests
//! a limit needs (`docs/gates.md`), and bound a difference once both shares are bounded. Evidence
//! that is evaluated again and again needs the wider bounds of `sequential_bounds.rs`.

use super::numeric::{count_as_float, share_of};

/// The 95 % quantile of the normal distribution, as tables print it: one-sided, on the safe side of
/// 1.64485.
pub const Z_95_ONE_SIDED: f64 = 1.645;

/// Wilson's score interval for the share behind `hits` of `of`, each bound at one-sided `z` (E. B.
/// Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
/// With `of` = 0 it is 0 to 1.
#[must_use]
pub fn wilson_interval(hits: u64, of: u64, z: f64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (count_as_float(of), share_of(hits, of));
    let (square, middle) = (z * z, share + z * z / (2.0 * n));
    let half = z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    // rounding must not put a bound on the wrong side of the observed share
    (((middle - half) / scale).clamp(0.0, share), ((middle + half) / scale).clamp(share, 1.0))
}

/// A share and the bounds around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundedShare {
    /// The observed share.
    pub observed: f64,
    /// The lower bound.
    pub lower: f64,
    /// The upper bound.
    pub upper: f64,
}

/// The upper bound of `one − other`, two shares that are bounded independently (R. G. Newcombe,
/// "Interval estimation for the difference between independent proportions", 1998, method 10).
#[must_use]
pub fn newcombe_upper_bound(one: BoundedShare, other: BoundedShare) -> f64 {
    one.observed - other.observed + (one.upper - one.observed).hypot(other.observed - other.lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::min_samples_to_certify;
    use proptest::prelude::*;

    #[test]
    fn clean_requests_certify_as_many_as_the_configuration_warns_of() {
        for (max, requests) in [(0.05, 52), (0.01, 268), (0.005, 539), (0.001, 2_704)] {
            assert_eq!(min_samples_to_certify(max), requests, "{max}");
            assert!(
                wilson_interval(0, requests, Z_95_ONE_SIDED).1 <= max
                    && wilson_interval(0, requests - 1, Z_95_ONE_SIDED).1 > max,
                "{max}"
            );
        }
    }

    #[test]
    fn wilson_agrees_with_a_table() {
        // Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I,
        // method 3: two-sided 95 %.
        let table = [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ];
        for (hits, of, lower, upper) in table {
            let found = wilson_interval(hits, of, 1.959_964);
            assert!(
                (found.0 - lower).abs() < 5e-5 && (found.1 - upper).abs() < 5e-5,
                "{hits} of {of}: {found:?}"
            );
        }
    }

    #[test]
    fn newcombe_agrees_with_a_table() {
        // Newcombe 1998, "Interval estimation for the difference", table II, method 10: two-sided
        // 95 %.
        let table =
            [((56, 70), (48, 80), 0.3339), ((9, 10), (3, 10), 0.8090), ((10, 10), (0, 20), 1.0)];
        let bounded = |(hits, of)| {
            let (lower, upper) = wilson_interval(hits, of, 1.959_964);
            BoundedShare { observed: share_of(hits, of), lower, upper }
        };
        for (one, other, upper) in table {
            let found = newcombe_upper_bound(bounded(one), bounded(other));
            assert!((found - upper).abs() < 5e-5, "{one:?} and {other:?}: {found}");
        }
    }

    proptest! {
        #[test]
        fn wilson_contains_the_observed_share_and_rises_with_failures(
            of in 1u64..1_000_000, part in 0.0f64..1.0, z in 0.1f64..5.0,
        ) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let hits = (part * count_as_float(of)) as u64;
            let (lower, upper) = wilson_interval(hits, of, z);
            let share = share_of(hits, of);
            prop_assert!(0.0 <= lower && lower <= share && share <= upper && upper <= 1.0);
            let more = wilson_interval((hits + 1).min(of), of, z);
            prop_assert!(more.0 >= lower && more.1 >= upper);
            let wider = wilson_interval(hits, of, z + 0.1);
            prop_assert!(wider.0 <= lower && wider.1 >= upper);
        }
    }
}
