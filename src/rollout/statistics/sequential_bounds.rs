//! Sequential tests: their error rates hold over any number of evaluations.
//!
//! All of them are one test. Of `of` events, `hits` were hits; the odds of a hit are `share : 1 −
//! share` under the null hypothesis, multiplied by an unknown ratio. The likelihood of each
//! alternative ratio, divided by the likelihood of the tolerated ratio, averaged over the
//! alternatives, is the e-value E. While the ratio is tolerable, E stays under 1/α for ever with a
//! probability of 1 − α (Ville's inequality). Either the events are failures of both paths and the
//! hits are the async ones, with the async share of requests as `share`; or the events are requests
//! and the hits are failures, with a limit as `share`. Values are logarithms, so none overflows.
//!
//! Sources: Lindon, Ham, Tingley, Bojinov, arXiv 2205.14762; Howard et al., arXiv 1810.08240; for
//! the scores that restart: Shin, Ramdas, Rinaldo, arXiv 2203.03532.

use super::numeric::{count_as_float, find_least, share_of};

/// The alternative ratios, as multiples of the tolerated ratio: 2, 5 and 20 times the sync path's
/// share where the tolerated ratio is 1.25.
const ALTERNATIVE_RATIOS: [f64; 3] = [1.6, 4.0, 16.0];

/// Ratios and weights that bound a share from above. Half of the weight is on hardly any hits, so
/// that clean evidence passes early; the ratios near 1 let the bound approach the share.
const UPPER_BOUND_MIXTURE: [(f64, f64); 7] =
    [(0.02, 0.5), (0.2, 0.2), (0.4, 0.13), (0.6, 0.08), (0.8, 0.05), (0.92, 0.025), (0.97, 0.015)];

/// Ratios and weights that bound a share from below.
const LOWER_BOUND_MIXTURE: [(f64, f64); 6] =
    [(1.03, 0.03), (1.1, 0.07), (1.3, 0.15), (2.0, 0.25), (4.0, 0.25), (16.0, 0.25)];

/// By how much ln E of restarting scores must exceed ln 1/α, for a false alarm probability of at
/// most α in 30 days. Found by simulating months at many weights and amounts of traffic
/// (`examples/gates.rs`, `docs/gates.md`), traffic exactly at the limit included. The bound that
/// holds without simulation is the logarithm of the 86,400 evaluations of 30 days, 11.4.
const RESTARTED_LOG_MARGIN: f64 = 9.5;

/// The probability of a false PASS, over all evaluations.
pub const FALSE_PASS_CHANCE: f64 = 0.05;

/// Logarithms of the likelihood ratios of the three alternatives to the tolerated ratio.
pub type SequentialScores = [f64; 3];

/// The ln E at which scores from a fixed start reject the tolerated ratio.
#[must_use]
pub fn rejection_threshold(alpha: f64) -> f64 {
    -alpha.ln()
}

/// The ln E at which restarting scores reject the tolerated ratio. `alpha` is the probability of a
/// false alarm in 30 days with an evaluation every 30 seconds.
#[must_use]
pub fn restarted_threshold(alpha: f64) -> f64 {
    RESTARTED_LOG_MARGIN - alpha.ln()
}

/// What events add to scores: `hits` of `of` events, with `tolerated` as the tolerated ratio.
#[must_use]
pub fn score_events(hits: u64, of: u64, share: f64, tolerated: f64) -> SequentialScores {
    score_weighted_events(count_as_float(hits), count_as_float(of.max(hits)), share, tolerated)
}

/// As [`score_events`], where events may count in part.
#[must_use]
pub fn score_weighted_events(hits: f64, of: f64, share: f64, tolerated: f64) -> SequentialScores {
    ALTERNATIVE_RATIOS
        .map(|factor| log_likelihood_ratio(hits, of, share, factor * tolerated, tolerated))
}

/// Adds `more` to scores from a fixed start.
pub fn add_scores(scores: &mut SequentialScores, more: &SequentialScores) {
    for (score, more) in scores.iter_mut().zip(more) {
        *score += more;
    }
}

/// Adds `more` to restarting scores: a score below 0 restarts at 0, so that a long healthy time
/// does not hide a later failure.
pub fn add_restarted_scores(scores: &mut SequentialScores, more: &SequentialScores) {
    for (score, more) in scores.iter_mut().zip(more) {
        *score = score.max(0.0) + more;
    }
}

/// The logarithm of E: the mean over the three alternatives.
#[must_use]
pub fn log_e_value(scores: &SequentialScores) -> f64 {
    log_weighted_sum(scores.iter().map(|score| (1.0 / 3.0, *score)))
}

/// The logarithm of E against "the share of hits is at most `limit`", from a fixed start: large
/// where the share is higher.
#[must_use]
pub fn log_e_against_at_most(limit: f64, hits: u64, of: u64) -> f64 {
    mixture_log_e(&LOWER_BOUND_MIXTURE, limit, hits, of).0
}

/// The logarithm of E against "the share of hits is at least `limit`": large where the share is
/// lower.
#[must_use]
pub fn log_e_against_at_least(limit: f64, hits: u64, of: u64) -> f64 {
    mixture_log_e(&UPPER_BOUND_MIXTURE, limit, hits, of).0
}

/// The upper bound of the share behind `hits` of `of`, valid over all evaluations: `chance` is the
/// probability that the bound is ever too low.
#[must_use]
pub fn upper_bound(hits: u64, of: u64, chance: f64) -> f64 {
    let level = rejection_threshold(chance);
    if log_e_against_at_least(1.0, hits, of) < level {
        1.0
    } else {
        find_crossing(&UPPER_BOUND_MIXTURE, hits, of, level).max(share_of(hits, of))
    }
}

/// The lower bound of the share behind `hits` of `of`, as [`upper_bound`].
#[must_use]
pub fn lower_bound(hits: u64, of: u64, chance: f64) -> f64 {
    let level = rejection_threshold(chance);
    if log_e_against_at_most(0.0, hits, of) < level {
        0.0
    } else {
        find_crossing(&LOWER_BOUND_MIXTURE, hits, of, level).min(share_of(hits, of))
    }
}

/// How many more events without a hit are needed until [`upper_bound`] is at most `limit`; none for
/// a limit of 0.
#[must_use]
pub fn clean_events_needed(limit: f64, hits: u64, of: u64, chance: f64) -> Option<u64> {
    find_least(0, |more| {
        log_e_against_at_least(limit, hits, of + more) >= rejection_threshold(chance)
    })
}

/// The log likelihood ratio of odds multiplied by `ratio` to odds multiplied by `null`. With q(r) =
/// r·w/(r·w + 1 − w) and w the share, it is hits·ln(q(r)/q(r₀)) + (of − hits)·ln((1 − q(r))/(1 −
/// q(r₀))), arranged so that w may be 0 or 1.
fn log_likelihood_ratio(hits: f64, of: f64, share: f64, ratio: f64, null: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    let norm = |ratio: f64| (share * (ratio - 1.0)).ln_1p();
    hits * (ratio / null).ln() - of.max(hits) * (norm(ratio) - norm(null))
}

/// The logarithm of a weighted sum of exponentials.
fn log_weighted_sum(terms: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let top = terms.clone().map(|(_, log)| log).fold(f64::NEG_INFINITY, f64::max);
    if top.is_finite() {
        top + terms.map(|(weight, log)| weight * (log - top).exp()).sum::<f64>().ln()
    } else {
        top
    }
}

/// The logarithm of E of a mixture of ratios against `limit`, and its derivative by `limit`.
fn mixture_log_e(mixture: &[(f64, f64)], limit: f64, hits: u64, of: u64) -> (f64, f64) {
    let (hits, of) = (count_as_float(hits), count_as_float(of));
    let terms = mixture
        .iter()
        .map(|(ratio, weight)| (*weight, log_likelihood_ratio(hits, of, limit, *ratio, 1.0)));
    let log = log_weighted_sum(terms.clone());
    let slope_of = |ratio: f64| -of * (ratio - 1.0) / (1.0 + limit * (ratio - 1.0));
    let slopes = mixture
        .iter()
        .zip(terms)
        .map(|((ratio, _), (weight, term))| weight * (term - log).exp() * slope_of(*ratio));
    (log, slopes.sum())
}

/// The limit at which the log E of a mixture is `level`. It must exist; Newton's method finds it,
/// since log E is convex in the limit.
fn find_crossing(mixture: &[(f64, f64)], hits: u64, of: u64, level: f64) -> f64 {
    let mut limit = share_of(hits, of);
    for _ in 0..100 {
        let (log, slope) = mixture_log_e(mixture, limit, hits, of);
        let next = (limit - (log - level) / slope).clamp(0.0, 1.0);
        if (next - limit).abs() <= 1e-12 * next {
            return next;
        }
        limit = next;
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook form: q(r) = r·w/(r·w + 1 − w), and `S_r` of `asynchronous`
    /// and `sync` failures.
    fn textbook_log_e(asynchronous: f64, sync: f64, w: f64, tolerated: f64) -> f64 {
        let q = |r: f64| r * w / (r * w + 1.0 - w);
        let score = |r: f64| {
            asynchronous * (q(r) / q(tolerated)).ln()
                + sync * ((1.0 - q(r)) / (1.0 - q(tolerated))).ln()
        };
        ([2.0, 5.0, 20.0].map(|r| score(r).exp()).iter().sum::<f64>() / 3.0).ln()
    }

    #[test]
    fn the_test_is_the_mixture_over_2_5_and_20_times() {
        for (hits, sync, w) in [(3u32, 8u32, 0.1), (0, 12, 0.5), (40, 1, 0.9), (7, 90, 0.02)] {
            let mut scores = SequentialScores::default();
            add_scores(&mut scores, &score_events(hits.into(), (hits + sync).into(), w, 1.25));
            let book = textbook_log_e(hits.into(), sync.into(), w, 1.25);
            assert!(
                (log_e_value(&scores) - book).abs() < 1e-9,
                "{hits} and {sync} at {w}: {} and {book}",
                log_e_value(&scores)
            );
        }
    }

    #[test]
    fn at_high_weight_it_takes_many_failures_and_at_full_weight_no_number_is_enough() {
        let rejects_after = |failures, share| {
            let mut scores = SequentialScores::default();
            add_scores(&mut scores, &score_events(failures, failures, share, 1.25));
            log_e_value(&scores) >= rejection_threshold(0.01)
        };
        assert!(rejects_after(68, 0.9) && !rejects_after(67, 0.9));
        assert!(rejects_after(6, 0.1));
        assert!(!rejects_after(1_000_000, 1.0));
    }

    #[test]
    fn a_long_healthy_time_hides_failures_only_from_scores_that_do_not_restart() {
        let (mut whole, mut restarted) = (SequentialScores::default(), SequentialScores::default());
        let mut feed = |hits, of| {
            let more = score_events(hits, of, 0.1, 1.25);
            add_scores(&mut whole, &more);
            add_restarted_scores(&mut restarted, &more);
        };
        (0..5_000).for_each(|_| feed(1, 10));
        (0..40).for_each(|_| feed(6, 15));
        assert!(
            log_e_value(&restarted) >= restarted_threshold(0.01),
            "five times as many, for forty evaluations"
        );
        assert!(log_e_value(&whole) < 0.0);
    }

    #[test]
    fn clean_requests_need_little_more_than_a_single_evaluation_would() {
        let needed = [(0.01, 347), (0.005, 696), (0.001, 3_485)];
        for (limit, requests) in needed {
            assert_eq!(
                clean_events_needed(limit, 0, 0, FALSE_PASS_CHANCE),
                Some(requests),
                "{limit}"
            );
        }
        assert_eq!(clean_events_needed(0.0, 0, 0, FALSE_PASS_CHANCE), None);
    }

    proptest! {
        #[test]
        fn bounds_contain_the_observed_share_and_rise_with_hits(
            of in 1u64..100_000, part in 0.0f64..1.0,
        ) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let hits = (part * part * count_as_float(of)) as u64;
            let share = count_as_float(hits) / count_as_float(of);
            let bounds = |hits, of| (lower_bound(hits, of, 0.01), upper_bound(hits, of, 0.05));
            let (low, high) = bounds(hits, of);
            let contains = (0.0..=share).contains(&low) && (share..=1.0).contains(&high);
            prop_assert!(contains, "{low} {share} {high}");
            let more = bounds((hits + 1).min(of), of);
            prop_assert!(more.0 >= low && more.1 >= high, "{more:?} after {low} {high}");
            let cleaner = bounds(hits, of + 1);
            prop_assert!(cleaner.0 <= low && cleaner.1 <= high, "{cleaner:?} after {low} {high}");
        }

        #[test]
        fn no_number_of_events_is_too_large(
            hits in 0u64..1 << 40, sync in 0u64..1 << 40, share in 0.0f64..=1.0,
        ) {
            let mut scores = SequentialScores::default();
            for share in [0.0, share, 1.0] {
                let more = score_events(hits, hits + sync, share, 1.25);
                add_scores(&mut scores, &more);
                add_restarted_scores(&mut scores, &more);
            }
            prop_assert!(log_e_value(&scores).is_finite(), "{scores:?}");
            prop_assert!(upper_bound(hits, hits + sync, 0.05).is_finite());
            prop_assert!(lower_bound(hits, hits + sync, 0.01).is_finite());
        }
    }
}
