//! The beginning of an explanation (weight and phase) and its end (what to do next).

use super::input::ExplanationInput;
use super::wait_reason::NextAction;
use crate::rollout::phase::PauseReason;

const NOTHING_TO_DO: &str = "nothing to do";

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    /// `invoke is at 10 %, next 25 %, percent 50 %, soaking`
    pub(super) fn format_headline(&self) -> String {
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

    /// A command, an edit, or `nothing to do`.
    pub(super) fn format_next_action(&self, action: NextAction) -> String {
        let route = self.route;
        match action {
            NextAction::NoAction => NOTHING_TO_DO.to_owned(),
            // at `percent` there is no next step, but promote ends a pause for undecided gates
            NextAction::Promote
                if self.next_weight.is_none()
                    && !self.state.phase.is_paused_for(PauseReason::Inconclusive) =>
            {
                NOTHING_TO_DO.to_owned()
            }
            NextAction::Promote => format!("omnidaemon rollout promote {route} --reason …"),
            NextAction::RunCommand(word) => format!("omnidaemon rollout {word} {route} --reason …"),
            NextAction::AddSlots => format!(
                "run more workers, or raise topics.{}.concurrency (docs/sizing.md)",
                self.topic
            ),
            NextAction::StartWorker => {
                format!("start a worker or an agent of topic {} (docs/sizing.md)", self.topic)
            }
            NextAction::CompareReplicas => format!("omnidaemon rollout get {route}"),
            NextAction::EditPercent => match self.config_file {
                Some(file) => format!("edit routes.{route}.rollout.percent in {file}"),
                None => "start again with a higher --percent".to_owned(),
            },
        }
    }
}
