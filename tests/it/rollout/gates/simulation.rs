//! Traffic that gates can be tried on, with its truth known: so many requests a look, such a share
//! async, such shares failing, outcomes as late as one likes. Everything comes of a seed. Also what
//! `examples/gates.rs` runs on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use omnidaemon::cohort_hash::CLIENT_GROUPS;
use omnidaemon::config::{GateConfig, MinSamples};
use omnidaemon::rollout::evidence::{ClientGroupCounts, EvidenceCounts, RolloutEvidence};
use omnidaemon::rollout::gate::{
    Evaluation, GateMemory, GateReport, LatencyThreshold, Verdict, evaluate_gate,
};
use omnidaemon::rollout::statistics::{self, SequentialScores};
use omnidaemon::task::duration_bucket;

/// Looks of an hour, at one each 30 seconds.
pub(crate) const EVALUATIONS_PER_HOUR: usize = 120;

/// What is slow in the simulated traffic.
const LATENCY_THRESHOLD: LatencyThreshold =
    LatencyThreshold { threshold: Duration::from_millis(500), epoch: 1 };

/// Random numbers: `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct SeededRandom(u64);

impl SeededRandom {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits
    pub(crate) fn next_unit(&mut self) -> f64 {
        (self.next_bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many of `of` are hit, each with a chance of `share`: by inversion, in pieces whose first
    /// term is a number.
    pub(crate) fn binomial_draw(&mut self, of: u64, share: f64) -> u64 {
        if share > 0.5 {
            return of - self.binomial_draw(of, 1.0 - share);
        }
        #[allow(clippy::cast_precision_loss)]
        if of as f64 * share > 400.0 {
            return self.binomial_draw(of / 2, share) + self.binomial_draw(of - of / 2, share);
        }
        self.binomial_by_inversion(of, share)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn binomial_by_inversion(&mut self, of: u64, share: f64) -> u64 {
        let odds = share / (1.0 - share);
        let (mut hits, mut left) = (0, self.next_unit());
        let mut chance = ((of as f64) * (-share).ln_1p()).exp();
        while left > chance && hits < of {
            left -= chance;
            hits += 1;
            chance *= odds * (of - hits + 1) as f64 / hits as f64;
        }
        hits
    }
}

/// What is true of the two paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrafficModel {
    /// Requests a look, on both paths.
    pub(crate) requests_per_evaluation: u64,
    /// The share that goes async.
    pub(crate) weight: f64,
    /// The share of sync requests that fail.
    pub(crate) sync_failure_share: f64,
    /// The share of async ones.
    pub(crate) async_failure_share: f64,
    /// Looks until a task that succeeds has ended.
    pub(crate) evaluations_until_success: usize,
    /// Looks until a task that fails has.
    pub(crate) evaluations_until_failure: usize,
    /// So many clients make the requests, each as many as the others; 0 where nothing tells clients
    /// apart.
    pub(crate) clients: u64,
    /// Requests a look of one further client, all async and all failing. It is counted as client 0.
    pub(crate) noisy_requests: u64,
    /// Requests a look, on both paths alike, of one further client that fails like all others. It
    /// is counted as client 0.
    pub(crate) large_client_requests: u64,
}

impl TrafficModel {
    /// Both paths fail alike, tasks end in the look that they came in.
    pub(crate) fn healthy(requests_per_evaluation: u64, weight: f64, base: f64) -> Self {
        Self {
            requests_per_evaluation,
            weight,
            sync_failure_share: base,
            async_failure_share: base,
            evaluations_until_success: 0,
            evaluations_until_failure: 0,
            clients: 400,
            noisy_requests: 0,
            large_client_requests: 0,
        }
    }

    /// The async path fails `times` as often.
    pub(crate) fn with_failures_times(self, times: f64) -> Self {
        Self { async_failure_share: self.sync_failure_share * times, ..self }
    }
}

/// Traffic as it comes.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedTraffic {
    pub(crate) model: TrafficModel,
    random: SeededRandom,
    pending_successes: VecDeque<u64>,
    pending_failures: VecDeque<(u64, u64)>,
}

impl SimulatedTraffic {
    pub(crate) fn new(model: TrafficModel, seed: u64) -> Self {
        let pending_successes = VecDeque::from(vec![0; model.evaluations_until_success]);
        let pending_failures = VecDeque::from(vec![(0, 0); model.evaluations_until_failure]);
        Self { model, random: SeededRandom::new(seed), pending_successes, pending_failures }
    }

    /// What comes until the next look.
    pub(crate) fn next_evidence(&mut self) -> RolloutEvidence {
        let TrafficModel {
            requests_per_evaluation: requests,
            weight,
            sync_failure_share: sync,
            async_failure_share: asynchronous,
            ..
        } = self.model;
        let canaried = self.random.binomial_draw(requests, weight);
        let large = self.random.binomial_draw(self.model.large_client_requests, weight);
        let mut news = RolloutEvidence {
            accepted_tasks: canaried + large,
            canaried_by_group: self.spread_evenly(canaried, large),
            ..RolloutEvidence::default()
        };
        let (others, of_large) = (requests - canaried, self.model.large_client_requests - large);
        news.sync_counts.total = others + of_large;
        news.sync_requests_by_group = self.spread_evenly(others, of_large);
        let failed = self.random.binomial_draw(others, sync);
        let failed_of_large = self.random.binomial_draw(of_large, sync);
        news.sync_counts.failed = failed + failed_of_large;
        news.sync_counts.failed_by_group = self.draw_groups(failed, failed_of_large);
        let failing = self.random.binomial_draw(canaried, asynchronous);
        let failing_of_large = self.random.binomial_draw(large, asynchronous);
        self.pending_failures.push_back((failing, failing_of_large));
        self.pending_successes.push_back(canaried + large - failing - failing_of_large);
        self.end_tasks(&mut news);
        record_failures_as_slow(&mut news.sync_counts);
        record_failures_as_slow(&mut news.async_counts);
        news
    }

    /// Counts what ends until the next look, and the failures of the noisy client.
    fn end_tasks(&mut self, news: &mut RolloutEvidence) {
        let (failed, failed_of_large) = self.pending_failures.pop_front().unwrap_or_default();
        let noisy = self.model.noisy_requests;
        let counts = &mut news.async_counts;
        counts.failed = failed + failed_of_large + noisy;
        counts.total = self.pending_successes.pop_front().unwrap_or_default() + counts.failed;
        counts.failed_by_group = self.draw_groups(failed, failed_of_large + noisy);
        news.accepted_tasks += noisy;
        news.canaried_by_group[0] += noisy;
    }

    /// Requests of all clients alike, and `more` of client 0.
    fn spread_evenly(&self, requests: u64, more: u64) -> ClientGroupCounts {
        let mut by_group = ClientGroupCounts::default();
        if self.model.clients == 0 {
            return by_group;
        }
        let groups = self.model.clients.min(CLIENT_GROUPS as u64);
        for (at, count) in (0..groups).zip(&mut by_group) {
            *count = requests / groups + u64::from(at < requests % groups);
        }
        by_group[0] += more;
        by_group
    }

    /// Failures of clients drawn at random, and `more` of client 0.
    fn draw_groups(&mut self, failures: u64, more: u64) -> ClientGroupCounts {
        let mut by_group = ClientGroupCounts::default();
        if self.model.clients == 0 {
            return by_group;
        }
        for _ in 0..failures {
            let client = self.random.next_bits() % self.model.clients;
            let group = usize::try_from(client).unwrap_or_default() % CLIENT_GROUPS;
            by_group[group] += 1;
        }
        by_group[0] += more;
        by_group
    }
}

/// For gates of latency, the requests that fail are also the slow ones.
fn record_failures_as_slow(counts: &mut EvidenceCounts) {
    let bucket = |millis| duration_bucket(Duration::from_millis(millis));
    counts.durations[bucket(400)] = counts.total - counts.failed;
    counts.durations[bucket(900)] = counts.failed;
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepOutcome {
    /// The look at which it was rolled back: two FAILs in a row.
    pub(crate) rolled_back_at: Option<usize>,
    /// The look at which it was passed: two PASSes in a row.
    pub(crate) passed_at: Option<usize>,
}

/// Looks at a gate again and again while evidence gathers, up to `looks` times or until `done` says
/// so.
pub(crate) fn run_step(
    gate: &GateConfig,
    min: MinSamples,
    world: &mut SimulatedTraffic,
    looks: usize,
    done: impl Fn(&StepOutcome) -> bool,
) -> StepOutcome {
    let (mut evidence, mut memory, mut step) =
        (RolloutEvidence::default(), GateMemory::default(), StepOutcome::default());
    let (mut passes, mut fails) = (0, 0);
    for look in 1..=looks {
        let news = world.next_evidence();
        evidence.add(&news);
        match evaluate_without_late_evidence(gate, min, &mut memory, &evidence, &news).verdict {
            Verdict::Pass => (passes, fails) = (passes + 1, 0),
            Verdict::Fail => (passes, fails) = (0, fails + 1),
            Verdict::Inconclusive | Verdict::Error => (passes, fails) = (0, 0),
        }
        step.passed_at = step.passed_at.or((passes >= 2).then_some(look));
        step.rolled_back_at = step.rolled_back_at.or((fails >= 2).then_some(look));
        if done(&step) {
            break;
        }
    }
    step
}

/// One look, of a step whose cohort is as mature as it will be.
pub(crate) fn evaluate_without_late_evidence(
    gate: &GateConfig,
    min: MinSamples,
    memory: &mut GateMemory,
    evidence: &RolloutEvidence,
    news: &RolloutEvidence,
) -> GateReport {
    let look = Evaluation {
        cohort_evidence: evidence,
        step_evidence: evidence,
        new_evidence: news,
        late_evidence: &[],
        frozen_baseline: None,
        latency_threshold: Some(LATENCY_THRESHOLD),
        min_p95_requests: 300,
        is_mature: true,
        is_healthy: false,
        is_full_weight: false,
        prometheus_samples: &BTreeMap::new(),
        queue_depth: Some(0),
        queue_oldest: None,
    };
    evaluate_gate(gate, min, memory, &look)
}

/// The look at which the detectors that a healthy rollout runs on speak, and the most that they
/// said until then. By their sums alone: judging every look of a month in words takes too long.
pub(crate) struct DetectorWatch {
    /// Where it spoke.
    pub(crate) alarm_at: Option<usize>,
    /// The highest logarithm of E, of either.
    pub(crate) highest_log_e: f64,
}

/// The detectors of an error gate: against the sync path, and against a `max`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorDetectors {
    against_sync: SequentialScores,
    over_max: SequentialScores,
    max: f64,
}

impl ErrorDetectors {
    pub(crate) fn new(max: f64) -> Self {
        Self {
            against_sync: SequentialScores::default(),
            over_max: SequentialScores::default(),
            max,
        }
    }

    /// Hears what comes until the next look, and says the higher logarithm of E.
    pub(crate) fn observe(&mut self, world: &mut SimulatedTraffic) -> f64 {
        let news = world.next_evidence();
        let (bad, sync) = (news.async_counts.failed, news.sync_counts.failed);
        let shared = statistics::score_events(bad, bad + sync, world.model.weight, 1.25);
        statistics::add_restarted_scores(&mut self.against_sync, &shared);
        statistics::add_restarted_scores(
            &mut self.over_max,
            &statistics::score_events(bad, news.accepted_tasks, self.max, 1.0),
        );
        statistics::log_e_value(&self.against_sync).max(statistics::log_e_value(&self.over_max))
    }
}

/// Watches `looks` of a world, with `max` and against the sync path.
pub(crate) fn run_detectors(world: &mut SimulatedTraffic, max: f64, looks: usize) -> DetectorWatch {
    let mut detectors = ErrorDetectors::new(max);
    let mut watch = DetectorWatch { alarm_at: None, highest_log_e: f64::NEG_INFINITY };
    for look in 1..=looks {
        watch.highest_log_e = watch.highest_log_e.max(detectors.observe(world));
        if watch.alarm_at.is_none() && watch.highest_log_e >= statistics::restarted_threshold(0.01)
        {
            watch.alarm_at = Some(look);
        }
    }
    watch
}
