//! `omnidaemon rollout …`: how rollouts stand and why, and what an operator can say to them.

mod act;
mod history;
mod lint;
mod plan;
mod show;
mod wait;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::AdminClient;
use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{format_field, print_json, print_line};
use crate::rollout::RolloutEventKind;

/// `omnidaemon rollout …`
#[derive(Subcommand)]
pub(super) enum RolloutCommand {
    /// Show how a rollout stands: weights, gates with their counts, what it waits for
    Get(show::RolloutGetArgs),
    /// Say in a line how it stands; with --wait, as soon as it is where it should be
    #[command(after_help = wait::STATUS_EXIT_CODES_HELP)]
    Status(wait::RolloutStatusArgs),
    /// Go to the next step, whatever its gates say; this is recorded
    Promote(act::RolloutPromoteArgs),
    /// Stay at the present weight
    Pause(act::RolloutVerbArgs),
    /// Go on; gives a weight that was set by hand back to the gates
    Resume(act::RolloutVerbArgs),
    /// Go back to 0 %, until retry
    Abort(act::RolloutVerbArgs),
    /// Begin again after a rollback or an abort
    Retry(act::RolloutVerbArgs),
    /// Set the weight by hand, until resume; never over percent in the file
    SetWeight(act::RolloutSetWeightArgs),
    /// Show who did what and when, and what the gates said then
    History(history::RolloutHistoryArgs),
    /// Say why it stands where it stands, and what moves it on
    Explain(RolloutRouteArgs),
    /// Try the queries of the file's prometheus gates; status 1 when one is wrong
    Lint(lint::RolloutLintArgs),
    /// Say what a file would change about the running rollouts, before it is saved
    Plan(plan::RolloutPlanArgs),
    /// Show who still calls a deprecated route
    Clients(RolloutRouteArgs),
}

/// A command about one route.
#[derive(Args)]
pub(in crate::cli) struct RolloutRouteArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
}

pub(super) async fn run(command: RolloutCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    match command {
        RolloutCommand::Get(args) => show::run(args, global).await,
        RolloutCommand::Status(args) => wait::run(args, global).await,
        RolloutCommand::Promote(args) => act::promote(args, global).await,
        RolloutCommand::Pause(args) => act::send_verb(RolloutEventKind::Pause, args, global).await,
        RolloutCommand::Resume(args) => {
            act::send_verb(RolloutEventKind::Resume, args, global).await
        }
        RolloutCommand::Abort(args) => act::send_verb(RolloutEventKind::Abort, args, global).await,
        RolloutCommand::Retry(args) => act::send_verb(RolloutEventKind::Retry, args, global).await,
        RolloutCommand::SetWeight(args) => act::set_weight(args, global).await,
        RolloutCommand::History(args) => history::run(args, global).await,
        RolloutCommand::Explain(args) => print_explanation(&args, global).await,
        RolloutCommand::Lint(args) => lint::run(args, global).await,
        RolloutCommand::Plan(args) => plan::run(args, global).await,
        RolloutCommand::Clients(args) => history::print_clients(&args, global).await,
    }
}

/// The document of `GET /admin/v1/rollouts/{route}`, of the only route where none is named.
async fn fetch_rollout(client: &AdminClient, route: Option<&str>) -> Result<Value, CliError> {
    let Value::Array(mut rollouts) = client.get("rollouts").await? else { return Ok(Value::Null) };
    let all: Vec<String> = rollouts.iter().map(|rollout| format_field(&rollout["route"])).collect();
    let all = all.join(", ");
    match route {
        Some(name) => {
            let missing =
                || CliError::NotFound(format!("there is no route {name:?}, there are: {all}"));
            rollouts.into_iter().find(|rollout| rollout["route"] == name).ok_or_else(missing)
        }
        None if rollouts.len() == 1 => Ok(rollouts.remove(0)),
        None if rollouts.is_empty() => {
            Err(CliError::NotFound("the configuration has no route".into()))
        }
        None => Err(CliError::Usage(format!("which route? there are: {all}"))),
    }
}

async fn print_explanation(
    args: &RolloutRouteArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let rollout = fetch_rollout(&AdminClient::new(global)?, args.route.as_deref()).await?;
    match global.format {
        OutputFormat::Json => {
            let fields = ["route", "waiting_for", "explain", "to_do", "countdown", "pauses_in"];
            print_json(
                &fields
                    .iter()
                    .map(|field| ((*field).to_owned(), rollout[*field].clone()))
                    .collect(),
            );
        }
        OutputFormat::Table => print_line(format_field(&rollout["explain"])),
    }
    Ok(CliExit::Ok)
}
