//! A look at the gates: what the evidence says, and what follows from it.
//!
//! A step is judged by a closed cohort: the requests that were accepted from its shift to the end of its soak, once nearly all of
//! them have an outcome. Where that leaves it undecided, the cohort is extended by what came since, as soon as that is
//! as much as the gates need. A healthy rollout is judged by the last hour, in epochs of a quarter of it.

use std::time::Duration;

use super::evidence::Evidence;
use super::gate::{Late, Look, Report, Verdict, judge};
use super::machine::{Observation, STOPPED, Turn};
use super::state::{CONTROLLER, Cohort, Pause, Phase, Progress, State};
use super::words::exact;
use crate::cohort::Weight;
use crate::config::{Baseline, Gate, MinSamples, SHADOW_MISMATCH};

/// How long an epoch of a healthy rollout lasts.
const EPOCH: Duration = Duration::from_mins(15);
/// How many of them are judged together: an hour, and the one that is under way.
const EPOCHS: u64 = 5;
/// By which part of itself at least a closed cohort is extended.
pub(super) const GROWTH: u64 = 8;
/// Good evaluations after which a rollout that was blind goes on.
const SIGHTED: u32 = 3;
/// How long evidence may be gone where no Prometheus has a grace of its own.
const GRACE: Duration = Duration::from_mins(10);

// === impl Turn ===

impl Turn<'_> {
    pub(super) fn look(&mut self, observation: Observation<'_>) {
        if self.state.weight == Weight::ZERO || !self.is_counted() || observation.evidence.is_empty() {
            return;
        }
        let aged = self.aged(observation.evidence);
        let observation = Observation { evidence: &aged, ..observation };
        let came = self.came(observation.evidence);
        let news = total(&came);
        let judged = self.judged(observation.evidence, observation.elapsed);
        let reports = self.judge(&judged, &came, &observation);
        self.note(&observation);
        let verdict = overall(&reports);
        self.state.reports = reports;
        self.state.frozen = self.why_frozen(&observation, &news, verdict);
        if self.is_hands_off() {
            return;
        }
        self.count(verdict, news.unavailable > 0, observation.elapsed);
        match self.state.phase {
            _ if self.state.fails >= self.plan.rollout.failure_limit => {
                let why = self.failed();
                self.fail(&why);
            }
            Phase::Soaking => self.soak(&judged, observation.elapsed),
            Phase::Gating => self.gate(&judged, verdict, &observation),
            Phase::Healthy => self.rotate(observation.elapsed),
            _ => {}
        }
    }

    /// Whether requests are counted for gates in this phase.
    fn is_counted(&self) -> bool {
        use Phase::{Degraded, Idle, Paused, RollingBack, Shifting};
        !matches!(self.state.phase, Idle | Shifting | Paused { then: Progress::Shifting, .. } | RollingBack | Degraded)
    }

    /// How long an epoch of a healthy rollout lasts: so that those in which a task may be open are a few dozen at most.
    fn epoch(&self) -> Duration {
        EPOCH.max(self.plan.deadline / 24)
    }

    /// How many epochs of a healthy rollout pass until what is open in one has failed.
    fn epochs_to_deadline(&self) -> u64 {
        (self.plan.deadline.as_secs() / self.epoch().as_secs()) + 1
    }

    /// A healthy rollout closes no cohorts: what is open in epochs that are past the deadline has failed.
    fn aged(&self, evidence: &[Evidence]) -> Vec<Evidence> {
        let mut aged = evidence.to_vec();
        if self.state.phase == Phase::Healthy {
            let State { first, healthy, epoch, .. } = self.state;
            let old = epoch.saturating_sub(self.epochs_to_deadline());
            // those of the climb last as they come, and their late failures count by themselves
            let numbered = (first..).zip(&mut aged).filter(|(epoch, _)| (healthy..old).contains(epoch));
            numbered.for_each(|(_, evidence)| give_up(evidence));
        }
        aged
    }

    /// What came since the last look, by epoch.
    fn came(&self, evidence: &[Evidence]) -> Vec<Evidence> {
        let seen = self.state.seen.iter().copied().chain(std::iter::repeat(Evidence::default()));
        evidence.iter().zip(seen).map(|(now, seen)| now.since(&seen)).collect()
    }

    /// The place of an epoch in the evidence.
    fn place(&self, epoch: u64) -> usize {
        usize::try_from(epoch.saturating_sub(self.state.first)).unwrap_or(usize::MAX)
    }

    /// The evidence of the cohort. Past its deadline, what has no outcome has failed.
    fn judged(&mut self, evidence: &[Evidence], elapsed: Duration) -> Evidence {
        let Cohort { from, to, .. } = self.state.cohort;
        let end = self.place(to).saturating_add(1).min(evidence.len());
        let mut judged = total(evidence.get(self.place(from)..end).unwrap_or_default());
        if let Some(closed) = &mut self.state.cohort.closed {
            *closed += elapsed;
            if *closed > self.plan.deadline {
                give_up(&mut judged);
            }
        }
        judged
    }

    fn judge(&mut self, judged: &Evidence, came: &[Evidence], observation: &Observation<'_>) -> Vec<Report> {
        let rollout = self.plan.rollout;
        // all since the shift are of one weight
        let (earlier, now) = came.split_at(self.place(self.state.cohort.from).min(came.len()));
        let late: Vec<Late> =
            earlier.iter().zip(observation.evidence).map(|(news, whole)| Late { news: *news, whole: *whole }).collect();
        let frozen = rollout.baseline_at(self.state.weight) == Baseline::Frozen;
        let look = Look {
            evidence: judged,
            news: &total(now),
            late: &late,
            baseline: self.state.baseline.as_ref().filter(|_| frozen),
            mature: is_mature(judged, rollout.maturity),
            healthy: self.state.phase == Phase::Healthy,
            full: self.state.weight == Weight::FULL,
            samples: observation.samples,
            queue_depth: observation.queue_depth,
            queue_oldest: observation.queue_oldest,
        };
        let (min, memory) = (self.asked_samples(), &mut self.state.memory);
        let judge = |gate: &Gate| judge(gate, min, memory.entry(gate.name.clone()).or_default(), &look);
        rollout.gates.iter().map(judge).collect()
    }

    /// Remembers what was seen, and forgets what can bring nothing any more.
    fn note(&mut self, observation: &Observation<'_>) {
        let state = &mut self.state;
        let first = state.prior.clamp(state.first, state.epoch);
        let past = usize::try_from(first - state.first).unwrap_or(usize::MAX);
        state.seen = observation.evidence.get(past..).unwrap_or_default().to_vec();
        state.first = first;
    }

    /// Why soak and gates stand still.
    fn why_frozen(&self, observation: &Observation<'_>, news: &Evidence, verdict: Verdict) -> Option<String> {
        if self.percent() == Weight::ZERO {
            return Some(STOPPED.into());
        }
        if news.unavailable > 0 {
            return Some(format!("the store was gone for {} requests since the last look", news.unavailable));
        }
        if !observation.laggards.is_empty() {
            let who = observation.laggards.join(", ");
            return Some(format!("not all replicas run {}: {who}", self.state.weight));
        }
        let erring = self.state.reports.iter().find(|report| report.verdict == Verdict::Error);
        erring.filter(|_| verdict == Verdict::Error).map(|report| report.why.clone())
    }

    /// Counts verdicts in a row, and how long it has been blind.
    fn count(&mut self, verdict: Verdict, store_was_gone: bool, elapsed: Duration) {
        let rollout = self.plan.rollout;
        let state = &mut self.state;
        let blind = verdict == Verdict::Error || store_was_gone;
        state.sighted = if blind { 0 } else { state.sighted.saturating_add(1) };
        state.blind = if blind { state.blind + elapsed } else { Duration::ZERO };
        match verdict {
            _ if store_was_gone => {}
            Verdict::Fail => (state.fails, state.passes) = (state.fails + 1, 0),
            Verdict::Pass if state.frozen.is_none() && state.phase == Phase::Gating => {
                (state.fails, state.passes) = (0, state.passes + 1);
            }
            Verdict::Pass | Verdict::Inconclusive => (state.fails, state.passes) = (0, 0),
            Verdict::Error => state.passes = 0,
        }
        let grace = rollout.prometheus.as_ref().map_or(GRACE, |prometheus| prometheus.grace);
        match state.phase {
            Phase::Soaking | Phase::Gating if state.blind > grace => {
                let why = state.frozen.clone().unwrap_or_default();
                self.pause(Pause::MetricsUnavailable, &why);
            }
            Phase::Paused { why: Pause::MetricsUnavailable, then } if state.sighted >= SIGHTED => {
                self.enter(then.into());
                self.tell("resume", CONTROLLER, "all sources answer again");
            }
            _ => {}
        }
    }

    fn failed(&self) -> String {
        let failed = self.state.reports.iter().filter(|report| report.verdict == Verdict::Fail);
        failed.map(|report| report.why.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// Watches the step; once it was watched long enough and has enough requests, its cohort is closed.
    fn soak(&mut self, judged: &Evidence, elapsed: Duration) {
        if self.state.frozen.is_some() {
            return;
        }
        let (rollout, min) = (self.plan.rollout, self.min_samples());
        self.state.soaked += elapsed;
        if self.state.soaked < rollout.soak_at(self.state.weight) {
            return;
        }
        if judged.canaried() >= min.asynchronous && judged.sync.total >= min.sync {
            self.close();
            self.enter(Phase::Gating);
        } else {
            self.be_patient(elapsed);
        }
    }

    /// What can be waited for: nothing of the sync path where all traffic is async.
    fn min_samples(&self) -> MinSamples {
        let min = self.plan.rollout.min_samples;
        if self.state.weight == Weight::FULL { MinSamples { sync: 0, ..min } } else { min }
    }

    /// What a gate asks for: where a baseline is to be compared with and there is none, it cannot pass.
    fn asked_samples(&self) -> MinSamples {
        let rollout = self.plan.rollout;
        let lacks = rollout.baseline_at(self.state.weight) == Baseline::Frozen && self.state.baseline.is_none();
        if lacks { rollout.min_samples } else { self.min_samples() }
    }

    /// What comes from now on is counted for itself.
    fn close(&mut self) {
        self.state.cohort.to = self.state.epoch;
        self.state.cohort.closed = Some(Duration::ZERO);
        self.state.epoch += 1;
    }

    fn gate(&mut self, judged: &Evidence, verdict: Verdict, observation: &Observation<'_>) {
        if self.state.passes >= self.plan.rollout.success_streak {
            return self.complete();
        }
        if self.state.frozen.is_some() {
            return;
        }
        if verdict == Verdict::Inconclusive {
            self.be_patient(observation.elapsed);
            if self.state.phase == Phase::Gating && is_mature(judged, self.plan.rollout.maturity) {
                self.extend(judged, observation.evidence);
            }
        }
    }

    /// Takes what came since the cohort was closed into it, where that is as much as the gates need.
    fn extend(&mut self, judged: &Evidence, evidence: &[Evidence]) {
        let since = total(&evidence[evidence.len().saturating_sub(self.after_cohort())..]);
        let needed = self.state.reports.iter().filter_map(|report| report.needs).max();
        let lacks_copies = self
            .state
            .reports
            .iter()
            .any(|report| report.kind == SHADOW_MISMATCH && report.verdict == Verdict::Inconclusive);
        let lacks_sync = judged.sync.total < self.min_samples().sync;
        // by a share of what there is, so that a long doubt makes dozens of epochs and not thousands
        let grows = |new: u64, old: u64| new >= (old / GROWTH).max(1);
        let enough = since.canaried() >= needed.unwrap_or_default() && grows(since.canaried(), judged.canaried());
        if enough
            || (lacks_copies && grows(since.compared, judged.compared))
            || (lacks_sync && since.canaried() > 0 && grows(since.sync.total, judged.sync.total))
        {
            self.close();
        }
    }

    /// Epochs that are newer than the cohort.
    fn after_cohort(&self) -> usize {
        usize::try_from(self.state.epoch - self.state.cohort.to).unwrap_or(usize::MAX)
    }

    fn be_patient(&mut self, elapsed: Duration) {
        let max = self.plan.rollout.max_wait;
        self.state.waited += elapsed;
        if self.state.waited > max {
            let why = self.state.reports.iter().find(|report| report.verdict != Verdict::Pass);
            let why = why.map_or("there are too few requests", |report| report.why.as_str()).to_owned();
            self.pause(Pause::Inconclusive, &format!("undecided for {}: {why}", exact(max)));
        }
    }

    /// The step's gates have passed.
    fn complete(&mut self) {
        let (weight, rollout) = (self.state.weight, self.plan.rollout);
        let Some(next) = rollout.next_after(weight) else {
            let why = format!("percent, {weight}, is reached, and its gates have passed");
            return self.reach_percent("step", CONTROLLER, &why);
        };
        if rollout.step_at(weight).is_some_and(|step| step.approval) {
            self.pause(
                Pause::AwaitingApproval,
                &format!("the gates of {weight} have passed, and the step asks for a person"),
            );
        } else if self.may_raise() {
            self.climb(next, &format!("the gates of {weight} have passed"));
        } else {
            self.say(CONTROLLER, &format!("the gates of {weight} have passed, and no window is open"));
        }
    }

    pub(super) fn reach_percent(&mut self, event: &'static str, by: &str, reason: &str) {
        self.enter(Phase::Healthy);
        self.state.healthy = self.state.epoch;
        self.state.cohort = Cohort { from: self.state.epoch, to: self.state.epoch, closed: None };
        self.tell(event, by, reason);
    }

    /// A healthy rollout begins another epoch now and then, and judges the last few.
    fn rotate(&mut self, elapsed: Duration) {
        let (length, kept) = (self.epoch(), EPOCHS.max(self.epochs_to_deadline() + 1));
        let state = &mut self.state;
        state.waited += elapsed;
        if state.waited >= length {
            state.waited = Duration::ZERO;
            state.epoch += 1;
        }
        state.cohort.to = state.epoch;
        state.cohort.from = state.cohort.from.max((state.epoch + 1).saturating_sub(EPOCHS));
        state.prior = state.prior.max(state.cohort.from.saturating_sub(kept));
    }
}

/// What has no outcome has failed.
fn give_up(evidence: &mut Evidence) {
    let open = evidence.open();
    evidence.asynchronous.failed += open;
    evidence.asynchronous.total += open;
}

fn total(evidence: &[Evidence]) -> Evidence {
    evidence.iter().sum()
}

/// Whether enough of a cohort's tasks have an outcome.
fn is_mature(judged: &Evidence, maturity: f64) -> bool {
    #[allow(clippy::cast_precision_loss)] // counts of requests
    let (open, accepted) = (judged.open() as f64, judged.accepted as f64);
    open <= (1.0 - maturity) * accepted
}

/// FAIL wins, then a source that is gone, then doubt.
fn overall(reports: &[Report]) -> Verdict {
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    [Verdict::Fail, Verdict::Error, Verdict::Inconclusive]
        .into_iter()
        .find(|verdict| has(*verdict))
        .unwrap_or(Verdict::Pass)
}
