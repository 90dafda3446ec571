//! Traffic that gates can be tried on, with its truth known: so many requests a look, such a share async, such shares
//! failing, outcomes as late as one likes. Everything comes of a seed. Also what `examples/gates.rs` runs on.

use std::collections::{BTreeMap, VecDeque};

use omnidaemon::config::{Gate, MinSamples};
use omnidaemon::rollout::evidence::Evidence;
use omnidaemon::rollout::gate::{Look, Memory, Report, Verdict, judge};
use omnidaemon::rollout::sequential::{self, Scores};

/// Looks of an hour, at one each 30 seconds.
pub(crate) const HOUR: usize = 120;

/// Random numbers: `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many of `of` are hit, each with a chance of `share`: by inversion, in pieces whose first term is a number.
    pub(crate) fn hits(&mut self, of: u64, share: f64) -> u64 {
        if share > 0.5 {
            return of - self.hits(of, 1.0 - share);
        }
        #[allow(clippy::cast_precision_loss)]
        if of as f64 * share > 400.0 {
            return self.hits(of / 2, share) + self.hits(of - of / 2, share);
        }
        self.few(of, share)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn few(&mut self, of: u64, share: f64) -> u64 {
        let odds = share / (1.0 - share);
        let (mut hits, mut left) = (0, self.unit());
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
pub(crate) struct Truth {
    /// Requests a look, on both paths.
    pub(crate) requests: u64,
    /// The share that goes async.
    pub(crate) weight: f64,
    /// The share of sync requests that fail.
    pub(crate) sync: f64,
    /// The share of async ones.
    pub(crate) asynchronous: f64,
    /// Looks until a task that succeeds has ended.
    pub(crate) success_takes: usize,
    /// Looks until a task that fails has.
    pub(crate) failure_takes: usize,
}

impl Truth {
    /// Both paths fail alike, tasks end in the look that they came in.
    pub(crate) fn healthy(requests: u64, weight: f64, base: f64) -> Self {
        Self { requests, weight, sync: base, asynchronous: base, success_takes: 0, failure_takes: 0 }
    }

    /// The async path fails `times` as often.
    pub(crate) fn worse(self, times: f64) -> Self {
        Self { asynchronous: self.sync * times, ..self }
    }
}

/// Traffic as it comes.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) truth: Truth,
    dice: Dice,
    succeeding: VecDeque<u64>,
    failing: VecDeque<u64>,
}

impl World {
    pub(crate) fn new(truth: Truth, seed: u64) -> Self {
        let late = |looks: usize| VecDeque::from(vec![0; looks]);
        let (succeeding, failing) = (late(truth.success_takes), late(truth.failure_takes));
        Self { truth, dice: Dice::new(seed), succeeding, failing }
    }

    /// What comes until the next look.
    pub(crate) fn news(&mut self) -> Evidence {
        let Truth { requests, weight, sync, asynchronous, .. } = self.truth;
        let mut news = Evidence { accepted: self.dice.hits(requests, weight), ..Evidence::default() };
        news.sync.total = requests - news.accepted;
        news.sync.failed = self.dice.hits(news.sync.total, sync);
        let failing = self.dice.hits(news.accepted, asynchronous);
        self.failing.push_back(failing);
        self.succeeding.push_back(news.accepted - failing);
        news.asynchronous.failed = self.failing.pop_front().unwrap_or_default();
        news.asynchronous.total = self.succeeding.pop_front().unwrap_or_default() + news.asynchronous.failed;
        news
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    /// The look at which it was rolled back: two FAILs in a row.
    pub(crate) rolled_back: Option<usize>,
    /// The look at which it was passed: two PASSes in a row.
    pub(crate) passed: Option<usize>,
}

/// Looks at a gate again and again while evidence gathers, up to `looks` times or until `done` says so.
pub(crate) fn step(
    gate: &Gate,
    min: MinSamples,
    world: &mut World,
    looks: usize,
    done: impl Fn(&Step) -> bool,
) -> Step {
    let (mut evidence, mut memory, mut step) = (Evidence::default(), Memory::default(), Step::default());
    let (mut passes, mut fails) = (0, 0);
    for look in 1..=looks {
        let news = world.news();
        evidence.add(&news);
        match glance(gate, min, &mut memory, &evidence, &news).verdict {
            Verdict::Pass => (passes, fails) = (passes + 1, 0),
            Verdict::Fail => (passes, fails) = (0, fails + 1),
            Verdict::Inconclusive | Verdict::Error => (passes, fails) = (0, 0),
        }
        step.passed = step.passed.or((passes >= 2).then_some(look));
        step.rolled_back = step.rolled_back.or((fails >= 2).then_some(look));
        if done(&step) {
            break;
        }
    }
    step
}

/// One look, of a step whose cohort is as mature as it will be.
pub(crate) fn glance(
    gate: &Gate,
    min: MinSamples,
    memory: &mut Memory,
    evidence: &Evidence,
    news: &Evidence,
) -> Report {
    let look = Look {
        evidence,
        news,
        late: &[],
        baseline: None,
        mature: true,
        healthy: false,
        full: false,
        samples: &BTreeMap::new(),
        queue_depth: Some(0),
        queue_oldest: None,
    };
    judge(gate, min, memory, &look)
}

/// The look at which the detectors that a healthy rollout runs on speak, and the most that they said until then. By
/// their sums alone: judging every look of a month in words takes too long.
pub(crate) struct Watch {
    /// Where it spoke.
    pub(crate) alarm: Option<usize>,
    /// The highest logarithm of E, of either.
    pub(crate) top: f64,
}

/// The detectors of an error gate: against the sync path, and against a `max`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detectors {
    against_sync: Scores,
    over_max: Scores,
    max: f64,
}

impl Detectors {
    pub(crate) fn new(max: f64) -> Self {
        Self { against_sync: Scores::default(), over_max: Scores::default(), max }
    }

    /// Hears what comes until the next look, and says the higher logarithm of E.
    pub(crate) fn hear(&mut self, world: &mut World) -> f64 {
        let news = world.news();
        let (bad, sync) = (news.asynchronous.failed, news.sync.failed);
        let shared = sequential::scored(bad, bad + sync, world.truth.weight, 1.25);
        sequential::add_restarted(&mut self.against_sync, &shared);
        sequential::add_restarted(&mut self.over_max, &sequential::scored(bad, news.accepted, self.max, 1.0));
        sequential::log_e(&self.against_sync).max(sequential::log_e(&self.over_max))
    }
}

/// Watches `looks` of a world, with `max` and against the sync path.
pub(crate) fn watch(world: &mut World, max: f64, looks: usize) -> Watch {
    let mut detectors = Detectors::new(max);
    let mut watch = Watch { alarm: None, top: f64::NEG_INFINITY };
    for look in 1..=looks {
        watch.top = watch.top.max(detectors.hear(world));
        if watch.alarm.is_none() && watch.top >= sequential::speaks_restarted(0.01) {
            watch.alarm = Some(look);
        }
    }
    watch
}
