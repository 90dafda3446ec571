//! The commands of an operator to a rollout, such as `rollout pause`. Each is one request with the
//! actor and a reason, which the server records in the history.

use bytes::Bytes;
use clap::Args;

use super::lookup::fetch_rollout;
use crate::admin::views::{CommandResultDocument, RolloutCommandBody};
use crate::cli::client::AdminClient;
use crate::cli::document::ApiDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::format_decimal;
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_line};
use crate::rollout::RolloutEventKind;

/// The arguments of a verb without a value.
#[derive(Args)]
pub(in crate::cli) struct RolloutVerbArgs {
    /// The route; not needed when there is only one
    route: Option<String>,
    #[command(flatten)]
    reason_args: ReasonArgs,
}

/// The argument that every verb takes.
#[derive(Args)]
struct ReasonArgs {
    /// The reason, which is recorded in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// `omnidaemon rollout promote`
#[derive(Args)]
pub(in crate::cli) struct RolloutPromoteArgs {
    #[command(flatten)]
    verb_args: RolloutVerbArgs,
    /// Go to percent at once, leaving out the steps in between
    #[arg(long)]
    full: bool,
}

/// `omnidaemon rollout set-weight`
#[derive(Args)]
pub(in crate::cli) struct RolloutSetWeightArgs {
    /// The weight in percent; before it the route, which is not needed when there is only one
    #[arg(
        required = true,
        num_args = 1..=2,
        value_names = ["ROUTE", "PERCENT"],
        allow_negative_numbers = true
    )]
    route_and_percent: Vec<String>,
    #[command(flatten)]
    reason_args: ReasonArgs,
}

pub(super) async fn send_verb(
    verb: RolloutEventKind,
    args: RolloutVerbArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    post_command(verb, args.route.as_deref(), command_body(args.reason_args), global).await
}

pub(super) async fn promote(
    args: RolloutPromoteArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let RolloutVerbArgs { route, reason_args } = args.verb_args;
    let body = RolloutCommandBody { full: Some(args.full), ..command_body(reason_args) };
    post_command(RolloutEventKind::Promote, route.as_deref(), body, global).await
}

pub(super) async fn set_weight(
    args: RolloutSetWeightArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let (route, percent) = match &args.route_and_percent[..] {
        [route, percent] => (Some(route.as_str()), percent),
        [percent, ..] => (None, percent),
        [] => return Err(CliError::Usage("the weight is missing: write a percentage".into())),
    };
    let number = percent.trim_end_matches('%').trim().parse::<f64>();
    let weight = number.map_err(|_| {
        CliError::Usage(format!("{percent:?} is no weight: write a percentage, such as 25"))
    })?;
    let body = RolloutCommandBody { weight: Some(weight), ..command_body(args.reason_args) };
    post_command(RolloutEventKind::SetWeight, route, body, global).await
}

/// The body of a command from this shell.
fn command_body(args: ReasonArgs) -> RolloutCommandBody {
    RolloutCommandBody {
        reason: Some(args.reason),
        actor: Some(actor_name()),
        ..RolloutCommandBody::default()
    }
}

async fn post_command(
    verb: RolloutEventKind,
    route: Option<&str>,
    body: RolloutCommandBody,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let route = fetch_rollout(&client, route).await?.view.summary.route;
    let body = ApiDocument::from_view(body)?.raw.to_string();
    let path = format!("rollouts/{route}/{}", verb.as_str());
    let answer = client.post(&path, Bytes::from(body)).await?;
    let result: ApiDocument<CommandResultDocument> = ApiDocument::parse(answer)?;
    match global.format {
        OutputFormat::Json => print_json(&result.raw),
        OutputFormat::Table => print_line(format_args!(
            "{route} is {}, weight {} %",
            result.view.phase,
            format_decimal(result.view.weight)
        )),
    }
    if !result.view.saved {
        eprintln!(
            "the store does not answer: the command is in force in the process that received it, \
             and is saved when the store is back"
        );
    }
    Ok(CliExit::Ok)
}

/// The actor of commands from this shell: `user@host`.
fn actor_name() -> String {
    let env_value = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let user = env_value("USER").or_else(|| env_value("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}
