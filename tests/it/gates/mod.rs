//! Gates on simulated traffic: how often they are wrong over all looks, and how soon they are right. Seeds are fixed, so
//! the counts are; `cargo run --example gates` asks the same of more runs, for the table in `docs/gates.md`.

pub(crate) mod world;

use std::collections::BTreeMap;

use omnidaemon::config::{Gate, GateKind, Limits, MinSamples, samples_to_certify};
use omnidaemon::rollout::evidence::Evidence;
use omnidaemon::rollout::gate::{Look, Memory, Verdict, judge};
use omnidaemon::rollout::sequential::{FALSE_PASS, clean_until, speaks_restarted};
use omnidaemon::rollout::stats::{Z95, wilson};

use world::{HOUR, Step, Truth, World, step, watch};

const MIN: MinSamples = MinSamples { asynchronous: 300, sync: 300 };
/// Looks of 30 days.
const MONTH: usize = 24 * 30 * HOUR;

fn errors(max: Option<f64>, margin: Option<f64>) -> Gate {
    let limits = Limits { max, margin, ..Limits::default() };
    Gate { name: "errors".into(), kind: GateKind::ErrorRatio(limits) }
}

/// How many of `runs` are rolled back within an hour.
fn rolled_back(truth: Truth, runs: u64) -> usize {
    let gate = errors(None, Some(0.005));
    let run = |seed| step(&gate, MIN, &mut World::new(truth, seed), HOUR, |step| step.rolled_back.is_some());
    (0..runs).filter(|seed| run(*seed).rolled_back.is_some()).count()
}

#[test]
fn a_healthy_canary_is_not_rolled_back_however_often_it_is_looked_at() {
    for weight in [0.1, 0.5] {
        assert!(rolled_back(Truth::healthy(200, weight, 0.01), 40) <= 1, "at {weight}");
    }
}

#[test]
fn failures_that_end_before_successes_do_not_roll_a_healthy_canary_back_nor_do_those_that_end_after() {
    let at_once = Truth { success_takes: 10, ..Truth::healthy(200, 0.1, 0.01) };
    let retried = Truth { failure_takes: 10, ..Truth::healthy(200, 0.1, 0.01) };
    for truth in [at_once, retried] {
        assert!(rolled_back(truth, 20) <= 1, "{truth:?}");
        let gate = errors(Some(0.02), None);
        let run = |seed| step(&gate, MIN, &mut World::new(truth, seed), HOUR, |_| false).rolled_back;
        assert_eq!((0..10).filter_map(run).count(), 0, "{truth:?}");
    }
}

#[test]
fn a_worse_canary_is_rolled_back() {
    let healthy = Truth::healthy(200, 0.1, 0.01);
    for (times, least) in [(3.0, 28), (5.0, 30), (20.0, 30)] {
        let caught = rolled_back(healthy.worse(times), 30);
        assert!(caught >= least, "{times} times as many failures: {caught} of 30");
    }
}

#[test]
fn a_canary_that_fails_exactly_as_often_as_max_allows_is_seldom_promoted() {
    let truth = Truth::healthy(400, 0.5, 0.01);
    let gate = errors(Some(0.01), None);
    let run = |seed| step(&gate, MIN, &mut World::new(truth, seed), 60, |step: &Step| step.passed.is_some());
    let promoted = (0..200).filter(|seed| run(*seed).passed.is_some()).count();
    assert!(promoted <= 10, "{promoted} of 200");

    let one_look_each = |seed| {
        let (mut world, mut failed, mut total) = (World::new(truth, seed), 0, 0);
        (0..60).any(|_| {
            let news = world.news();
            (failed, total) = (failed + news.asynchronous.failed, total + news.asynchronous.total);
            total >= 300 && wilson(failed, total, Z95).1 <= 0.01
        })
    };
    let by_wilson = (0..200).filter(|seed| one_look_each(*seed)).count();
    assert!(by_wilson > 30, "what the bounds over all looks are for: {by_wilson} of 200");
}

#[test]
fn a_healthy_month_raises_no_alarm() {
    for (requests, weight) in [(20, 0.1), (20, 0.9)] {
        let watched = watch(&mut World::new(Truth::healthy(requests, weight, 0.005), 7), 0.01, MONTH);
        assert_eq!(watched.alarm, None, "{requests} requests a look at {weight}: {}", watched.top);
    }
}

#[test]
fn a_million_healthy_requests_do_not_blind_it() {
    let healthy = Truth::healthy(2_000, 0.5, 0.01);
    let (gate, samples) = (errors(None, Some(0.005)), BTreeMap::new());
    let (mut world, mut memory, mut hour) = (World::new(healthy, 3), Memory::default(), Evidence::default());
    let mut look = |world: &mut World| {
        let news = world.news();
        hour.add(&news);
        let (baseline, queue_depth, queue_oldest) = (None, Some(0), None);
        let look = Look {
            late: &[],
            evidence: &hour,
            news: &news,
            baseline,
            mature: true,
            healthy: true,
            full: false,
            samples: &samples,
            queue_depth,
            queue_oldest,
        };
        judge(&gate, MIN, &mut memory, &look).verdict
    };
    for at in 0..500 {
        assert_ne!(look(&mut world), Verdict::Fail, "look {at}");
    }
    world.truth = healthy.worse(3.0);
    let caught = (1..=20).find(|_| look(&mut world) == Verdict::Fail);
    assert!(caught.is_some_and(|looks| looks <= 10), "{caught:?}");
}

#[test]
fn the_numbers_in_the_document_are_those_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gates.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let told = |number: u64| match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    };
    for (max, percent) in [(0.05, "5 %"), (0.01, "1 %"), (0.005, "0.5 %"), (0.001, "0.1 %")] {
        let all_looks = clean_until(max, 0, 0, FALSE_PASS).expect("a limit over 0");
        let row = format!("| {percent} | {} | {} |", told(samples_to_certify(max)), told(all_looks));
        assert!(text.contains(&row), "docs/gates.md has no {row}");
    }
    let threshold = format!("ln(1/`alpha`) + {:.1}", speaks_restarted(1.0));
    assert!(text.contains(&threshold), "docs/gates.md does not say {threshold}");
    let clean = Evidence { accepted: 143, ..Evidence::default() };
    let mut seen = clean;
    seen.asynchronous.total = 143;
    let few = MinSamples { asynchronous: 100, sync: 0 };
    let report = world::glance(&errors(Some(0.01), None), few, &mut Memory::default(), &seen, &clean);
    assert!(text.contains(&report.why), "docs/gates.md does not explain: {}", report.why);
}
