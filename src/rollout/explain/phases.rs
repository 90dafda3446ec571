//! Why a rollout waits, by its phase.

use std::time::Duration;

use super::format::{format_names, format_reason_clause, format_window};
use super::input::ExplanationInput;
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::cohort_hash::Weight;
use crate::config::next_promotion_opening;
use crate::rollout::actor::Actor;
use crate::rollout::format::format_span;
use crate::rollout::gate::{GateReport, Verdict};
use crate::rollout::limits::source_grace;
use crate::rollout::phase::RolloutPhase;
use crate::task::UnixMs;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    pub(super) fn find_wait_reason(&self) -> WaitReason {
        if self.config.percent == Weight::ZERO && !self.state.phase.is_rolled_back() {
            let text = "the file allows nothing to go async";
            return WaitReason::new(WaitingFor::Percent, NextAction::EditPercent, text);
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
            RolloutPhase::Paused { reason, .. } => self.explain_paused(*reason),
            RolloutPhase::RollingBack => self.explain_rolling_back(),
            RolloutPhase::Degraded => self.explain_degraded(),
        }
    }

    fn explain_idle(&self) -> WaitReason {
        if self.store_reachable {
            let text = "it is about to begin";
            return WaitReason::new(WaitingFor::Nothing, NextAction::NoAction, text);
        }
        WaitReason::store_down()
    }

    fn explain_manual_mode(&self) -> WaitReason {
        if self.state.manual_hold {
            return self.explain_manual_hold();
        }
        let failing = self.format_reports(|report| report.verdict == Verdict::Fail);
        let gates = if failing.is_empty() {
            "the gates are shown and decide nothing".to_owned()
        } else {
            format!("the gates decide nothing, but would roll back: {failing}")
        };
        self.explain_at_percent(&format!("the mode is manual, the weight is the file's; {gates}"))
    }

    fn explain_shifting(&self, change: &str) -> WaitReason {
        if !self.store_reachable {
            return WaitReason::store_down();
        }
        let text = match self.lagging_replicas {
            [] => format!("replicas are about to {change}"),
            names => format!(
                "{} did not yet {change}: is {} alive, and does its file allow it",
                format_names(names),
                if names.len() == 1 { "it" } else { "each" }
            ),
        };
        let reason = WaitReason::new(WaitingFor::Convergence, NextAction::NoAction, text);
        match self.lagging_replicas {
            [] => reason,
            _ => reason.with_pause_limit(self.config.converge_timeout, self.state.phase_waited),
        }
    }

    /// What stops automation, or soak time and gates, in a phase that is not paused.
    fn explain_hold_or_block(&self) -> Option<WaitReason> {
        if self.state.manual_hold {
            return Some(self.explain_manual_hold());
        }
        let blocked = self.state.blocked_text()?;
        if !self.store_reachable {
            return Some(WaitReason::store_down());
        }
        if !self.lagging_replicas.is_empty() {
            let names = format_names(self.lagging_replicas);
            let text = format!("{blocked} ({names}); soak and gates stand still");
            return Some(WaitReason::new(WaitingFor::Convergence, NextAction::NoAction, text));
        }
        if let Some(reason) = self.explain_lacking_capacity().or_else(|| self.explain_split()) {
            return Some(reason);
        }
        let text = format!("{blocked}; soak and gates stand still until that is over");
        let reason = WaitReason::new(WaitingFor::Metrics, NextAction::NoAction, text);
        // a healthy rollout never pauses for a missing source
        if self.state.sources_down_for == Duration::ZERO
            || self.state.phase == RolloutPhase::Healthy
        {
            return Some(reason);
        }
        Some(reason.with_pause_limit(source_grace(self.config), self.state.sources_down_for))
    }

    fn explain_manual_hold(&self) -> WaitReason {
        let text = format!(
            "{} set the weight to {}{}, and it stays until `resume`",
            self.state.actor,
            self.state.weight,
            format_reason_clause(&self.state.reason)
        );
        WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("resume"), text)
    }

    fn explain_healthy(&self) -> WaitReason {
        if let Some(next) = self.next_weight {
            return self.explain_closed_window().unwrap_or_else(|| {
                let text = format!("it is about to go on to {next}");
                WaitReason::new(WaitingFor::Nothing, NextAction::NoAction, text)
            });
        }
        let bad = self.format_reports(GateReport::is_bad);
        if bad.is_empty() {
            return self.explain_at_percent("percent is reached, and the gates keep judging");
        }
        let text = format!(
            "percent is reached, but {bad} (failed evaluations in a row: {}, a rollback at {})",
            self.state.fail_streak, self.config.failure_limit
        );
        WaitReason::new(WaitingFor::Gates, NextAction::RunCommand("abort"), text)
    }

    /// The file's `percent` runs: only a higher one moves it on.
    fn explain_at_percent(&self, why: &str) -> WaitReason {
        if self.config.percent == Weight::FULL {
            return WaitReason::new(WaitingFor::Nothing, NextAction::NoAction, why);
        }
        let text = format!("{why}; it goes no higher than percent");
        WaitReason::new(WaitingFor::Percent, NextAction::EditPercent, text)
    }

    fn explain_rolling_back(&self) -> WaitReason {
        let WaitReason { waiting_for, text, .. } =
            self.explain_shifting("stop sending requests async");
        let reason = format_reason_clause(&self.state.reason);
        let text = format!("it is rolling back to 0 %{reason}; {text}");
        WaitReason::new(waiting_for, NextAction::NoAction, text)
    }

    fn explain_degraded(&self) -> WaitReason {
        let at = self.state.phase_since.to_rfc3339().unwrap_or_default();
        let reason = format_reason_clause(&self.state.reason);
        let what = match &self.state.actor {
            Actor::Controller => "rolled back".to_owned(),
            actor => format!("aborted by {actor}"),
        };
        let text = format!(
            "{what} at {at}{reason}; accepted tasks finish, and a percent edit moves nothing \
             until `retry`"
        );
        WaitReason::new(WaitingFor::Retry, NextAction::RunCommand("retry"), text)
    }

    /// Why a weight may not be raised now, where `windows` is set and none is open.
    pub(super) fn explain_closed_window(&self) -> Option<WaitReason> {
        let windows = &self.config.promotion_windows;
        let now = jiff::Timestamp::from_millisecond(i64::try_from(self.now.0).ok()?).ok()?;
        let opens_in = UnixMs::from(next_promotion_opening(windows, now)?).since(self.now);
        let hours = windows.iter().map(format_window).collect::<Vec<_>>().join(" and ");
        let text = format!(
            "a weight may only be raised {hours}, which begins in {}",
            format_span(opens_in)
        );
        let reason = WaitReason::new(WaitingFor::Window, NextAction::Promote, text);
        Some(reason.with_countdown(Some(opens_in)))
    }
}
