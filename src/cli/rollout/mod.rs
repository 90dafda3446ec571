//! `omnidaemon rollout …`: shows the state of rollouts and the reason for it, checks a file against
//! them, and sends an operator's commands to the controller.

mod clients;
mod explain;
mod get;
mod history;
mod lint;
mod lookup;
mod plan;
mod status;
mod verbs;

use clap::Subcommand;

use self::lookup::RolloutRouteArgs;
use super::exit::{CliError, CliExit};
use super::global::GlobalArgs;
use crate::rollout::RolloutEventKind;

/// `omnidaemon rollout …`
#[derive(Subcommand)]
pub(super) enum RolloutCommand {
    /// Show a rollout: weights, gates with their counts, what it waits for
    Get(get::RolloutGetArgs),
    /// Show the rollout's status in a line; with --wait, when it has reached the goal
    #[command(after_help = status::STATUS_EXIT_CODES_HELP)]
    Status(status::RolloutStatusArgs),
    /// Go to the next step, whatever the verdicts of its gates; this is recorded
    Promote(verbs::RolloutPromoteArgs),
    /// Stay at the present weight
    Pause(verbs::RolloutVerbArgs),
    /// Continue; a weight that was set by hand is controlled by the gates again
    Resume(verbs::RolloutVerbArgs),
    /// Go back to 0 %, until retry
    Abort(verbs::RolloutVerbArgs),
    /// Begin again after a rollback or an abort
    Retry(verbs::RolloutVerbArgs),
    /// Set the weight by hand, until resume; never over percent in the file
    SetWeight(verbs::RolloutSetWeightArgs),
    /// Show the recorded events, each with time, actor and reason
    History(history::RolloutHistoryArgs),
    /// Explain why a rollout is in its present state, and what would change it
    Explain(RolloutRouteArgs),
    /// Try the queries of the file's prometheus gates; status 1 when one is wrong
    Lint(lint::RolloutLintArgs),
    /// Show what a file would change about the running rollouts, before it is saved
    Plan(plan::RolloutPlanArgs),
    /// Show the clients that still call a deprecated route
    Clients(RolloutRouteArgs),
}

pub(super) async fn run(command: RolloutCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    match command {
        RolloutCommand::Get(args) => get::run(args, global).await,
        RolloutCommand::Status(args) => status::run(args, global).await,
        RolloutCommand::Promote(args) => verbs::promote(args, global).await,
        RolloutCommand::Pause(args) => {
            verbs::send_verb(RolloutEventKind::Pause, args, global).await
        }
        RolloutCommand::Resume(args) => {
            verbs::send_verb(RolloutEventKind::Resume, args, global).await
        }
        RolloutCommand::Abort(args) => {
            verbs::send_verb(RolloutEventKind::Abort, args, global).await
        }
        RolloutCommand::Retry(args) => {
            verbs::send_verb(RolloutEventKind::Retry, args, global).await
        }
        RolloutCommand::SetWeight(args) => verbs::set_weight(args, global).await,
        RolloutCommand::History(args) => history::run(args, global).await,
        RolloutCommand::Explain(args) => explain::run(&args, global).await,
        RolloutCommand::Lint(args) => lint::run(args, global).await,
        RolloutCommand::Plan(args) => plan::run(args, global).await,
        RolloutCommand::Clients(args) => clients::run(&args, global).await,
    }
}
