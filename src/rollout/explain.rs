//! Why a rollout stands where it stands, what it waits for, and the one thing to do that moves it
//! on.
//!
//! For whoever is woken at night: the numbers that decide, how many more are needed and how long
//! that takes at the present rate. It only reads: what happens is decided in `machine.rs`. Never
//! empty; the text always ends with `Next: ` and a command, an edit, or `nothing to do`.

mod step;

use std::time::Duration;

use super::evidence::RolloutEvidence;
use super::gate::{GateReport, Verdict};
use super::state::{PauseReason, RolloutPhase, RolloutState};
use super::words::format_span;
use crate::cohort::Weight;
use crate::config::{GateConfig, PromotionWindow, RolloutConfig, next_promotion_opening};
use crate::task::UnixMs;

/// What is explained: a rollout's state, and what is known around it.
#[derive(Clone, Copy, Debug)]
pub struct ExplanationInput<'a> {
    /// The route's name.
    pub route: &'a str,
    /// What its file says.
    pub config: &'a RolloutConfig,
    /// The file, where there is one.
    pub config_file: Option<&'a str>,
    /// The state.
    pub state: &'a RolloutState,
    /// What this replica runs.
    pub running_weight: Weight,
    /// The step that comes next.
    pub next_weight: Option<Weight>,
    /// Replicas that do not run the weight yet.
    pub lagging_replicas: &'a [String],
    /// What is known of the cohort that is judged; none where that is the leader's to know.
    pub cohort_evidence: Option<&'a RolloutEvidence>,
    /// Canaried requests a minute, lately; likewise.
    pub requests_per_minute: Option<f64>,
    /// Whether the store answers.
    pub store_reachable: bool,
    /// The present time.
    pub now: UnixMs,
}

/// What a rollout waits for; the words of `waiting_for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
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
pub struct RolloutExplanation {
    /// What it waits for.
    pub waiting_for: WaitingFor,
    /// The paragraph, ending with `Next: ` and `next`.
    pub text: String,
    /// A command, an edit, or `nothing to do`.
    pub next_action: String,
    /// When it goes on by itself, as far as that can be said.
    pub continues_in: Option<Duration>,
    /// When it pauses if nothing changes.
    pub pauses_in: Option<Duration>,
}

/// What moves it on.
#[derive(Clone, Copy)]
enum NextAction {
    NoAction,
    Promote,
    RunCommand(&'static str),
    EditPercent,
}

/// A part of an explanation, without the head and the way out.
struct WaitReason {
    waiting_for: WaitingFor,
    text: String,
    next_action: NextAction,
    continues_in: Option<Duration>,
    pauses_in: Option<Duration>,
}

/// Explains a rollout.
#[must_use]
pub fn explain_rollout(standing: &ExplanationInput<'_>) -> RolloutExplanation {
    let because = standing.find_wait_reason();
    let next = standing.format_next_action(because.next_action);
    let text = format!("{}: {}. Next: {next}", standing.format_headline(), because.text);
    let WaitReason { waiting_for, continues_in: countdown, pauses_in, .. } = because;
    RolloutExplanation { waiting_for, text, next_action: next, continues_in: countdown, pauses_in }
}

// === impl Waiting ===

impl WaitingFor {
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

impl WaitReason {
    fn new(waiting_for: WaitingFor, next_action: NextAction, why: impl Into<String>) -> Self {
        Self { waiting_for, text: why.into(), next_action, continues_in: None, pauses_in: None }
    }

    fn with_countdown(self, countdown: Option<Duration>) -> Self {
        Self { continues_in: countdown, ..self }
    }

    /// Says that it pauses when `limit` is over, of which `waited` has passed.
    fn with_pause_limit(mut self, limit: Duration, waited: Duration) -> Self {
        let left = limit.saturating_sub(waited);
        self.text =
            format!("{}; it pauses in {} if that does not change", self.text, format_span(left));
        Self { pauses_in: Some(left), ..self }
    }
}

// === impl Standing ===

impl ExplanationInput<'_> {
    /// Where it stands: `invoke is at 10 %, next 25 %, percent 50 %, soaking`.
    fn format_headline(&self) -> String {
        let (route, weight, percent) = (self.route, self.state.weight, self.config.percent);
        let running = if self.running_weight == weight {
            String::new()
        } else {
            format!(" (this replica: {})", self.running_weight)
        };
        let next = self.next_weight.map(|next| format!(", next {next}")).unwrap_or_default();
        let phase = self.state.phase.as_str().replace('_', " ");
        format!("{route} is at {weight}{running}{next}, percent {percent}, {phase}")
    }

    fn format_next_action(&self, way: NextAction) -> String {
        let route = self.route;
        match way {
            NextAction::NoAction => "nothing to do".to_owned(),
            // there is nothing to promote to, but from a pause for undecided gates it says healthy
            NextAction::Promote if self.next_weight.is_none() && !self.is_paused_inconclusive() => {
                "nothing to do".to_owned()
            }
            NextAction::Promote => format!("omnidaemon rollout promote {route} --reason …"),
            NextAction::RunCommand(verb) => format!("omnidaemon rollout {verb} {route} --reason …"),
            NextAction::EditPercent => match self.config_file {
                Some(file) => format!("edit routes.{route}.rollout.percent in {file}"),
                None => "start again with a higher --percent".to_owned(),
            },
        }
    }

    fn is_paused_inconclusive(&self) -> bool {
        matches!(self.state.phase, RolloutPhase::Paused { reason: PauseReason::Inconclusive, .. })
    }

    fn find_wait_reason(&self) -> WaitReason {
        let is_back =
            matches!(self.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded);
        if self.config.percent == Weight::ZERO && !is_back {
            return WaitReason::new(
                WaitingFor::Percent,
                NextAction::EditPercent,
                "the file allows nothing to go async",
            );
        }
        match &self.state.phase {
            RolloutPhase::Idle => self.explain_idle(),
            RolloutPhase::Manual => self.explain_manual_mode(),
            RolloutPhase::Shifting => self.explain_shifting("take up the weight"),
            RolloutPhase::Soaking => {
                self.explain_hold_or_block().unwrap_or_else(|| self.explain_soaking())
            }
            RolloutPhase::Gating => {
                self.explain_hold_or_block().unwrap_or_else(|| self.explain_gating())
            }
            RolloutPhase::Healthy => {
                self.explain_hold_or_block().unwrap_or_else(|| self.explain_healthy())
            }
            RolloutPhase::Paused { reason: why, .. } => self.explain_paused(*why),
            RolloutPhase::RollingBack => self.explain_rolling_back(),
            RolloutPhase::Degraded => self.explain_degraded(),
        }
    }

    fn explain_idle(&self) -> WaitReason {
        if self.store_reachable {
            return WaitReason::new(
                WaitingFor::Nothing,
                NextAction::NoAction,
                "it is about to begin",
            );
        }
        explain_store_down()
    }

    fn explain_manual_mode(&self) -> WaitReason {
        if self.state.manual_hold {
            return self.explain_manual_hold();
        }
        let gates = match self.format_reports(|report| report.verdict == Verdict::Fail).as_str() {
            "" => "the gates are shown and decide nothing".to_owned(),
            failing => format!("the gates decide nothing, but would turn back: {failing}"),
        };
        self.explain_at_percent(&format!("the mode is manual, the weight is the file's; {gates}"))
    }

    fn explain_shifting(&self, what: &str) -> WaitReason {
        if !self.store_reachable {
            return explain_store_down();
        }
        let why = match self.lagging_replicas {
            [] => format!("replicas are about to {what}"),
            names => format!(
                "{} did not yet {what}: is {} alive, and does its file allow it",
                format_names(names),
                pronoun_for(names)
            ),
        };
        let because = WaitReason::new(WaitingFor::Convergence, NextAction::NoAction, why);
        match self.lagging_replicas {
            [] => because,
            _ => because.with_pause_limit(self.config.converge_timeout, self.state.phase_waited),
        }
    }

    /// What stops automation, or the clocks, in a phase that is going on.
    fn explain_hold_or_block(&self) -> Option<WaitReason> {
        if self.state.manual_hold {
            return Some(self.explain_manual_hold());
        }
        let frozen = self.state.blocked_reason.as_deref()?;
        if !self.store_reachable {
            return Some(explain_store_down());
        }
        if !self.lagging_replicas.is_empty() {
            let why = format!(
                "{frozen} ({}); soak and gates stand still",
                format_names(self.lagging_replicas)
            );
            return Some(WaitReason::new(WaitingFor::Convergence, NextAction::NoAction, why));
        }
        let why = format!("{frozen}; soak and gates stand still until that is over");
        let because = WaitReason::new(WaitingFor::Metrics, NextAction::NoAction, why);
        Some(match &self.config.prometheus {
            Some(prometheus) if self.state.sources_down_for > Duration::ZERO => {
                because.with_pause_limit(prometheus.unavailable_grace, self.state.sources_down_for)
            }
            _ => because,
        })
    }

    fn explain_manual_hold(&self) -> WaitReason {
        let (by, weight) = (&self.state.actor, self.state.weight);
        let why = format!(
            "{by} set the weight to {weight}{}, and it stays until `resume`",
            format_reason_clause(&self.state.reason)
        );
        WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("resume"), why)
    }

    fn explain_healthy(&self) -> WaitReason {
        if let Some(next) = self.next_weight {
            let about = || {
                WaitReason::new(
                    WaitingFor::Nothing,
                    NextAction::NoAction,
                    format!("it is about to go on to {next}"),
                )
            };
            return self.explain_closed_window().unwrap_or_else(about);
        }
        match self
            .format_reports(|report| matches!(report.verdict, Verdict::Fail | Verdict::Error))
            .as_str()
        {
            "" => self.explain_at_percent("percent is reached, and the gates keep judging"),
            bad => {
                let (fails, limit) = (self.state.fail_streak, self.config.failure_limit);
                let why = format!(
                    "percent is reached, but {bad} ({fails} of {limit} failing looks in a row turn back)"
                );
                WaitReason::new(WaitingFor::Gates, NextAction::RunCommand("abort"), why)
            }
        }
    }

    /// The file's `percent` runs: what more there could be.
    fn explain_at_percent(&self, why: &str) -> WaitReason {
        if self.config.percent == Weight::FULL {
            return WaitReason::new(WaitingFor::Nothing, NextAction::NoAction, why);
        }
        WaitReason::new(
            WaitingFor::Percent,
            NextAction::EditPercent,
            format!("{why}; it goes no higher than percent"),
        )
    }

    fn explain_paused(&self, why: PauseReason) -> WaitReason {
        let (by, reason) = (&self.state.actor, format_reason_clause(&self.state.reason));
        let gates = self.format_reports(|report| report.verdict != Verdict::Pass);
        let gates = if gates.is_empty() { String::new() } else { format!(" ({gates})") };
        match why {
            PauseReason::Operator => WaitReason::new(
                WaitingFor::Operator,
                NextAction::RunCommand("resume"),
                format!("{by} paused it{reason}"),
            ),
            PauseReason::AwaitingApproval => {
                let why =
                    "its gates have passed, and the step asks for a person (approval: manual)";
                WaitReason::new(WaitingFor::Approval, NextAction::Promote, why)
            }
            PauseReason::NotConverged => {
                let who = if self.lagging_replicas.is_empty() {
                    "a replica".to_owned()
                } else {
                    format_names(self.lagging_replicas)
                };
                let within = format_span(self.config.converge_timeout);
                let why = format!(
                    "{who} did not take up the weight within {within}: see to it, then resume"
                );
                WaitReason::new(WaitingFor::Convergence, NextAction::RunCommand("resume"), why)
            }
            PauseReason::Inconclusive => {
                let why = format!(
                    "its gates were undecided for {}{gates}: resume waits again, promote goes on without them once",
                    format_span(self.config.max_step_wait)
                );
                WaitReason::new(WaitingFor::Gates, NextAction::Promote, why)
            }
            PauseReason::MetricsUnavailable => {
                let (sighted, reason) = (self.state.sources_up_streak, &self.state.reason);
                let why = format!(
                    "{reason}{gates}; it resumes by itself after three good looks in a row ({sighted} so far)"
                );
                WaitReason::new(WaitingFor::Metrics, NextAction::NoAction, why)
            }
            PauseReason::GatesFailed => {
                let why = format!(
                    "its gates fail{gates}, and on_fail is pause: abort turns back, resume tries on"
                );
                WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("abort"), why)
            }
        }
    }

    fn explain_rolling_back(&self) -> WaitReason {
        let WaitReason { waiting_for, text: why, .. } =
            self.explain_shifting("stop sending requests async");
        let reason = format_reason_clause(&self.state.reason);
        WaitReason::new(
            waiting_for,
            NextAction::NoAction,
            format!("it turns back to 0 %{reason}; {why}"),
        )
    }

    fn explain_degraded(&self) -> WaitReason {
        let at = self.state.phase_since.to_rfc3339().unwrap_or_default();
        let (by, reason) = (&self.state.actor, format_reason_clause(&self.state.reason));
        let how = if by == super::state::CONTROLLER_ACTOR {
            "rolled back".to_owned()
        } else {
            format!("turned back by {by}")
        };
        let why = format!(
            "{how} at {at}{reason}; accepted tasks finish, and a percent edit moves nothing until `retry`"
        );
        WaitReason::new(WaitingFor::Retry, NextAction::RunCommand("retry"), why)
    }

    /// Why a weight may not be raised now, where the plan has hours for that.
    fn explain_closed_window(&self) -> Option<WaitReason> {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(self.now.0).ok()?).ok()?;
        let opens = UnixMs::from(next_promotion_opening(&self.config.promotion_windows, now)?)
            .since(self.now);
        let hours = self
            .config
            .promotion_windows
            .iter()
            .map(format_window)
            .collect::<Vec<_>>()
            .join(" and ");
        let why =
            format!("a weight may only be raised {hours}, which begins in {}", format_span(opens));
        Some(
            WaitReason::new(WaitingFor::Window, NextAction::Promote, why)
                .with_countdown(Some(opens)),
        )
    }

    /// The reports of gates that the file has.
    fn configured_reports(&self) -> impl Iterator<Item = &GateReport> {
        let gates = &self.config.gates;
        let is_known = |report: &&GateReport| {
            gates.iter().any(|gate: &GateConfig| gate.name == report.gate_name)
        };
        self.state.gate_reports.iter().filter(is_known)
    }

    /// What the gates say that `filter` picks, and what they need.
    fn format_reports(&self, filter: impl Fn(&GateReport) -> bool) -> String {
        let say = |report: &GateReport| match report
            .needed_outcomes
            .filter(|needs| *needs > 0)
            .map(|needs| self.estimate_arrival_time(needs))
        {
            Some(Some(time)) => {
                format!("{}, about {} at this rate", report.explanation, format_span(time))
            }
            _ => report.explanation.clone(),
        };
        self.configured_reports()
            .filter(|report| filter(report))
            .map(say)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

fn explain_store_down() -> WaitReason {
    let why = "the store does not answer: calls are served sync, and the weight applies again by itself when it is back";
    WaitReason::new(WaitingFor::Store, NextAction::NoAction, why)
}

fn format_reason_clause(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// The first few names of many.
fn format_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `mon, tue 09:00-17:00 (Europe/Berlin)`
fn format_window(window: &PromotionWindow) -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days = window.weekdays.iter().filter_map(|day| DAYS.get(usize::from(*day)).copied());
    let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let zone = window.time_zone.iana_name().unwrap_or("UTC");
    format!(
        "{} {}-{} ({zone})",
        days.collect::<Vec<_>>().join(", "),
        clock(window.minutes_of_day.0),
        clock(window.minutes_of_day.1)
    )
}

fn pronoun_for(names: &[String]) -> &'static str {
    if names.len() == 1 { "it" } else { "each" }
}

#[cfg(test)]
mod tests;
