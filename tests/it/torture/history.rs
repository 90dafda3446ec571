//! What happened in a round of torture, and whether it keeps the promises. Pure: a history in, a
//! verdict out.
//!
//! Every event is a line of one journal, which clients, handlers and the harness append to at once
//! (`O_APPEND`), so that whatever is killed, what was said before is there. A task may run more
//! than once only where the earlier run can have been cut off from its store: its process killed,
//! stopped, or starved by the machine. Each such run must be explained by a fault within its time,
//! and all together by the number of faults times what one process runs at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use omnidaemon::store::CRASH_RERUN_LIMIT;
use serde::{Deserialize, Serialize};

/// A line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JournalEntry {
    /// Unix time, ms.
    pub at: u64,
    #[serde(flatten)]
    pub event: TortureEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum TortureEvent {
    /// A client got a 202 for the task.
    Accepted { id: String },
    /// A handler was called.
    Begun { id: String, attempt: u32 },
    /// It answered.
    Ended { id: String, attempt: u32, ok: bool },
    /// A client was told that the task is cancelled.
    Cancelled { id: String },
    /// A client read the task, and it has ended; none is 404.
    EndObserved { id: String, end: Option<TaskEnd> },
    /// What the task is when everything is quiet; none is 404.
    Final { id: String, end: Option<TaskEnd> },
    /// A dead letter of the task was there in the end.
    DeadLetter { id: String },
    /// A fault that lasted until now.
    Fault { fault: FaultKind, target: String, from: u64 },
}

/// A task as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TaskEnd {
    pub status: String,
    pub attempts: u32,
    /// The attempt that the result says it is of.
    pub result_attempt: Option<u32>,
}

/// What was done to a process or the way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    /// A process of ours, by SIGKILL.
    Kill,
    /// A process of ours stood still for longer than a lease.
    Freeze,
    /// A process of ours was told to end.
    Drain,
    /// Redis was killed.
    Outage,
    /// Connections to it were cut, or nothing got through.
    Cut,
    /// The machine gave nobody any time.
    Stall,
}

/// What the checker has to know of the round.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckRules {
    /// The topics' `retries`.
    pub retries: u32,
    /// What one process runs at once.
    pub concurrency: usize,
    /// A lease, ms: within it a running attempt hears of its cancellation.
    pub lease_ms: u64,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BrokenPromise {
    /// A task that was answered with 202 is unknown, or has not ended.
    Lost,
    /// It ended, and then was something else.
    EndChanged,
    /// It ran once more without a fault that explains it.
    UnexplainedRun,
    /// More such runs than the faults explain together.
    TooManyRuns,
    /// An attempt of the same number ran twice.
    AttemptRanTwice,
    /// It began after it had ended.
    RanAfterEnd,
    /// It failed before its attempts were spent, or had more than it is given.
    WrongAttemptCount,
    /// It is completed by an attempt that did not succeed.
    ResultWithoutSuccess,
    /// A dead letter too many or too few.
    WrongDeadLetterCount,
}

/// The figures of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RoundFigures {
    pub accepted: usize,
    pub completed: usize,
    pub failed: usize,
    pub cancelled: usize,
    pub lost: usize,
    pub runs: usize,
    /// Runs that a fault made necessary.
    pub repeated_runs: usize,
    pub faults: BTreeMap<FaultKind, usize>,
}

/// What broke, of which task, and how.
pub(super) type PromiseBreach = (BrokenPromise, String, String);

/// One call of a handler.
#[derive(Clone, Copy, Debug)]
struct HandlerRun {
    begun_at: u64,
    attempt: u32,
    /// Whether it answered, and well.
    ok: Option<bool>,
}

/// All that happened to one task.
#[derive(Default)]
struct TaskTimeline {
    accepted_at: Option<u64>,
    runs: Vec<HandlerRun>,
    /// When a client saw it as ended, in order.
    observed_ends: Vec<(u64, Option<TaskEnd>)>,
    /// Every task is asked after when all is quiet.
    final_read: bool,
    /// What it was then; none is unknown.
    final_end: Option<TaskEnd>,
    cancelled_at: Option<u64>,
    dead_letter_count: usize,
}

/// When a fault lasted.
struct FaultWindow {
    fault: FaultKind,
    from: u64,
    until: u64,
    /// A drain that could not tell the store what it gave back.
    store_unreachable: bool,
}

/// How late a handler can say that it began, ms: its worker may be dead by then.
const BEGIN_DELAY_MS: u64 = 1000;

/// Holds a history against the promises.
pub(super) fn check_history(
    history: &[JournalEntry],
    rules: CheckRules,
) -> (RoundFigures, Vec<PromiseBreach>) {
    let mut ordered: Vec<&JournalEntry> = history.iter().collect();
    ordered.sort_by_key(|entry| entry.at);
    let (stories, windows) = group_by_task(&ordered);
    let mut figures = RoundFigures::default();
    for window in &windows {
        *figures.faults.entry(window.fault).or_default() += 1;
    }
    let mut breaches = Vec::new();
    for (id, story) in &stories {
        let mut wrong = |broken, what: String| breaches.push((broken, (*id).to_owned(), what));
        story.add_to_figures(&mut figures);
        story.check_final_state(&mut wrong);
        story.check_attempts(rules, &mut wrong);
        figures.repeated_runs += story.check_runs(rules, &windows, &mut wrong);
    }
    figures.lost = breaches.iter().filter(|(broken, ..)| *broken == BrokenPromise::Lost).count();
    let cuts = windows.iter().filter(|window| window.can_cut_off_run()).count();
    if figures.repeated_runs > cuts * rules.concurrency {
        let what = format!(
            "{} runs by {cuts} faults of at most {} each",
            figures.repeated_runs, rules.concurrency
        );
        breaches.push((BrokenPromise::TooManyRuns, "all".into(), what));
    }
    (figures, breaches)
}

fn group_by_task<'h>(
    ordered: &[&'h JournalEntry],
) -> (BTreeMap<&'h str, TaskTimeline>, Vec<FaultWindow>) {
    let (mut stories, mut windows) = (BTreeMap::<&str, TaskTimeline>::new(), Vec::new());
    for JournalEntry { at, event } in ordered.iter().copied() {
        match event {
            TortureEvent::Accepted { id } => stories.entry(id).or_default().accepted_at = Some(*at),
            TortureEvent::Begun { id, attempt } => {
                stories.entry(id).or_default().runs.push(HandlerRun {
                    begun_at: *at,
                    attempt: *attempt,
                    ok: None,
                });
            }
            TortureEvent::Ended { id, attempt, ok } => {
                let open = |run: &&mut HandlerRun| run.attempt == *attempt && run.ok.is_none();
                if let Some(run) = stories.entry(id).or_default().runs.iter_mut().find(open) {
                    run.ok = Some(*ok);
                }
            }
            TortureEvent::Cancelled { id } => {
                let story = stories.entry(id).or_default();
                story.cancelled_at = story.cancelled_at.or(Some(*at));
            }
            TortureEvent::EndObserved { id, end } => {
                stories.entry(id).or_default().observed_ends.push((*at, end.clone()));
            }
            TortureEvent::Final { id, end } => {
                let story = stories.entry(id).or_default();
                (story.final_read, story.final_end) = (true, end.clone());
            }
            TortureEvent::DeadLetter { id } => {
                stories.entry(id).or_default().dead_letter_count += 1;
            }
            TortureEvent::Fault { fault, from, .. } => {
                windows.push(FaultWindow {
                    fault: *fault,
                    from: *from,
                    until: *at,
                    store_unreachable: false,
                });
            }
        }
    }
    let gone = |window: &&FaultWindow| matches!(window.fault, FaultKind::Outage | FaultKind::Cut);
    let gone: Vec<_> =
        windows.iter().filter(gone).map(|window| (window.from, window.until)).collect();
    for drain in windows.iter_mut().filter(|window| window.fault == FaultKind::Drain) {
        drain.store_unreachable =
            gone.iter().any(|(from, until)| *from <= drain.until && *until >= drain.from);
    }
    (stories, windows)
}

// === impl Story ===

impl TaskTimeline {
    fn add_to_figures(&self, figures: &mut RoundFigures) {
        figures.accepted += usize::from(self.accepted_at.is_some());
        figures.runs += self.runs.len();
        match self.final_end.as_ref().map(|end| end.status.as_str()) {
            Some("completed") => figures.completed += 1,
            Some("failed") => figures.failed += 1,
            Some("cancelled") => figures.cancelled += 1,
            _ => {}
        }
    }

    /// It ended once, as something.
    fn check_final_state(&self, wrong: &mut impl FnMut(BrokenPromise, String)) {
        let is_final =
            |end: &TaskEnd| ["completed", "failed", "cancelled"].contains(&end.status.as_str());
        if self.accepted_at.is_some() && !self.final_end.as_ref().is_some_and(is_final) {
            wrong(BrokenPromise::Lost, format!("{:?}", self.final_end));
        }
        let seen = self
            .observed_ends
            .iter()
            .map(|(_, end)| end)
            .chain(self.final_read.then_some(&self.final_end));
        let different: BTreeSet<String> = seen.map(|end| format!("{end:?}")).collect();
        if different.len() > 1 {
            wrong(BrokenPromise::EndChanged, format!("{different:?}"));
        }
        if self.cancelled_at.is_some()
            && self.final_end.as_ref().is_some_and(|end| end.status != "cancelled")
        {
            wrong(BrokenPromise::EndChanged, format!("cancelled, and then {:?}", self.final_end));
        }
        let letters =
            usize::from(self.final_end.as_ref().is_some_and(|end| end.status == "failed"));
        if self.final_read && self.dead_letter_count != letters {
            wrong(
                BrokenPromise::WrongDeadLetterCount,
                format!("{} of {:?}", self.dead_letter_count, self.final_end),
            );
        }
    }

    /// It had as many attempts as it is given, and its result is of one that succeeded.
    fn check_attempts(&self, rules: CheckRules, wrong: &mut impl FnMut(BrokenPromise, String)) {
        let Some(end) = &self.final_end else { return };
        let most = (rules.retries + 1).max(rules.retries + CRASH_RERUN_LIMIT);
        let early = end.status == "failed" && end.attempts <= rules.retries;
        if early || end.attempts > most || self.runs.iter().any(|run| run.attempt > most) {
            wrong(
                BrokenPromise::WrongAttemptCount,
                format!(
                    "{end:?} of {} and {CRASH_RERUN_LIMIT} more, {:?}",
                    rules.retries, self.runs
                ),
            );
        }
        let by_one = |run: &HandlerRun| run.attempt == end.attempts && run.ok == Some(true);
        if end.status == "completed"
            && !(self.runs.iter().any(by_one) && end.result_attempt == Some(end.attempts))
        {
            wrong(BrokenPromise::ResultWithoutSuccess, format!("{end:?} of {:?}", self.runs));
        }
    }

    /// Each run has a reason; says how many were due to faults.
    fn check_runs(
        &self,
        rules: CheckRules,
        windows: &[FaultWindow],
        wrong: &mut impl FnMut(BrokenPromise, String),
    ) -> usize {
        let mut doubles = 0;
        for (n, run) in self.runs.iter().enumerate() {
            let within = |from: u64| {
                windows
                    .iter()
                    .filter(move |w| w.from <= run.begun_at && w.until + BEGIN_DELAY_MS >= from)
            };
            if let Some(same) = self.runs[..n].iter().find(|earlier| earlier.attempt == run.attempt)
                && !within(same.begun_at).any(|window| window.store_unreachable)
            {
                wrong(BrokenPromise::AttemptRanTwice, format!("{:?}", self.runs));
            }
            // the one before it alone: what came before that one has been counted with it
            if let Some(cut) = self.runs[..n].last().filter(|before| before.ok != Some(false)) {
                doubles += 1;
                if !within(cut.begun_at).any(FaultWindow::can_cut_off_run) {
                    wrong(BrokenPromise::UnexplainedRun, format!("{:?}", self.runs));
                }
            }
            let ended = self
                .observed_ends
                .iter()
                .find(|(_, end)| end.is_some())
                .map(|(at, _)| *at)
                .into_iter()
                .chain(self.cancelled_at)
                .min();
            let is_late = ended.is_some_and(|ended| run.begun_at > ended);
            let told = self.cancelled_at.is_some_and(|at| run.begun_at <= at + rules.lease_ms);
            let since = self.accepted_at.unwrap_or(run.begun_at);
            if is_late
                && !told
                && !within(since).any(|w| matches!(w.fault, FaultKind::Freeze | FaultKind::Stall))
            {
                wrong(
                    BrokenPromise::RanAfterEnd,
                    format!("{:?} after {:?} {:?}", run, self.observed_ends, self.cancelled_at),
                );
            }
        }
        doubles
    }
}

impl FaultWindow {
    /// Whether a run can be cut off from its store by it, so that the task has to run again.
    fn can_cut_off_run(&self) -> bool {
        self.store_unreachable
            || matches!(self.fault, FaultKind::Kill | FaultKind::Freeze | FaultKind::Stall)
    }
}

// === impl Figures ===

impl RoundFigures {
    /// These and those of another round.
    pub(super) fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.lost += other.lost;
        self.runs += other.runs;
        self.repeated_runs += other.repeated_runs;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for RoundFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            completed,
            failed,
            cancelled,
            lost,
            runs,
            repeated_runs: doubles,
            faults,
        } = self;
        let tasks = completed + failed + cancelled;
        write!(
            f,
            "{tasks} tasks: {completed} completed, {failed} failed, {cancelled} cancelled; "
        )?;
        write!(f, "{accepted} answered with 202, {lost} lost; {runs} runs, {doubles} doubles;")?;
        for (fault, count) in faults {
            write!(f, " {}={count}", format!("{fault:?}").to_lowercase())?;
        }
        Ok(())
    }
}
