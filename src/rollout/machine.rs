//! Event → next state: pure, so that a restart at any point changes nothing.
//!
//! An order goes before automation, abort before everything. Only the plan's steps are climbed to; lowering is at once.
//! Automation raises the weight in one place, `Turn::climb`, and only on PASS; it turns back in one, `Turn::turn_back`.
//! What nobody can judge (a source is gone, replicas differ) stands still: soak and patience accumulate only while
//! somebody looks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{Counts, Evidence};
use super::gate::{Report, Sample, Verdict};
use super::state::{CONTROLLER, Cohort, Pause, Phase, Progress, State};
use super::verb::{Refusal, Verb};
use super::words::exact;
use crate::cohort::Weight;
use crate::config::{Rollout, RolloutMode, is_open};
use crate::task::UnixMs;

/// What the file says about a route.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The route's name, for messages.
    pub route: &'a str,
    /// Its section.
    pub rollout: &'a Rollout,
    /// How long after it was accepted a task may still end: what has not by then has failed.
    pub deadline: Duration,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The file was read: at start, or because it was edited.
    Planned,
    /// About a second has passed.
    Beat(Beat<'a>),
    /// The gates are looked at.
    Look(Observation<'a>),
    /// Somebody said so.
    Ordered(&'a Verb),
    /// The store has lost what it knew, evidence and all.
    Lost,
}

/// What the leader sees every second.
#[derive(Clone, Copy, Debug)]
pub struct Beat<'a> {
    /// Since the last one.
    pub elapsed: Duration,
    /// Live replicas that do not run the present epoch, or whose file differs.
    pub laggards: &'a [String],
    /// What came in the breaker's window.
    pub window: &'a Evidence,
}

/// What the leader sees every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Since the last one.
    pub elapsed: Duration,
    /// As in [`Beat`].
    pub laggards: &'a [String],
    /// The evidence of [`State::epochs`], in that order.
    pub evidence: &'a [Evidence],
    /// Answers of Prometheus by gate.
    pub samples: &'a BTreeMap<String, Sample>,
    /// Waiting tasks of the topic; none where that is not known.
    pub queue_depth: Option<u64>,
    /// The age of the oldest of them.
    pub queue_oldest: Option<Duration>,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The next state; the same when nothing changed.
    pub state: State,
    /// What the history is told.
    pub happened: Vec<Happened>,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// When.
    pub at: UnixMs,
    /// `step`, `rollback`, `abort`, `pause`, `resume`, `promote`, `set-weight` or `retry`.
    pub event: &'static str,
    /// Who: an operator, `file` or [`CONTROLLER`].
    pub by: String,
    /// Why.
    pub reason: String,
    /// The weight before.
    pub from: Weight,
    /// The weight after.
    pub to: Weight,
    /// The epoch after.
    pub epoch: u64,
    /// The phase after.
    pub phase: Phase,
    /// What the gates said, where they were the reason.
    pub reports: Vec<Report>,
}

/// Why everything stands still where the file allows nothing.
pub(super) const STOPPED: &str = "percent in the file is 0";

/// Who edits the file.
pub(super) const FILE: &str = "file";

/// The state after `event`.
///
/// # Errors
/// For an order that cannot be followed now: why, and the way out.
pub fn decide(state: &State, plan: Plan<'_>, event: Event<'_>, now: UnixMs) -> Result<Decision, Refusal> {
    let mut turn = Turn { state: state.clone(), plan, now, happened: Vec::new() };
    match event {
        Event::Planned => turn.planned(),
        Event::Beat(beat) => turn.beat(beat),
        Event::Look(observation) => turn.look(observation),
        Event::Ordered(verb) => turn.ordered(verb)?,
        Event::Lost => turn.lost(),
    }
    Ok(Decision { state: turn.state, happened: turn.happened })
}

/// What a replica runs: never more than its own file allows.
#[must_use]
pub fn running(state: &State, percent: Weight) -> Weight {
    state.weight.min(percent)
}

/// Whether requests of the sync path may be copied to the async one: not once that was turned back.
#[must_use]
pub fn copies(state: &State) -> bool {
    !matches!(state.phase, Phase::RollingBack | Phase::Degraded)
}

/// A decision in the making.
pub(super) struct Turn<'a> {
    pub(super) state: State,
    pub(super) plan: Plan<'a>,
    pub(super) now: UnixMs,
    pub(super) happened: Vec<Happened>,
}

// === impl Turn ===

impl Turn<'_> {
    pub(super) fn percent(&self) -> Weight {
        self.plan.rollout.percent
    }

    pub(super) fn is_manual(&self) -> bool {
        self.plan.rollout.mode == RolloutMode::Manual
    }

    /// Whether automation has no say: the mode is manual, somebody set the weight, or the file stops everything.
    pub(super) fn is_hands_off(&self) -> bool {
        self.is_manual() || self.state.held || self.percent() == Weight::ZERO
    }

    /// Whether a weight may be raised now.
    pub(super) fn may_raise(&self) -> bool {
        let windows = &self.plan.rollout.windows;
        windows.is_empty()
            || jiff::Timestamp::from_millisecond(self.now.0.cast_signed()).is_ok_and(|now| is_open(windows, now))
    }

    pub(super) fn planned(&mut self) {
        if matches!(self.state.phase, Phase::RollingBack | Phase::Degraded) {
            return; // a rollout that turned back is left by `retry`, whatever the file says
        }
        self.follow_gates();
        let percent = self.percent();
        if self.state.held {
            if self.state.weight > percent && percent > Weight::ZERO {
                self.lower(percent);
            }
        } else if self.is_manual() {
            self.follow_percent();
        } else if percent == Weight::ZERO {
            // the running weight is 0 by the clamp, and what was reached is kept
            if self.state.phase.progress().is_some() {
                self.state.frozen = Some(STOPPED.into());
            }
        } else if self.state.weight > percent {
            self.lower(percent);
        } else if self.state.frozen.as_deref() == Some(STOPPED) {
            // all were served sync meanwhile: that is compared with nothing
            let then = self.state.phase.clone();
            self.shift(self.state.weight, "resume", FILE, &format!("percent in the file is {percent} again"));
            self.stay_paused(&then);
        } else {
            self.begin();
        }
    }

    /// The file allows less.
    fn lower(&mut self, percent: Weight) {
        let then = self.state.phase.clone();
        self.shift(percent, "step", FILE, &format!("percent in the file is {percent} now"));
        self.stay_paused(&then);
    }

    /// What an operator paused stays so.
    fn stay_paused(&mut self, before: &Phase) {
        if matches!(before, Phase::Paused { why: Pause::Operator, .. }) {
            self.enter(Phase::Paused { why: Pause::Operator, then: Progress::Shifting });
        }
    }

    /// What is counted begins anew, under the weight that was reached.
    fn lost(&mut self) {
        self.begin_step();
        let state = &mut self.state;
        (state.first, state.prior, state.seen) = (state.epoch, state.epoch, Vec::new());
        if state.phase == Phase::Gating {
            self.enter(Phase::Soaking);
        } else if let Phase::Paused { then: then @ Progress::Gating, .. } = &mut state.phase {
            *then = Progress::Soaking;
        }
        self.say(CONTROLLER, "the store lost what it knew: the soak begins anew");
    }

    /// `mode: manual`: the weight is the file's.
    fn follow_percent(&mut self) {
        let percent = self.percent();
        let from = self.state.weight;
        if from == percent && self.state.phase == Phase::Manual {
            return;
        }
        self.move_to(percent);
        self.enter(Phase::Manual);
        self.begin_step();
        if from != percent {
            self.tell_from(from, "step", FILE, &format!("percent in the file is {percent}, mode is manual"));
        }
    }

    /// A gated rollout that has something to climb to and has not begun: the first step is taken at once, since there
    /// can be no evidence of the async path yet.
    fn begin(&mut self) {
        match self.state.phase {
            Phase::Idle => {
                if let Some(first) = self.plan.rollout.next_after(Weight::ZERO) {
                    self.shift(first, "step", CONTROLLER, &format!("the first step on the way to {}", self.percent()));
                }
            }
            Phase::Manual => {
                let reason = "mode in the file is gated now";
                if self.state.weight == Weight::ZERO {
                    self.enter(Phase::Idle);
                    return self.begin();
                }
                self.shift(self.state.weight, "step", FILE, reason);
            }
            Phase::Healthy => self.climb_from_health(),
            _ => {}
        }
    }

    /// An edit of the gates restarts the present soak, and nothing else.
    fn follow_gates(&mut self) {
        let digest = self.plan.rollout.gates_digest();
        if std::mem::replace(&mut self.state.gates, digest) == digest {
            return;
        }
        match self.state.phase.progress() {
            Some(Progress::Soaking | Progress::Gating) => {
                self.begin_step();
                self.say(FILE, "the gates were edited: the soak begins anew");
                match &mut self.state.phase {
                    // it was the old gates that had passed
                    Phase::Paused { why: Pause::AwaitingApproval, .. } => self.enter(Phase::Soaking),
                    Phase::Paused { then, .. } => *then = Progress::Soaking,
                    _ => self.enter(Phase::Soaking),
                }
            }
            Some(Progress::Healthy) | None => self.state.memory.clear(),
            Some(Progress::Shifting) => {}
        }
    }

    fn beat(&mut self, beat: Beat<'_>) {
        if self.percent() == Weight::ZERO && self.state.phase != Phase::RollingBack {
            return;
        }
        let settled = beat.laggards.is_empty();
        match self.state.phase {
            Phase::RollingBack if settled => self.enter(Phase::Degraded),
            Phase::Shifting | Phase::Paused { why: Pause::NotConverged, .. } if settled => {
                if self.state.phase != Phase::Shifting {
                    self.tell("resume", CONTROLLER, "all replicas run the weight");
                }
                self.enter(Phase::Soaking);
                self.begin_step();
                self.state.frozen = None;
            }
            Phase::Shifting => {
                self.state.waited += beat.elapsed;
                if self.state.waited > self.plan.rollout.converge {
                    let who = beat.laggards.join(", ");
                    self.pause(Pause::NotConverged, &format!("not all replicas run {}: {who}", self.state.weight));
                }
            }
            Phase::Healthy if !self.is_hands_off() => self.climb_from_health(),
            _ => {}
        }
        let counts = self.state.phase.progress().is_some() && !self.is_hands_off();
        if counts && super::gate::breaks(&self.plan.rollout.breaker, beat.window) {
            let Counts { failed, total, .. } = beat.window.asynchronous;
            let window = exact(self.plan.rollout.breaker.window);
            self.fail(&format!("breaker: {failed} of {total} async failed within {window}"));
        }
    }

    /// `percent` was raised over a weight that is healthy, and all who judge it can see.
    fn climb_from_health(&mut self) {
        let Some(next) = self.plan.rollout.next_after(self.state.weight) else { return };
        let (state, weight) = (&self.state, self.state.weight);
        let in_doubt = |report: &Report| matches!(report.verdict, Verdict::Fail | Verdict::Error);
        if state.fails > 0 || state.frozen.is_some() || state.reports.iter().any(in_doubt) || !self.may_raise() {
            return;
        }
        if self.plan.rollout.step_at(weight).is_some_and(|step| step.approval) {
            return self
                .pause(Pause::AwaitingApproval, &format!("{weight} is healthy, and the step asks for a person"));
        }
        self.climb(next, &format!("{weight} is healthy, percent in the file is {}", self.percent()));
    }

    /// Raises the weight on the evidence of the step before.
    pub(super) fn climb(&mut self, next: Weight, reason: &str) {
        let reports = self.state.reports.clone();
        self.shift(next, "step", CONTROLLER, reason);
        if let Some(step) = self.happened.last_mut() {
            step.reports = reports;
        }
    }

    /// FAIL, by gates or breaker: what `on_fail` says.
    pub(super) fn fail(&mut self, reason: &str) {
        match self.plan.rollout.on_fail {
            crate::config::OnFail::Rollback => self.turn_back("rollback", CONTROLLER, reason),
            // said once; and who paused it before need not be told to
            crate::config::OnFail::Pause => match self.state.phase {
                Phase::Paused { why: Pause::Failed | Pause::Operator, .. } => return,
                _ => self.pause(Pause::Failed, reason),
            },
        }
        if let Some(happened) = self.happened.last_mut() {
            happened.reports.clone_from(&self.state.reports);
        }
    }

    /// To weight 0, until somebody says `retry`.
    pub(super) fn turn_back(&mut self, event: &'static str, by: &str, reason: &str) {
        let from = self.state.weight;
        self.state.held = false;
        self.move_to(Weight::ZERO);
        self.enter(Phase::RollingBack);
        self.tell_from(from, event, by, reason);
    }

    pub(super) fn pause(&mut self, why: Pause, reason: &str) {
        let Some(then) = self.state.phase.progress() else { return };
        self.enter(Phase::Paused { why, then });
        self.tell("pause", CONTROLLER, reason);
    }

    /// Another weight, which all replicas have to take up before anything is counted.
    pub(super) fn shift(&mut self, weight: Weight, event: &'static str, by: &str, reason: &str) {
        let from = self.state.weight;
        let sync = self.state.seen.iter().sum::<Evidence>().sync;
        if weight > from && sync.total > 0 {
            self.state.baseline = Some(sync);
        }
        self.move_to(weight);
        self.state.reports.clear();
        self.enter(Phase::Shifting);
        self.tell_from(from, event, by, reason);
    }

    /// Another weight, and nothing else.
    pub(super) fn move_to(&mut self, weight: Weight) {
        self.state.epoch += 1;
        self.state.weight = weight;
        self.state.changed = self.now;
        self.state.passes = 0;
        self.state.fails = 0;
        self.state.soaked = Duration::ZERO;
        self.state.frozen = None;
    }

    /// The weight is taken up everywhere: counters, soak and gates begin.
    pub(super) fn begin_step(&mut self) {
        let state = &mut self.state;
        state.prior = state.prior.max(state.cohort.from);
        state.epoch += 1;
        state.cohort = Cohort { from: state.epoch, to: state.epoch, closed: None };
        state.memory.clear();
        (state.passes, state.fails) = (0, 0);
        (state.soaked, state.waited, state.blind) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.state.since = self.now;
        self.state.waited = Duration::ZERO;
    }

    /// Gives the reason for where it stands.
    pub(super) fn say(&mut self, by: &str, reason: &str) {
        by.clone_into(&mut self.state.by);
        reason.clone_into(&mut self.state.reason);
    }

    pub(super) fn tell(&mut self, event: &'static str, by: &str, reason: &str) {
        self.tell_from(self.state.weight, event, by, reason);
    }

    /// Gives the reason, here and in the history.
    pub(super) fn tell_from(&mut self, from: Weight, event: &'static str, by: &str, reason: &str) {
        self.say(by, reason);
        let State { weight, epoch, ref phase, .. } = self.state;
        self.happened.push(Happened {
            at: self.now,
            event,
            by: by.to_owned(),
            reason: reason.to_owned(),
            from,
            to: weight,
            epoch,
            phase: phase.clone(),
            reports: Vec::new(),
        });
    }
}
