//! Prints the tables of `docs/gates.md`: how often gates are wrong over all evaluations, and how
//! soon they are right.
//!
//! `cargo run --release --example gates` runs it on all cores for some minutes. Random seeds are
//! fixed: the output is the same on every machine. A quicker selection runs with the tests
//! (`tests/it/rollout/gates/`).

use std::thread;

use omnidaemon::config::{GateConfig, GateKind, MinSamples, RatioLimits};
use omnidaemon::rollout::evidence::RolloutEvidence;
use omnidaemon::rollout::gate::{GateMemory, Verdict};
use omnidaemon::rollout::statistics::{
    self, BoundedShare, SequentialScores, Z_95_ONE_SIDED, newcombe_upper_bound, wilson_interval,
};

#[path = "../tests/it/rollout/gates/simulation.rs"]
mod simulation;

use simulation::{
    EVALUATIONS_PER_HOUR, ErrorDetectors, SimulatedTraffic, StepOutcome, TrafficModel,
    evaluate_without_late_evidence, run_detectors, run_step,
};

const MIN: MinSamples = MinSamples { async_requests: 300, sync_requests: 300 };
const TRAFFIC: [u64; 3] = [20, 200, 2_000];
const WEIGHTS: [f64; 3] = [0.1, 0.5, 0.9];
const WORSE: [f64; 4] = [2.0, 3.0, 5.0, 20.0];
const MONTH: usize = 24 * 30 * EVALUATIONS_PER_HOUR;

fn main() {
    false_rollbacks();
    false_rollbacks_of_climbs();
    false_promotions();
    promotions();
    detection();
    one_client();
    latency();
    alarms();
    after_a_million();
}

fn false_rollbacks() {
    const RUNS: u64 = 1_000;
    println!(
        "\n### A healthy canary rolled back within 120 evaluations (1 % of both paths fail, \
            {RUNS} runs)\n"
    );
    println!(
        "| requests per evaluation | weight | this gate | 95 % interval at each evaluation \
            |\n|---|---|---|---|"
    );
    let gate = errors(None, Some(0.005));
    for (requests, weight) in places() {
        let truth = TrafficModel::healthy(requests, weight, 0.01);
        let runs = each(RUNS, |seed| {
            let world = &mut SimulatedTraffic::new(truth, seed);
            run_step(&gate, MIN, world, EVALUATIONS_PER_HOUR, |step| step.rolled_back_at.is_some())
                .rolled_back_at
                .is_some()
        });
        let naive = each(RUNS, |seed| naively_rolled_back(truth, seed));
        println!("| {requests} | {} | {} | {} |", percent(weight), count(&runs), count(&naive));
    }
}

fn false_rollbacks_of_climbs() {
    const RUNS: u64 = 300;
    println!(
        "\n### The same over a climb of 10, 25, 50 and 100 %, 120 evaluations each (`max: 1%`, \
            `margin: 0.5%`, {RUNS} runs)\n"
    );
    println!(
        "| requests per evaluation | both paths fail | this gate | 95 % interval at each \
            evaluation |\n|---|---|---|---|"
    );
    let gate = errors(Some(0.01), Some(0.005));
    for (requests, base) in
        TRAFFIC.into_iter().flat_map(|requests| [(requests, 0.001), (requests, 0.005)])
    {
        let steps = |seed: u64| [0.1, 0.25, 0.5, 1.0].into_iter().zip(seed * 4..);
        let runs = each(RUNS, |seed| {
            steps(seed).any(|(weight, seed)| {
                let world =
                    &mut SimulatedTraffic::new(TrafficModel::healthy(requests, weight, base), seed);
                run_step(&gate, MIN, world, EVALUATIONS_PER_HOUR, |step| {
                    step.rolled_back_at.is_some()
                })
                .rolled_back_at
                .is_some()
            })
        });
        let naive = each(RUNS, |seed| {
            steps(seed).any(|(weight, seed)| {
                naively_rolled_back(TrafficModel::healthy(requests, weight, base), seed)
            })
        });
        println!("| {requests} | {} | {} | {} |", percent(base), count(&runs), count(&naive));
    }
}

/// Whether Newcombe's 95 % interval of the difference is ever above 0.
fn naively_rolled_back(truth: TrafficModel, seed: u64) -> bool {
    let (mut world, mut evidence) =
        (SimulatedTraffic::new(truth, seed), RolloutEvidence::default());
    (0..EVALUATIONS_PER_HOUR).any(|_| {
        evidence.add(&world.next_evidence());
        let (asynchronous, sync) = (evidence.async_counts, evidence.sync_counts);
        newcombe_upper_bound(
            bounded(sync.failed, sync.total),
            bounded(asynchronous.failed, asynchronous.total),
        ) < 0.0
    })
}

#[allow(clippy::cast_precision_loss)]
fn bounded(failed: u64, total: u64) -> BoundedShare {
    let (lower, upper) = wilson_interval(failed, total, Z_95_ONE_SIDED);
    BoundedShare {
        observed: if total == 0 { 0.0 } else { failed as f64 / total as f64 },
        lower,
        upper,
    }
}

fn false_promotions() {
    const RUNS: u64 = 1_000;
    const EVALUATIONS: usize = 500;
    println!(
        "\n### A canary promoted within {EVALUATIONS} evaluations that fails exactly as often as \
            `max: 1%` allows ({RUNS} runs)\n"
    );
    println!(
        "| async requests per evaluation | this gate | Wilson's bound at each evaluation | \
            Wilson's bound at 300, 600, 1,200, … |"
    );
    println!("|---|---|---|---|");
    let gate = errors(Some(0.01), None);
    for requests in [10, 100, 1_000] {
        let truth = TrafficModel::healthy(2 * requests, 0.5, 0.01);
        let runs = each(RUNS, |seed| {
            let world = &mut SimulatedTraffic::new(truth, seed);
            run_step(&gate, MIN, world, EVALUATIONS, |step: &StepOutcome| step.passed_at.is_some())
                .passed_at
                .is_some()
        });
        let by_wilson =
            |spread: bool| each(RUNS, |seed| passed_by_wilson(truth, EVALUATIONS, seed, spread));
        println!(
            "| {requests} | {} | {} | {} |",
            count(&runs),
            count(&by_wilson(false)),
            count(&by_wilson(true))
        );
    }
}

fn passed_by_wilson(truth: TrafficModel, evaluations: usize, seed: u64, spread: bool) -> bool {
    let (mut world, mut failed, mut total, mut next) =
        (SimulatedTraffic::new(truth, seed), 0, 0, MIN.async_requests);
    (0..evaluations).any(|_| {
        let news = world.next_evidence();
        (failed, total) = (failed + news.async_counts.failed, total + news.async_counts.total);
        let is_evaluated = total >= next;
        while is_evaluated && spread && next <= total {
            next *= 2;
        }
        is_evaluated && wilson_interval(failed, total, Z_95_ONE_SIDED).1 <= 0.01
    })
}

fn promotions() {
    const RUNS: u64 = 300;
    println!(
        "\n### Async outcomes until `max: 1%` passes, half of the runs and nine of ten ({RUNS} \
            runs)\n"
    );
    println!("| true share of failures | half | nine of ten |\n|---|---|---|");
    let gate = errors(Some(0.01), None);
    for share in [0.0, 0.001, 0.002, 0.003, 0.005, 0.007] {
        let truth = TrafficModel::healthy(40, 0.5, share);
        let mut passed = each(RUNS, |seed| {
            let (mut world, mut memory, mut evidence) = (
                SimulatedTraffic::new(truth, seed),
                GateMemory::default(),
                RolloutEvidence::default(),
            );
            while evaluate_without_late_evidence(
                &gate,
                MIN,
                &mut memory,
                &evidence,
                &RolloutEvidence::default(),
            )
            .verdict
                != Verdict::Pass
            {
                evidence.add(&world.next_evidence());
            }
            evidence.async_counts.total
        });
        passed.sort_unstable();
        println!(
            "| {} | {} | {} |",
            percent(share),
            passed[passed.len() / 2],
            passed[passed.len() * 9 / 10]
        );
    }
}

fn detection() {
    const RUNS: u64 = 300;
    println!(
        "\n### A worse canary rolled back within 120 evaluations, and the median evaluation \
            (1 % of sync fail, {RUNS} runs)\n"
    );
    println!(
        "| requests per evaluation | weight | `margin` alone: 2× | 3× | 5× | 20× | with \
            `max: 1%`: 2× | 3× | 5× | 20× |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (requests, weight) in places() {
        let mut cells = Vec::new();
        for gate in [errors(None, Some(0.005)), errors(Some(0.01), Some(0.005))] {
            for times in WORSE {
                let truth =
                    TrafficModel::healthy(requests, weight, 0.01).with_failures_times(times);
                let found = each(RUNS, |seed| {
                    let world = &mut SimulatedTraffic::new(truth, seed);
                    run_step(&gate, MIN, world, EVALUATIONS_PER_HOUR, |step| {
                        step.rolled_back_at.is_some()
                    })
                    .rolled_back_at
                });
                cells.push(found_at(&found));
            }
        }
        println!("| {requests} | {} | {} |", percent(weight), cells.join(" | "));
    }
}

fn one_client() {
    const RUNS: u64 = 300;
    println!(
        "\n### Failures of one client and of all: rolled back within 120 evaluations, and the \
            median evaluation (`max: 1%`, `margin: 0.5%`, 0.5 % of the others fail, {RUNS} runs)\n"
    );
    println!(
        "| clients | requests per evaluation | weight | clients known | clients unknown \
            |\n|---|---|---|---|---|"
    );
    let healthy = |requests, weight| TrafficModel::healthy(requests, weight, 0.005);
    let noisy = |model| TrafficModel { noisy_requests: 30, ..model };
    let large = |model| TrafficModel { large_client_requests: 800, ..model };
    let five = |model| TrafficModel { clients: 5, ..model };
    let cases = [
        ("one of 400 fails once a second", noisy(healthy(500, 0.1))),
        ("one of 400 fails once a second", noisy(healthy(500, 0.5))),
        ("one of 400 fails once a second", noisy(healthy(2_000, 1.0))),
        ("one with 80 % of the traffic, none worse", large(healthy(200, 0.1))),
        (
            "one with 80 % of the traffic, all fail 5×",
            large(healthy(200, 0.1)).with_failures_times(5.0),
        ),
        ("one of 5 fails once a second", noisy(five(healthy(200, 0.5)))),
        ("5 equal ones, all fail 5×", five(healthy(200, 0.5)).with_failures_times(5.0)),
        ("400, all fail 5×", healthy(200, 0.5).with_failures_times(5.0)),
    ];
    let gate = errors(Some(0.01), Some(0.005));
    for (clients, truth) in cases {
        let found = |truth| {
            found_at(&each(RUNS, |seed| {
                let world = &mut SimulatedTraffic::new(truth, seed);
                run_step(&gate, MIN, world, EVALUATIONS_PER_HOUR, |step| {
                    step.rolled_back_at.is_some()
                })
                .rolled_back_at
            }))
        };
        println!(
            "| {clients} | {} | {} | {} | {} |",
            truth.requests_per_evaluation + truth.large_client_requests + truth.noisy_requests,
            percent(truth.weight),
            found(truth),
            found(TrafficModel { clients: 0, ..truth })
        );
    }
}

/// The default latency gate, where `sync` of the sync requests exceed the p95 bound.
fn latency() {
    const RUNS: u64 = 300;
    println!(
        "\n### The gate `latency` (`max: 5%`, `margin: 2%`): rolled back, and passed, within 120 \
            evaluations ({RUNS} runs)\n"
    );
    println!(
        "| requests per evaluation | weight | sync over its p95 bound | async as often | async \
            1.5 points more | 3 points | 10 points | 20 points |\n|---|---|---|---|---|---|---|---|"
    );
    let kind = GateKind::SlowerThanSync(RatioLimits::SYNC_P95);
    let gate = GateConfig { name: "latency".to_owned(), kind };
    for ((requests, weight), sync) in
        places().flat_map(|place| [0.01, 0.045].map(|sync| (place, sync)))
    {
        print!("| {requests} | {} | {} ", percent(weight), percent(sync));
        for more in [0.0, 0.015, 0.03, 0.1, 0.2] {
            let truth = TrafficModel::healthy(requests, weight, sync);
            let truth = TrafficModel { async_failure_share: sync + more, ..truth };
            let steps = each(RUNS, |seed| {
                let world = &mut SimulatedTraffic::new(truth, seed);
                run_step(&gate, MIN, world, EVALUATIONS_PER_HOUR, |step: &StepOutcome| {
                    step.rolled_back_at.is_some()
                })
            });
            let failed: Vec<bool> =
                steps.iter().map(|step| step.rolled_back_at.is_some()).collect();
            let passed: Vec<bool> = steps.iter().map(|step| step.passed_at.is_some()).collect();
            print!("| {}, {} ", count(&failed), count(&passed));
        }
        println!("|");
    }
}

fn alarms() {
    const RUNS: u64 = 100;
    println!(
        "\n### False alarms of a healthy rollout within 30 days ({RUNS} runs of 86,400 \
            evaluations, `max: 1%` and the sync path)\n"
    );
    println!(
        "| requests per evaluation | weight | fail | false alarm | the second highest ln E \
            (alarm: {:.1}) |",
        statistics::restarted_threshold(0.01)
    );
    println!("|---|---|---|---|---|");
    for (requests, weight) in places() {
        for base in [0.005, 0.01] {
            let truth = TrafficModel::healthy(requests, weight, base);
            let watched = each(RUNS, |seed| {
                let watched = run_detectors(&mut SimulatedTraffic::new(truth, seed), 0.01, MONTH);
                (watched.alarm_at.is_some(), watched.highest_log_e)
            });
            let (alarmed, mut tops): (Vec<bool>, Vec<f64>) = watched.into_iter().unzip();
            tops.sort_by(f64::total_cmp);
            let top = tops[tops.len() - 2];
            println!(
                "| {requests} | {} | {} | {} | {top:.1} |",
                percent(weight),
                percent(base),
                count(&alarmed)
            );
        }
    }
}

fn after_a_million() {
    const RUNS: u64 = 100;
    println!(
        "\n### Alarms within an hour after a million healthy requests, and the median \
            evaluation ({RUNS} runs)\n"
    );
    println!(
        "| requests per evaluation | weight | 2× | 3× | 5× | 20× | 5×, by a test without \
            restarts |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (requests, weight) in places() {
        let truth = TrafficModel::healthy(requests, weight, 0.005);
        let worse = WORSE.map(|times| {
            found_at(&each(RUNS, |seed| evaluations_until_detected(truth, times, seed)))
        });
        let blind =
            found_at(&each(RUNS, |seed| evaluations_until_detected_by_sum(truth, 5.0, seed)));
        println!("| {requests} | {} | {} | {blind} |", percent(weight), worse.join(" | "));
    }
}

/// The evaluations after a million healthy requests until the detectors find that the async path
/// got worse; `None` after an hour.
fn evaluations_until_detected(truth: TrafficModel, times: f64, seed: u64) -> Option<usize> {
    let (mut world, mut detectors) =
        (SimulatedTraffic::new(truth, seed), ErrorDetectors::new(0.01));
    detect(&mut world, times, |world| {
        detectors.observe(world) >= statistics::restarted_threshold(0.01)
    })
}

/// The same by a test against the sync path that only sums and never restarts.
fn evaluations_until_detected_by_sum(truth: TrafficModel, times: f64, seed: u64) -> Option<usize> {
    let (mut world, mut whole) = (SimulatedTraffic::new(truth, seed), SequentialScores::default());
    detect(&mut world, times, |world| {
        let news = world.next_evidence();
        let (bad, sync) = (news.async_counts.failed, news.sync_counts.failed);
        statistics::add_scores(
            &mut whole,
            &statistics::score_events(bad, bad + sync, world.model.weight, 1.25),
        );
        statistics::log_e_value(&whole) >= statistics::rejection_threshold(0.01)
    })
}

fn detect(
    world: &mut SimulatedTraffic,
    times: f64,
    mut is_alarmed: impl FnMut(&mut SimulatedTraffic) -> bool,
) -> Option<usize> {
    let truth = world.model;
    for _ in 0..1_000_000 / truth.requests_per_evaluation {
        is_alarmed(world);
    }
    world.model = truth.with_failures_times(times);
    (1..=EVALUATIONS_PER_HOUR).find(|_| is_alarmed(world))
}

fn errors(max: Option<f64>, margin: Option<f64>) -> GateConfig {
    let limits = RatioLimits { max, margin, ..RatioLimits::default() };
    GateConfig { name: "errors".into(), kind: GateKind::ErrorRatio(limits) }
}

fn places() -> impl Iterator<Item = (u64, f64)> {
    TRAFFIC.into_iter().flat_map(|requests| WEIGHTS.map(|weight| (requests, weight)))
}

/// Runs the simulation once per seed, on all cores.
fn each<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let run = &run;
    thread::scope(|scope| {
        let part = |core| {
            scope.spawn(move || (0..runs).skip(core).step_by(cores).map(run).collect::<Vec<T>>())
        };
        let parts: Vec<_> = (0..cores).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a simulation ends")).collect()
    })
}

#[allow(clippy::cast_precision_loss)]
fn count(runs: &[bool]) -> String {
    let hits = runs.iter().filter(|hit| **hit).count();
    percent(hits as f64 / runs.len() as f64)
}

/// `99 %, 40`: the share of runs in which it was found, and the median evaluation of these runs.
#[allow(clippy::cast_precision_loss)]
fn found_at(runs: &[Option<usize>]) -> String {
    let mut found: Vec<usize> = runs.iter().copied().flatten().collect();
    found.sort_unstable();
    let share = percent(found.len() as f64 / runs.len() as f64);
    found.get(found.len() / 2).map_or(share.clone(), |middle| format!("{share}, {middle}"))
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1_000.0).round() / 10.0)
}
