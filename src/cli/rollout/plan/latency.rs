//! Compares the latency of the running sync path with `wait` of the file.

use std::time::Duration;

use crate::cli::scrape::MetricsScrape;
use crate::cohort_hash::Weight;
use crate::config::{RouteConfig, WaitTimeoutAction};
use crate::metrics::names;
use crate::rollout::format::{format_exact_span, format_share, format_span};

/// A note when at least 1 % of the sync path's requests take longer than `wait`: when such requests
/// are canaried, their clients get a 202 or wait longer.
pub(super) fn latency_note(route: &RouteConfig, scrape: &MetricsScrape) -> Option<String> {
    if route.rollout.percent == Weight::ZERO {
        return None;
    }
    let buckets = scrape
        .histogram_buckets(names::REQUEST_DURATION, &[("route", &route.name), ("path", "sync")]);
    let (p95, over) = (
        histogram_quantile(&buckets, 0.95)?,
        share_above(&buckets, route.client_wait.as_secs_f64())?,
    );
    let (p95, wait) = (format_span_secs(p95), format_exact_span(route.client_wait));
    if over < 0.01 {
        return None;
    }
    let consequence = match route.on_wait_timeout {
        WaitTimeoutAction::Accepted => "would get a 202 and have to poll",
        WaitTimeoutAction::Redirect => "would be redirected to wait on (on_wait_timeout: redirect)",
        WaitTimeoutAction::KeepWaiting => "would wait longer than that (on_wait_timeout: hold)",
    };
    Some(format!(
        "the sync path's p95 is {p95}, wait {wait}: about {} of canaried calls {consequence}",
        format_share(over)
    ))
}

fn format_span_secs(seconds: f64) -> String {
    format_span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The value below which `share` of the requests lie, interpolated linearly within a bucket; for a
/// value beyond the last finite bound, that bound. Buckets are (upper bound, cumulative count).
fn histogram_quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let at = buckets.iter().position(|(_, count)| *count >= total * share)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    if !high.is_finite() {
        return Some(low);
    }
    Some(low + (high - low) * (total * share - below) / (count - below).max(1.0))
}

/// The share of the requests that took longer than `seconds`, interpolated linearly within a
/// bucket.
fn share_above(buckets: &[(f64, f64)], seconds: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let at = buckets.iter().position(|(bound, _)| *bound >= seconds)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    let within =
        if high.is_finite() { (count - below) * (seconds - low) / (high - low) } else { 0.0 };
    Some(1.0 - (below + within) / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_shares_are_interpolated_from_a_histogram() {
        let buckets = [(1.0, 10.0), (10.0, 40.0), (60.0, 90.0), (f64::INFINITY, 100.0)];
        assert_eq!(share_above(&buckets, 10.0), Some(0.6));
        assert_eq!(histogram_quantile(&buckets, 0.5).map(f64::round), Some(20.0));
        assert_eq!(
            histogram_quantile(&buckets, 0.95),
            Some(60.0),
            "beyond the last finite bound, that bound"
        );
        assert_eq!((histogram_quantile(&[], 0.95), share_above(&[(1.0, 0.0)], 1.0)), (None, None));
    }
}
