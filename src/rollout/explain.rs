//! Why a rollout stands where it stands, what it waits for, and the one thing to do that moves it on.
//!
//! For whoever is woken at night: the numbers that decide, how many more are needed and how long that takes at the
//! present rate. It only reads: what happens is decided in `machine.rs`. Never empty; the text always ends with
//! `Next: ` and a command, an edit, or `nothing to do`.

mod step;

use std::time::Duration;

use super::evidence::Evidence;
use super::gate::{Report, Verdict};
use super::state::{Pause, Phase, State};
use super::words::span;
use crate::cohort::Weight;
use crate::config::{Gate, Rollout, Window, next_opening};
use crate::task::UnixMs;

/// What is explained: a rollout's state, and what is known around it.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The route's name.
    pub route: &'a str,
    /// What its file says.
    pub rollout: &'a Rollout,
    /// The file, where there is one.
    pub file: Option<&'a str>,
    /// The state.
    pub state: &'a State,
    /// What this replica runs.
    pub running: Weight,
    /// The step that comes next.
    pub next: Option<Weight>,
    /// Replicas that do not run the weight yet.
    pub laggards: &'a [String],
    /// What is known of the cohort that is judged; none where that is the leader's to know.
    pub evidence: Option<&'a Evidence>,
    /// Canaried requests a minute, lately; likewise.
    pub per_minute: Option<f64>,
    /// Whether the store answers.
    pub store: bool,
    /// The present time.
    pub now: UnixMs,
}

/// What a rollout waits for; the words of `waiting_for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: it is done, or goes on by itself at once.
    Nothing,
    /// Replicas that do not run the weight yet.
    Convergence,
    /// The soak.
    Soak,
    /// More requests.
    Samples,
    /// Tasks of the cohort that have not ended.
    Maturity,
    /// Gates that do not pass.
    Gates,
    /// The hours in which a weight may be raised.
    Window,
    /// A person who says that the step may be left.
    Approval,
    /// A person: somebody paused it, set the weight, or must decide.
    Operator,
    /// `retry`.
    Retry,
    /// A higher `percent`.
    Percent,
    /// The store.
    Store,
    /// A source of evidence.
    Metrics,
}

/// Why it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What it waits for.
    pub waiting_for: Waiting,
    /// The paragraph, ending with `Next: ` and `next`.
    pub text: String,
    /// A command, an edit, or `nothing to do`.
    pub next: String,
    /// When it goes on by itself, as far as that can be said.
    pub countdown: Option<Duration>,
    /// When it pauses if nothing changes.
    pub pauses_in: Option<Duration>,
}

/// What moves it on.
#[derive(Clone, Copy)]
enum Way {
    Nothing,
    Promote,
    Say(&'static str),
    EditPercent,
}

/// A part of an explanation, without the head and the way out.
struct Because {
    waiting_for: Waiting,
    why: String,
    way: Way,
    countdown: Option<Duration>,
    pauses_in: Option<Duration>,
}

/// Explains a rollout.
#[must_use]
pub fn explain(standing: &Standing<'_>) -> Explanation {
    let because = standing.because();
    let next = standing.way_out(because.way);
    let text = format!("{}: {}. Next: {next}", standing.head(), because.why);
    let Because { waiting_for, countdown, pauses_in, .. } = because;
    Explanation { waiting_for, text, next, countdown, pauses_in }
}

// === impl Waiting ===

impl Waiting {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Convergence => "convergence",
            Self::Soak => "soak",
            Self::Samples => "samples",
            Self::Maturity => "maturity",
            Self::Gates => "gates",
            Self::Window => "window",
            Self::Approval => "approval",
            Self::Operator => "operator",
            Self::Retry => "retry",
            Self::Percent => "percent",
            Self::Store => "store",
            Self::Metrics => "metrics",
        }
    }
}

// === impl Because ===

impl Because {
    fn new(waiting_for: Waiting, way: Way, why: impl Into<String>) -> Self {
        Self { waiting_for, why: why.into(), way, countdown: None, pauses_in: None }
    }

    fn goes_on_in(self, countdown: Option<Duration>) -> Self {
        Self { countdown, ..self }
    }

    /// Says that it pauses when `limit` is over, of which `waited` has passed.
    fn pauses_after(mut self, limit: Duration, waited: Duration) -> Self {
        let left = limit.saturating_sub(waited);
        self.why = format!("{}; it pauses in {} if that does not change", self.why, span(left));
        Self { pauses_in: Some(left), ..self }
    }
}

// === impl Standing ===

impl Standing<'_> {
    /// Where it stands: `invoke is at 10 %, next 25 %, percent 50 %, soaking`.
    fn head(&self) -> String {
        let (route, weight, percent) = (self.route, self.state.weight, self.rollout.percent);
        let running = if self.running == weight { String::new() } else { format!(" (this replica: {})", self.running) };
        let next = self.next.map(|next| format!(", next {next}")).unwrap_or_default();
        let phase = self.state.phase.as_str().replace('_', " ");
        format!("{route} is at {weight}{running}{next}, percent {percent}, {phase}")
    }

    fn way_out(&self, way: Way) -> String {
        let route = self.route;
        match way {
            Way::Nothing => "nothing to do".to_owned(),
            // there is nothing to promote to, but from a pause for undecided gates it says healthy
            Way::Promote if self.next.is_none() && !self.is_undecided() => "nothing to do".to_owned(),
            Way::Promote => format!("omnidaemon rollout promote {route} --reason …"),
            Way::Say(verb) => format!("omnidaemon rollout {verb} {route} --reason …"),
            Way::EditPercent => match self.file {
                Some(file) => format!("edit routes.{route}.rollout.percent in {file}"),
                None => "start again with a higher --percent".to_owned(),
            },
        }
    }

    fn is_undecided(&self) -> bool {
        matches!(self.state.phase, Phase::Paused { why: Pause::Inconclusive, .. })
    }

    fn because(&self) -> Because {
        let is_back = matches!(self.state.phase, Phase::RollingBack | Phase::Degraded);
        if self.rollout.percent == Weight::ZERO && !is_back {
            return Because::new(Waiting::Percent, Way::EditPercent, "the file allows nothing to go async");
        }
        match &self.state.phase {
            Phase::Idle => self.idle(),
            Phase::Manual => self.manual(),
            Phase::Shifting => self.shifting("take up the weight"),
            Phase::Soaking => self.held_or_blind().unwrap_or_else(|| self.soaking()),
            Phase::Gating => self.held_or_blind().unwrap_or_else(|| self.gating()),
            Phase::Healthy => self.held_or_blind().unwrap_or_else(|| self.healthy()),
            Phase::Paused { why, .. } => self.paused(*why),
            Phase::RollingBack => self.rolling_back(),
            Phase::Degraded => self.degraded(),
        }
    }

    fn idle(&self) -> Because {
        if self.store {
            return Because::new(Waiting::Nothing, Way::Nothing, "it is about to begin");
        }
        without_store()
    }

    fn manual(&self) -> Because {
        if self.state.held {
            return self.held();
        }
        let gates = match self.undecided(|report| report.verdict == Verdict::Fail).as_str() {
            "" => "the gates are shown and decide nothing".to_owned(),
            failing => format!("the gates decide nothing, but would turn back: {failing}"),
        };
        self.at_percent(&format!("the mode is manual, the weight is the file's; {gates}"))
    }

    fn shifting(&self, what: &str) -> Because {
        if !self.store {
            return without_store();
        }
        let why = match self.laggards {
            [] => format!("replicas are about to {what}"),
            names => format!("{} did not yet {what}: is {} alive, and does its file allow it", list(names), it(names)),
        };
        let because = Because::new(Waiting::Convergence, Way::Nothing, why);
        match self.laggards {
            [] => because,
            _ => because.pauses_after(self.rollout.converge, self.state.waited),
        }
    }

    /// What stops automation, or the clocks, in a phase that is going on.
    fn held_or_blind(&self) -> Option<Because> {
        if self.state.held {
            return Some(self.held());
        }
        let frozen = self.state.frozen.as_deref()?;
        if !self.store {
            return Some(without_store());
        }
        if !self.laggards.is_empty() {
            let why = format!("{frozen} ({}); soak and gates stand still", list(self.laggards));
            return Some(Because::new(Waiting::Convergence, Way::Nothing, why));
        }
        let why = format!("{frozen}; soak and gates stand still until that is over");
        let because = Because::new(Waiting::Metrics, Way::Nothing, why);
        Some(match &self.rollout.prometheus {
            Some(prometheus) if self.state.blind > Duration::ZERO => {
                because.pauses_after(prometheus.grace, self.state.blind)
            }
            _ => because,
        })
    }

    fn held(&self) -> Because {
        let (by, weight) = (&self.state.by, self.state.weight);
        let why =
            format!("{by} set the weight to {weight}{}, and it stays until `resume`", because_of(&self.state.reason));
        Because::new(Waiting::Operator, Way::Say("resume"), why)
    }

    fn healthy(&self) -> Because {
        if let Some(next) = self.next {
            let about = || Because::new(Waiting::Nothing, Way::Nothing, format!("it is about to go on to {next}"));
            return self.window().unwrap_or_else(about);
        }
        match self.undecided(|report| matches!(report.verdict, Verdict::Fail | Verdict::Error)).as_str() {
            "" => self.at_percent("percent is reached, and the gates keep judging"),
            bad => {
                let (fails, limit) = (self.state.fails, self.rollout.failure_limit);
                let why =
                    format!("percent is reached, but {bad} ({fails} of {limit} failing looks in a row turn back)");
                Because::new(Waiting::Gates, Way::Say("abort"), why)
            }
        }
    }

    /// The file's `percent` runs: what more there could be.
    fn at_percent(&self, why: &str) -> Because {
        if self.rollout.percent == Weight::FULL {
            return Because::new(Waiting::Nothing, Way::Nothing, why);
        }
        Because::new(Waiting::Percent, Way::EditPercent, format!("{why}; it goes no higher than percent"))
    }

    fn paused(&self, why: Pause) -> Because {
        let (by, reason) = (&self.state.by, because_of(&self.state.reason));
        let gates = self.undecided(|report| report.verdict != Verdict::Pass);
        let gates = if gates.is_empty() { String::new() } else { format!(" ({gates})") };
        match why {
            Pause::Operator => Because::new(Waiting::Operator, Way::Say("resume"), format!("{by} paused it{reason}")),
            Pause::AwaitingApproval => {
                let why = "its gates have passed, and the step asks for a person (approval: manual)";
                Because::new(Waiting::Approval, Way::Promote, why)
            }
            Pause::NotConverged => {
                let who = if self.laggards.is_empty() { "a replica".to_owned() } else { list(self.laggards) };
                let within = span(self.rollout.converge);
                let why = format!("{who} did not take up the weight within {within}: see to it, then resume");
                Because::new(Waiting::Convergence, Way::Say("resume"), why)
            }
            Pause::Inconclusive => {
                let why = format!(
                    "its gates were undecided for {}{gates}: resume waits again, promote goes on without them once",
                    span(self.rollout.max_wait)
                );
                Because::new(Waiting::Gates, Way::Promote, why)
            }
            Pause::MetricsUnavailable => {
                let (sighted, reason) = (self.state.sighted, &self.state.reason);
                let why =
                    format!("{reason}{gates}; it resumes by itself after three good looks in a row ({sighted} so far)");
                Because::new(Waiting::Metrics, Way::Nothing, why)
            }
            Pause::Failed => {
                let why = format!("its gates fail{gates}, and on_fail is pause: abort turns back, resume tries on");
                Because::new(Waiting::Operator, Way::Say("abort"), why)
            }
        }
    }

    fn rolling_back(&self) -> Because {
        let Because { waiting_for, why, .. } = self.shifting("stop sending requests async");
        let reason = because_of(&self.state.reason);
        Because::new(waiting_for, Way::Nothing, format!("it turns back to 0 %{reason}; {why}"))
    }

    fn degraded(&self) -> Because {
        let at = self.state.since.rfc3339().unwrap_or_default();
        let (by, reason) = (&self.state.by, because_of(&self.state.reason));
        let how =
            if by == super::state::CONTROLLER { "rolled back".to_owned() } else { format!("turned back by {by}") };
        let why =
            format!("{how} at {at}{reason}; accepted tasks finish, and a percent edit moves nothing until `retry`");
        Because::new(Waiting::Retry, Way::Say("retry"), why)
    }

    /// Why a weight may not be raised now, where the plan has hours for that.
    fn window(&self) -> Option<Because> {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(self.now.0).ok()?).ok()?;
        let opens = UnixMs::from(next_opening(&self.rollout.windows, now)?).since(self.now);
        let hours = self.rollout.windows.iter().map(hours).collect::<Vec<_>>().join(" and ");
        let why = format!("a weight may only be raised {hours}, which begins in {}", span(opens));
        Some(Because::new(Waiting::Window, Way::Promote, why).goes_on_in(Some(opens)))
    }

    /// The reports of gates that the file has.
    fn reports(&self) -> impl Iterator<Item = &Report> {
        let gates = &self.rollout.gates;
        let is_known = |report: &&Report| gates.iter().any(|gate: &Gate| gate.name == report.gate);
        self.state.reports.iter().filter(is_known)
    }

    /// What the gates say that `filter` picks, and what they need.
    fn undecided(&self, filter: impl Fn(&Report) -> bool) -> String {
        let say = |report: &Report| match report.needs.filter(|needs| *needs > 0).map(|needs| self.time_for(needs)) {
            Some(Some(time)) => format!("{}, about {} at this rate", report.why, span(time)),
            _ => report.why.clone(),
        };
        self.reports().filter(|report| filter(report)).map(say).collect::<Vec<_>>().join("; ")
    }
}

fn without_store() -> Because {
    let why =
        "the store does not answer: calls are served sync, and the weight applies again by itself when it is back";
    Because::new(Waiting::Store, Way::Nothing, why)
}

fn because_of(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// The first few names of many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `mon, tue 09:00-17:00 (Europe/Berlin)`
fn hours(window: &Window) -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days = window.days.iter().filter_map(|day| DAYS.get(usize::from(*day)).copied());
    let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let zone = window.zone.iana_name().unwrap_or("UTC");
    format!("{} {}-{} ({zone})", days.collect::<Vec<_>>().join(", "), clock(window.hours.0), clock(window.hours.1))
}

fn it(names: &[String]) -> &'static str {
    if names.len() == 1 { "it" } else { "each" }
}

#[cfg(test)]
mod tests;
