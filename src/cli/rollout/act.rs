//! The verbs: an order, who gives it and why, in one call.

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::fetch_rollout;
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_json, print_line};
use crate::rollout::RolloutEventKind;

/// A verb about a route.
#[derive(Args)]
pub(in crate::cli) struct RolloutVerbArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    #[command(flatten)]
    reason_args: ReasonArgs,
}

/// What every verb is recorded with.
#[derive(Args)]
struct ReasonArgs {
    /// Why; it is kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// `omnidaemon rollout promote`
#[derive(Args)]
pub(in crate::cli) struct RolloutPromoteArgs {
    #[command(flatten)]
    verb_args: RolloutVerbArgs,
    /// To percent at once, leaving out the steps between
    #[arg(long)]
    full: bool,
}

/// `omnidaemon rollout set-weight`
#[derive(Args)]
pub(in crate::cli) struct RolloutSetWeightArgs {
    /// The weight, percent; before it the route, which may be left out where there is one
    #[arg(required = true, num_args = 1..=2, value_names = ["ROUTE", "PERCENT"], allow_negative_numbers = true)]
    route_and_percent: Vec<String>,
    #[command(flatten)]
    reason_args: ReasonArgs,
}

pub(super) async fn send_verb(
    verb: RolloutEventKind,
    args: RolloutVerbArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    post_command(verb, args.route.as_deref(), json!({"reason": args.reason_args.reason}), global)
        .await
}

pub(super) async fn promote(
    args: RolloutPromoteArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let order = json!({"reason": args.verb_args.reason_args.reason, "full": args.full});
    post_command(RolloutEventKind::Promote, args.verb_args.route.as_deref(), order, global).await
}

pub(super) async fn set_weight(
    args: RolloutSetWeightArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let (route, percent) = match &args.route_and_percent[..] {
        [route, percent] => (Some(route.as_str()), percent),
        [percent, ..] => (None, percent),
        [] => return Err(CliError::Usage("a weight is needed, percent".into())),
    };
    let number = percent.trim_end_matches('%').trim().parse::<f64>();
    let weight = number.map_err(|_| {
        CliError::Usage(format!("{percent:?} is no weight: write a percentage, such as 25"))
    })?;
    post_command(
        RolloutEventKind::SetWeight,
        route,
        json!({"reason": args.reason_args.reason, "weight": weight}),
        global,
    )
    .await
}

async fn post_command(
    verb: RolloutEventKind,
    route: Option<&str>,
    mut order: Value,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let route = format_field(&fetch_rollout(&client, route).await?["route"]);
    order["actor"] = actor_name().into();
    let path = format!("rollouts/{route}/{}", verb.as_str());
    let done = client.post(&path, Bytes::from(order.to_string())).await?;
    match global.format {
        OutputFormat::Json => print_json(&done),
        OutputFormat::Table => print_line(format_args!(
            "{route} is {}, weight {} %",
            format_field(&done["phase"]),
            format_field(&done["weight"])
        )),
    }
    if done["saved"] == false {
        eprintln!(
            "the store does not answer: this holds in that process, and is saved when the store is back"
        );
    }
    Ok(CliExit::Ok)
}

/// Who gives orders from here: `user@host`.
fn actor_name() -> String {
    let named = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}
