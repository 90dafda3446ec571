//! The verbs: an order, who gives it and why, in one call.

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::find;
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, print_json, text};

/// A verb about a route.
#[derive(Args)]
pub(in crate::cli) struct OrderArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    #[command(flatten)]
    why: Why,
}

/// What every verb is recorded with.
#[derive(Args)]
struct Why {
    /// Why; it is kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// `omnidaemon rollout promote`
#[derive(Args)]
pub(in crate::cli) struct PromoteArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// To percent at once, leaving out the steps between
    #[arg(long)]
    full: bool,
}

/// `omnidaemon rollout set-weight`
#[derive(Args)]
pub(in crate::cli) struct SetWeightArgs {
    /// The weight, percent; before it the route, which may be left out where there is one
    #[arg(required = true, num_args = 1..=2, value_names = ["ROUTE", "PERCENT"], allow_negative_numbers = true)]
    route_and_percent: Vec<String>,
    #[command(flatten)]
    why: Why,
}

pub(super) async fn order(verb: &str, args: OrderArgs, global: &Global) -> Result<Exit, CliError> {
    say(verb, args.route.as_deref(), json!({"reason": args.why.reason}), global).await
}

pub(super) async fn promote(args: PromoteArgs, global: &Global) -> Result<Exit, CliError> {
    let order = json!({"reason": args.order.why.reason, "full": args.full});
    say("promote", args.order.route.as_deref(), order, global).await
}

pub(super) async fn set_weight(args: SetWeightArgs, global: &Global) -> Result<Exit, CliError> {
    let (route, percent) = match &args.route_and_percent[..] {
        [route, percent] => (Some(route.as_str()), percent),
        [percent, ..] => (None, percent),
        [] => return Err(CliError::Usage("a weight is needed, percent".into())),
    };
    let number = percent.trim_end_matches('%').trim().parse::<f64>();
    let weight =
        number.map_err(|_| CliError::Usage(format!("{percent:?} is no weight: write a percentage, such as 25")))?;
    say("set-weight", route, json!({"reason": args.why.reason, "weight": weight}), global).await
}

async fn say(verb: &str, route: Option<&str>, mut order: Value, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    let route = text(&find(&client, route).await?["route"]);
    order["actor"] = actor().into();
    let done = client.post(&format!("rollouts/{route}/{verb}"), Bytes::from(order.to_string())).await?;
    match global.format {
        Format::Json => print_json(&done),
        Format::Table => line(format_args!("{route} is {}, weight {} %", text(&done["phase"]), text(&done["weight"]))),
    }
    if done["saved"] == false {
        eprintln!("the store does not answer: this holds in that process, and is saved when the store is back");
    }
    Ok(Exit::Ok)
}

/// Who gives orders from here: `user@host`.
fn actor() -> String {
    let named = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}
