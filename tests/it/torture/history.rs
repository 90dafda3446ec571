//! What happened in a round of torture, and whether it keeps the promises. Pure: a history in, a verdict out.
//!
//! Every event is a line of one journal, which clients, handlers and the harness append to at once (`O_APPEND`), so
//! that whatever is killed, what was said before is there. A task may run more than once only where the earlier run
//! can have been cut off from its store: its process killed, stopped, or starved by the machine. Each such run must be
//! explained by a fault within its time, and all together by the number of faults times what one process runs at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use omnidaemon::store::CRASH_LIMIT;
use serde::{Deserialize, Serialize};

/// A line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Unix time, ms.
    pub at: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// A client got a 202 for the task.
    Accepted { id: String },
    /// A handler was called.
    Begun { id: String, attempt: u32 },
    /// It answered.
    Ended { id: String, attempt: u32, ok: bool },
    /// A client was told that the task is cancelled.
    Cancelled { id: String },
    /// A client read the task, and it has ended; none is 404.
    Seen { id: String, end: Option<End> },
    /// What the task is when everything is quiet; none is 404.
    Final { id: String, end: Option<End> },
    /// A dead letter of the task was there in the end.
    DeadLetter { id: String },
    /// A fault that lasted until now.
    Fault { fault: Fault, target: String, from: u64 },
}

/// A task as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub status: String,
    pub attempts: u32,
    /// The attempt that the result says it is of.
    pub by: Option<u32>,
}

/// What was done to a process or the way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
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
pub(super) struct Rules {
    /// The topics' `retries`.
    pub retries: u32,
    /// What one process runs at once.
    pub concurrency: usize,
    /// A lease, ms: within it a running attempt hears of its cancellation.
    pub lease: u64,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Broken {
    /// A task that was answered with 202 is unknown, or has not ended.
    Lost,
    /// It ended, and then was something else.
    Changed,
    /// It ran once more without a fault that explains it.
    RanTwice,
    /// More such runs than the faults explain together.
    TooManyRuns,
    /// An attempt of the same number ran twice.
    AttemptTwice,
    /// It began after it had ended.
    RanAfterItsEnd,
    /// It failed before its attempts were spent, or had more than it is given.
    Attempts,
    /// It is completed by an attempt that did not succeed.
    NoSuchResult,
    /// A dead letter too many or too few.
    DeadLetters,
}

/// The figures of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub accepted: usize,
    pub completed: usize,
    pub failed: usize,
    pub cancelled: usize,
    pub lost: usize,
    pub runs: usize,
    /// Runs that a fault made necessary.
    pub doubles: usize,
    pub faults: BTreeMap<Fault, usize>,
}

/// What broke, of which task, and how.
pub(super) type Breach = (Broken, String, String);

/// One call of a handler.
#[derive(Clone, Copy, Debug)]
struct Run {
    begun: u64,
    attempt: u32,
    /// Whether it answered, and well.
    ok: Option<bool>,
}

/// All that happened to one task.
#[derive(Default)]
struct Story {
    accepted: Option<u64>,
    runs: Vec<Run>,
    /// When a client saw it as ended, in order.
    ends: Vec<(u64, Option<End>)>,
    /// Every task is asked after when all is quiet.
    asked: bool,
    /// What it was then; none is unknown.
    last: Option<End>,
    cancelled: Option<u64>,
    letters: usize,
}

/// When a fault lasted.
struct Window {
    fault: Fault,
    from: u64,
    until: u64,
    /// A drain that could not tell the store what it gave back.
    hampered: bool,
}

/// How late a handler can say that it began, ms: its worker may be dead by then.
const SLACK: u64 = 1000;

/// Holds a history against the promises.
pub(super) fn check(history: &[Entry], rules: Rules) -> (Figures, Vec<Breach>) {
    let mut ordered: Vec<&Entry> = history.iter().collect();
    ordered.sort_by_key(|entry| entry.at);
    let (stories, windows) = read(&ordered);
    let mut figures = Figures::default();
    for window in &windows {
        *figures.faults.entry(window.fault).or_default() += 1;
    }
    let mut breaches = Vec::new();
    for (id, story) in &stories {
        let mut wrong = |broken, what: String| breaches.push((broken, (*id).to_owned(), what));
        story.count(&mut figures);
        story.check_end(&mut wrong);
        story.check_attempts(rules, &mut wrong);
        figures.doubles += story.check_runs(rules, &windows, &mut wrong);
    }
    figures.lost = breaches.iter().filter(|(broken, ..)| *broken == Broken::Lost).count();
    let cuts = windows.iter().filter(|window| window.cuts_off()).count();
    if figures.doubles > cuts * rules.concurrency {
        let what = format!("{} runs by {cuts} faults of at most {} each", figures.doubles, rules.concurrency);
        breaches.push((Broken::TooManyRuns, "all".into(), what));
    }
    (figures, breaches)
}

fn read<'h>(ordered: &[&'h Entry]) -> (BTreeMap<&'h str, Story>, Vec<Window>) {
    let (mut stories, mut windows) = (BTreeMap::<&str, Story>::new(), Vec::new());
    for Entry { at, event } in ordered.iter().copied() {
        match event {
            Event::Accepted { id } => stories.entry(id).or_default().accepted = Some(*at),
            Event::Begun { id, attempt } => {
                stories.entry(id).or_default().runs.push(Run { begun: *at, attempt: *attempt, ok: None });
            }
            Event::Ended { id, attempt, ok } => {
                let open = |run: &&mut Run| run.attempt == *attempt && run.ok.is_none();
                if let Some(run) = stories.entry(id).or_default().runs.iter_mut().find(open) {
                    run.ok = Some(*ok);
                }
            }
            Event::Cancelled { id } => {
                let story = stories.entry(id).or_default();
                story.cancelled = story.cancelled.or(Some(*at));
            }
            Event::Seen { id, end } => stories.entry(id).or_default().ends.push((*at, end.clone())),
            Event::Final { id, end } => {
                let story = stories.entry(id).or_default();
                (story.asked, story.last) = (true, end.clone());
            }
            Event::DeadLetter { id } => stories.entry(id).or_default().letters += 1,
            Event::Fault { fault, from, .. } => {
                windows.push(Window { fault: *fault, from: *from, until: *at, hampered: false });
            }
        }
    }
    let gone = |window: &&Window| matches!(window.fault, Fault::Outage | Fault::Cut);
    let gone: Vec<_> = windows.iter().filter(gone).map(|window| (window.from, window.until)).collect();
    for drain in windows.iter_mut().filter(|window| window.fault == Fault::Drain) {
        drain.hampered = gone.iter().any(|(from, until)| *from <= drain.until && *until >= drain.from);
    }
    (stories, windows)
}

// === impl Story ===

impl Story {
    fn count(&self, figures: &mut Figures) {
        figures.accepted += usize::from(self.accepted.is_some());
        figures.runs += self.runs.len();
        match self.last.as_ref().map(|end| end.status.as_str()) {
            Some("completed") => figures.completed += 1,
            Some("failed") => figures.failed += 1,
            Some("cancelled") => figures.cancelled += 1,
            _ => {}
        }
    }

    /// It ended once, as something.
    fn check_end(&self, wrong: &mut impl FnMut(Broken, String)) {
        let is_final = |end: &End| ["completed", "failed", "cancelled"].contains(&end.status.as_str());
        if self.accepted.is_some() && !self.last.as_ref().is_some_and(is_final) {
            wrong(Broken::Lost, format!("{:?}", self.last));
        }
        let seen = self.ends.iter().map(|(_, end)| end).chain(self.asked.then_some(&self.last));
        let different: BTreeSet<String> = seen.map(|end| format!("{end:?}")).collect();
        if different.len() > 1 {
            wrong(Broken::Changed, format!("{different:?}"));
        }
        if self.cancelled.is_some() && self.last.as_ref().is_some_and(|end| end.status != "cancelled") {
            wrong(Broken::Changed, format!("cancelled, and then {:?}", self.last));
        }
        let letters = usize::from(self.last.as_ref().is_some_and(|end| end.status == "failed"));
        if self.asked && self.letters != letters {
            wrong(Broken::DeadLetters, format!("{} of {:?}", self.letters, self.last));
        }
    }

    /// It had as many attempts as it is given, and its result is of one that succeeded.
    fn check_attempts(&self, rules: Rules, wrong: &mut impl FnMut(Broken, String)) {
        let Some(end) = &self.last else { return };
        let most = (rules.retries + 1).max(rules.retries + CRASH_LIMIT);
        let early = end.status == "failed" && end.attempts <= rules.retries;
        if early || end.attempts > most || self.runs.iter().any(|run| run.attempt > most) {
            wrong(Broken::Attempts, format!("{end:?} of {} and {CRASH_LIMIT} more, {:?}", rules.retries, self.runs));
        }
        let by_one = |run: &Run| run.attempt == end.attempts && run.ok == Some(true);
        if end.status == "completed" && !(self.runs.iter().any(by_one) && end.by == Some(end.attempts)) {
            wrong(Broken::NoSuchResult, format!("{end:?} of {:?}", self.runs));
        }
    }

    /// Each run has a reason; says how many were due to faults.
    fn check_runs(&self, rules: Rules, windows: &[Window], wrong: &mut impl FnMut(Broken, String)) -> usize {
        let mut doubles = 0;
        for (n, run) in self.runs.iter().enumerate() {
            let within = |from: u64| windows.iter().filter(move |w| w.from <= run.begun && w.until + SLACK >= from);
            if let Some(same) = self.runs[..n].iter().find(|earlier| earlier.attempt == run.attempt)
                && !within(same.begun).any(|window| window.hampered)
            {
                wrong(Broken::AttemptTwice, format!("{:?}", self.runs));
            }
            // the one before it alone: what came before that one has been counted with it
            if let Some(cut) = self.runs[..n].last().filter(|before| before.ok != Some(false)) {
                doubles += 1;
                if !within(cut.begun).any(Window::cuts_off) {
                    wrong(Broken::RanTwice, format!("{:?}", self.runs));
                }
            }
            let ended = self
                .ends
                .iter()
                .find(|(_, end)| end.is_some())
                .map(|(at, _)| *at)
                .into_iter()
                .chain(self.cancelled)
                .min();
            let is_late = ended.is_some_and(|ended| run.begun > ended);
            let told = self.cancelled.is_some_and(|at| run.begun <= at + rules.lease);
            let since = self.accepted.unwrap_or(run.begun);
            if is_late && !told && !within(since).any(|w| matches!(w.fault, Fault::Freeze | Fault::Stall)) {
                wrong(Broken::RanAfterItsEnd, format!("{:?} after {:?} {:?}", run, self.ends, self.cancelled));
            }
        }
        doubles
    }
}

impl Window {
    /// Whether a run can be cut off from its store by it, so that the task has to run again.
    fn cuts_off(&self) -> bool {
        self.hampered || matches!(self.fault, Fault::Kill | Fault::Freeze | Fault::Stall)
    }
}

// === impl Figures ===

impl Figures {
    /// These and those of another round.
    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.lost += other.lost;
        self.runs += other.runs;
        self.doubles += other.doubles;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, completed, failed, cancelled, lost, runs, doubles, faults } = self;
        let tasks = completed + failed + cancelled;
        write!(f, "{tasks} tasks: {completed} completed, {failed} failed, {cancelled} cancelled; ")?;
        write!(f, "{accepted} answered with 202, {lost} lost; {runs} runs, {doubles} doubles;")?;
        for (fault, count) in faults {
            write!(f, " {}={count}", format!("{fault:?}").to_lowercase())?;
        }
        Ok(())
    }
}
