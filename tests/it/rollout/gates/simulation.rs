//! Traffic that gates can be tried on, with its truth known: so many requests a look, such a share
//! async, such shares failing, outcomes as late as one likes. Everything comes of a seed. Also what
//! `examples/gates.rs` runs on.

use std::collections::{BTreeMap, VecDeque};

use omnidaemon::config::{GateConfig, MinSamples};
use omnidaemon::rollout::evidence::RolloutEvidence;
use omnidaemon::rollout::gate::{Evaluation, GateMemory, GateReport, Verdict, evaluate_gate};
use omnidaemon::rollout::statistics::{self, SequentialScores};

/// Looks of an hour, at one each 30 seconds.
pub(crate) const EVALUATIONS_PER_HOUR: usize = 120;

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
    pending_failures: VecDeque<u64>,
}

impl SimulatedTraffic {
    pub(crate) fn new(model: TrafficModel, seed: u64) -> Self {
        let late = |looks: usize| VecDeque::from(vec![0; looks]);
        let (pending_successes, pending_failures) =
            (late(model.evaluations_until_success), late(model.evaluations_until_failure));
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
        let mut news = RolloutEvidence {
            accepted_tasks: self.random.binomial_draw(requests, weight),
            ..RolloutEvidence::default()
        };
        news.sync_counts.total = requests - news.accepted_tasks;
        news.sync_counts.failed = self.random.binomial_draw(news.sync_counts.total, sync);
        let failing = self.random.binomial_draw(news.accepted_tasks, asynchronous);
        self.pending_failures.push_back(failing);
        self.pending_successes.push_back(news.accepted_tasks - failing);
        news.async_counts.failed = self.pending_failures.pop_front().unwrap_or_default();
        news.async_counts.total =
            self.pending_successes.pop_front().unwrap_or_default() + news.async_counts.failed;
        news
    }
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
        new_evidence: news,
        late_evidence: &[],
        frozen_baseline: None,
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
