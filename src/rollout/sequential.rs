//! Tests that may be looked at as often as one likes.
//!
//! All of them are one test. Of `of` events, `hits` were hits; the odds of a hit are `share : 1 −
//! share` where nothing is wrong, multiplied by an unknown ratio. The likelihood of the ratios that
//! would be bad news, divided by that of the one that is tolerated and averaged, is a number E that
//! stays under 1/α for ever with a chance of 1 − α while the ratio is tolerable (Ville's
//! inequality). Events are failures of either path and hits the async ones, with the async share of
//! requests; or events are requests and hits the failures, with a limit as the share. Only numbers
//! go in and out, logarithms of E among them, so nothing overflows.
//!
//! Sources: Lindon, Ham, Tingley, Bojinov, arXiv 2205.14762; Howard et al., arXiv 1810.08240; for
//! the form that restarts: Shin, Ramdas, Rinaldo, arXiv 2203.03532.

use super::stats::{count_as_float, find_least, share_of};

/// Ratios that would be bad news, as multiples of the tolerated one: 2, 5 and 20 times where that
/// is 1.25.
const ALTERNATIVE_RATIOS: [f64; 3] = [1.6, 4.0, 16.0];

/// Ratios and weights that bound a share from above: half of the weight looks for no hits at all,
/// so that clean evidence passes early; the last lets the bound close in on the share.
const UPPER_BOUND_MIXTURE: [(f64, f64); 7] =
    [(0.02, 0.5), (0.2, 0.2), (0.4, 0.13), (0.6, 0.08), (0.8, 0.05), (0.92, 0.025), (0.97, 0.015)];

/// Ratios and weights that bound a share from below.
const LOWER_BOUND_MIXTURE: [(f64, f64); 6] =
    [(1.03, 0.03), (1.1, 0.07), (1.3, 0.15), (2.0, 0.25), (4.0, 0.25), (16.0, 0.25)];

/// By how much the logarithm of E must exceed that of 1/α in the form that restarts, for a chance
/// of at most α in 30 days. By simulation of months at many weights and amounts of traffic
/// (`examples/gates.rs`, `docs/gates.md`), those included whose truth is exactly at the limit; the
/// bound that needs none is the logarithm of the 86,400 looks, 11.4.
const RESTARTED_LOG_MARGIN: f64 = 9.5;

/// The chance of a false PASS, over all looks.
pub const FALSE_PASS_CHANCE: f64 = 0.05;

/// Logarithms of the likelihood ratios of the three alternatives.
pub type SequentialScores = [f64; 3];

/// The logarithm of E at which it speaks against what is tolerated, from a fixed start.
#[must_use]
pub fn rejection_threshold(alpha: f64) -> f64 {
    -alpha.ln()
}

/// The same, of scores that restart: `alpha` is then the chance in 30 days of looks, one each 30
/// seconds.
#[must_use]
pub fn restarted_threshold(alpha: f64) -> f64 {
    RESTARTED_LOG_MARGIN - alpha.ln()
}

/// What events add to scores. `tolerated` is the ratio that is not yet bad news.
#[must_use]
pub fn score_events(hits: u64, of: u64, share: f64, tolerated: f64) -> SequentialScores {
    ALTERNATIVE_RATIOS
        .map(|factor| log_likelihood_ratio(hits, of, share, factor * tolerated, tolerated))
}

/// Adds to scores.
pub fn add_scores(scores: &mut SequentialScores, more: &SequentialScores) {
    for (score, more) in scores.iter_mut().zip(more) {
        *score += more;
    }
}

/// Adds to scores that forget how good things were: a long health does not make them blind.
pub fn add_restarted_scores(scores: &mut SequentialScores, more: &SequentialScores) {
    for (score, more) in scores.iter_mut().zip(more) {
        *score = score.max(0.0) + more;
    }
}

/// The logarithm of E.
#[must_use]
pub fn log_e_value(scores: &SequentialScores) -> f64 {
    log_weighted_sum(scores.iter().map(|score| (1.0 / 3.0, *score)))
}

/// The logarithm of E against "at most `limit` are hits", from a fixed start: large where there are
/// more.
#[must_use]
pub fn log_e_against_at_most(limit: f64, hits: u64, of: u64) -> f64 {
    mixture_log_e(&LOWER_BOUND_MIXTURE, limit, hits, of).0
}

/// The logarithm of E against "at least `limit` are hits": large where there are fewer.
#[must_use]
pub fn log_e_against_at_least(limit: f64, hits: u64, of: u64) -> f64 {
    mixture_log_e(&UPPER_BOUND_MIXTURE, limit, hits, of).0
}

/// The highest share that `hits` of `of` leave possible, at whatever moment one looks: with a
/// chance of `chance` that it is ever too low.
#[must_use]
pub fn upper_bound(hits: u64, of: u64, chance: f64) -> f64 {
    let level = rejection_threshold(chance);
    if log_e_against_at_least(1.0, hits, of) < level {
        1.0
    } else {
        find_crossing(&UPPER_BOUND_MIXTURE, hits, of, level).max(share_of(hits, of))
    }
}

/// The lowest share that they leave possible.
#[must_use]
pub fn lower_bound(hits: u64, of: u64, chance: f64) -> f64 {
    let level = rejection_threshold(chance);
    if log_e_against_at_most(0.0, hits, of) < level {
        0.0
    } else {
        find_crossing(&LOWER_BOUND_MIXTURE, hits, of, level).min(share_of(hits, of))
    }
}

/// How many more events without a hit it takes until [`upper_bound`] is at `limit` or below; none
/// for a limit of 0.
#[must_use]
pub fn clean_events_needed(limit: f64, hits: u64, of: u64, chance: f64) -> Option<u64> {
    find_least(0, |more| {
        log_e_against_at_least(limit, hits, of + more) >= rejection_threshold(chance)
    })
}

/// How much likelier odds of `ratio` make it than those of `null`, as a logarithm. With q(r) =
/// r·w/(r·w + 1 − w) it is hits·ln(q(r)/q(r₀)) + (of − hits)·ln((1 − q(r))/(1 − q(r₀))), arranged
/// so that w may be 0 or 1.
fn log_likelihood_ratio(hits: u64, of: u64, share: f64, ratio: f64, null: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    let norm = |ratio: f64| (share * (ratio - 1.0)).ln_1p();
    count_as_float(hits) * (ratio / null).ln()
        - count_as_float(of.max(hits)) * (norm(ratio) - norm(null))
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

/// The logarithm of E of a mixture of ratios against `limit`, and its slope there.
fn mixture_log_e(mixture: &[(f64, f64)], limit: f64, hits: u64, of: u64) -> (f64, f64) {
    let terms = mixture
        .iter()
        .map(|(ratio, weight)| (*weight, log_likelihood_ratio(hits, of, limit, *ratio, 1.0)));
    let log = log_weighted_sum(terms.clone());
    let slope_of = |ratio: f64| -count_as_float(of) * (ratio - 1.0) / (1.0 + limit * (ratio - 1.0));
    let slopes = mixture
        .iter()
        .zip(terms)
        .map(|((ratio, _), (weight, term))| weight * (term - log).exp() * slope_of(*ratio));
    (log, slopes.sum())
}

/// The limit at which a mixture's log E is `level`, which it is somewhere: by Newton's steps, as it
/// is convex.
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

    /// As it is written in books: q(r) = r·w/(r·w + 1 − w), and `S_r` of `asynchronous` and `sync`
    /// failures.
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
    fn at_high_weight_it_takes_many_failures_and_at_full_weight_it_is_blind() {
        let speaks_after = |failures, share| {
            let mut scores = SequentialScores::default();
            add_scores(&mut scores, &score_events(failures, failures, share, 1.25));
            log_e_value(&scores) >= rejection_threshold(0.01)
        };
        assert!(speaks_after(68, 0.9) && !speaks_after(67, 0.9));
        assert!(speaks_after(6, 0.1));
        assert!(!speaks_after(1_000_000, 1.0));
    }

    #[test]
    fn a_long_health_blinds_only_the_form_that_does_not_restart() {
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
            "five times as many, for forty looks"
        );
        assert!(log_e_value(&whole) < 0.0);
    }

    #[test]
    fn clean_requests_are_bounded_by_little_more_than_one_look_would_take() {
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
        fn bounds_hold_what_was_seen_and_rise_with_hits(of in 1u64..100_000, part in 0.0f64..1.0) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let hits = (part * part * count_as_float(of)) as u64;
            let share = count_as_float(hits) / count_as_float(of);
            let bounds = |hits, of| (lower_bound(hits, of, 0.01), upper_bound(hits, of, 0.05));
            let (low, high) = bounds(hits, of);
            prop_assert!((0.0..=share).contains(&low) && (share..=1.0).contains(&high), "{low} {share} {high}");
            let more = bounds((hits + 1).min(of), of);
            prop_assert!(more.0 >= low && more.1 >= high, "{more:?} after {:?}", (low, high));
            let cleaner = bounds(hits, of + 1);
            prop_assert!(cleaner.0 <= low && cleaner.1 <= high, "{cleaner:?} after {:?}", (low, high));
        }

        #[test]
        fn no_number_of_events_is_too_large(hits in 0u64..1 << 40, sync in 0u64..1 << 40, share in 0.0f64..=1.0) {
            let mut scores = SequentialScores::default();
            for share in [0.0, share, 1.0] {
                let more = score_events(hits, hits + sync, share, 1.25);
                add_scores(&mut scores, &more);
                add_restarted_scores(&mut scores, &more);
            }
            prop_assert!(log_e_value(&scores).is_finite(), "{scores:?}");
            prop_assert!(upper_bound(hits, hits + sync, 0.05).is_finite() && lower_bound(hits, hits + sync, 0.01).is_finite());
        }
    }
}
