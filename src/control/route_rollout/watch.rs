//! What the leader observes of a route beside its stored state. Nothing of it is saved: a new
//! leader starts with an empty watch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::rollout::EpochRange;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::NoisyGroup;

/// How much recent evidence is kept: for the request rate, and for the longest breaker window.
const RECENT_WINDOW: Duration = Duration::from_mins(5);
/// The shortest time that a request rate is computed over, seconds.
const MIN_RATE_SPAN_SECS: f64 = 5.0;

/// The leader's observations of one route.
#[derive(Default)]
pub(crate) struct LeaderWatch {
    pub(crate) lagging_replicas: Vec<String>,
    /// The evidence of the last gate evaluation.
    pub(crate) judged_evidence: Option<RolloutEvidence>,
    /// The group of clients that the last evaluation found to have most of the failures.
    noisy_group: Option<u8>,
    /// Whether Prometheus queries of this route's gates are under way.
    pub(crate) is_sampling: bool,
    last_tick_at: Option<Instant>,
    last_evaluation_at: Option<Instant>,
    /// The newest evidence, by epoch.
    evidence_by_epoch: BTreeMap<u64, RolloutEvidence>,
    /// The evidence that each tick added, oldest first.
    recent_evidence: VecDeque<(Instant, RolloutEvidence)>,
}

// === impl LeaderWatch ===

impl LeaderWatch {
    /// Forgets everything: this process starts to lead, and earlier observations are too old.
    pub(crate) fn reset_watch(&mut self) {
        *self = Self::default();
    }

    /// Forgets the recent evidence: it was observed at another weight.
    pub(crate) fn clear_recent_evidence(&mut self) {
        self.recent_evidence.clear();
        self.judged_evidence = None;
    }

    /// Records the evidence of all epochs, and what it adds to the evidence before.
    pub(crate) fn record_evidence(
        &mut self,
        now: Instant,
        evidence: impl Iterator<Item = (u64, RolloutEvidence)>,
    ) {
        let (mut added, mut by_epoch) = (RolloutEvidence::default(), BTreeMap::new());
        let is_first = self.evidence_by_epoch.is_empty();
        for (epoch, evidence) in evidence {
            let before = self.evidence_by_epoch.get(&epoch).copied().unwrap_or_default();
            added.add(&evidence.delta_since(&before));
            by_epoch.insert(epoch, evidence);
        }
        self.evidence_by_epoch = by_epoch;
        if !is_first {
            self.recent_evidence.push_back((now, added));
        }
        while self.recent_evidence.front().is_some_and(|(at, _)| now - *at > RECENT_WINDOW) {
            self.recent_evidence.pop_front();
        }
    }

    /// The time since the last tick, which is now; zero for the first one.
    pub(crate) fn start_tick(&mut self, now: Instant) -> Duration {
        self.last_tick_at.replace(now).map_or(Duration::ZERO, |last| now - last)
    }

    /// The time since the last evaluation, which is now; zero for the first one.
    pub(crate) fn start_evaluation(&mut self, now: Instant) -> Duration {
        self.last_evaluation_at.replace(now).map_or(Duration::ZERO, |last| now - last)
    }

    /// Whether `interval` has passed since the last evaluation, and no queries are under way. The
    /// interval of a new leader begins with its first call.
    pub(crate) fn is_evaluation_due(&mut self, now: Instant, interval: Duration) -> bool {
        let last = *self.last_evaluation_at.get_or_insert(now);
        !self.is_sampling && now - last >= interval
    }

    /// The evidence of each of `epochs`; none where one of them is not known yet.
    pub(crate) fn evidence_of(&self, epochs: &[u64]) -> Option<Vec<RolloutEvidence>> {
        epochs.iter().map(|epoch| self.evidence_by_epoch.get(epoch).copied()).collect()
    }

    /// Keeps the evidence of the judged epochs, to be shown.
    pub(crate) fn record_judged_evidence(&mut self, epochs: EpochRange) {
        let range = epochs.from_epoch..=epochs.to_epoch.max(epochs.from_epoch);
        let judged = self.evidence_by_epoch.range(range);
        self.judged_evidence = Some(judged.map(|(_, evidence)| evidence).sum());
    }

    /// The group of clients that has most of the judged failures, where another one or none had at
    /// the evaluation before.
    pub(crate) fn find_new_noisy_group(&mut self) -> Option<NoisyGroup> {
        let noisy = self.judged_evidence.as_ref().and_then(NoisyGroup::from_evidence);
        let group = noisy.map(|noisy| noisy.group);
        let before = std::mem::replace(&mut self.noisy_group, group);
        noisy.filter(|_| before != group)
    }

    /// The evidence that was added in the last `window`.
    pub(crate) fn sum_recent_evidence(&self, now: Instant, window: Duration) -> RolloutEvidence {
        let recent = self.recent_evidence.iter().rev().take_while(|(at, _)| now - *at <= window);
        recent.map(|(_, added)| added).sum()
    }

    /// Canaried requests per minute over the recent evidence; none while too little is observed.
    pub(crate) fn requests_per_minute(&self) -> Option<f64> {
        let (first, last) = (self.recent_evidence.front()?.0, self.recent_evidence.back()?.0);
        let canaried: u64 =
            self.recent_evidence.iter().map(|(_, added)| added.canaried_requests()).sum();
        let span = (last - first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // requests of five minutes
        let rate = canaried as f64 * 60.0 / span;
        (span >= MIN_RATE_SPAN_SECS).then_some(rate)
    }
}
