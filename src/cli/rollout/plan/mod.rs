//! `rollout plan`: shows the changes that a configuration file would make to the running rollouts,
//! before the file is put in place.

mod changes;
mod deprecation;
mod latency;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use self::changes::describe_changes;
use self::deprecation::gone_warning;
use self::latency::latency_note;
use super::lookup::fetch_rollouts;
use crate::admin::views::RolloutDocument;
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_line};
use crate::cli::scrape::MetricsScrape;
use crate::config::{self, EnvVars};

/// `omnidaemon rollout plan`
#[derive(Args)]
pub(in crate::cli) struct RolloutPlanArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// The changes that the file would make to one route, a sentence each.
struct RoutePlan {
    route: String,
    changes: Vec<String>,
}

pub(in crate::cli) async fn run(
    args: RolloutPlanArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let file = args.file.unwrap_or_else(|| global.config.clone());
    let env: EnvVars = std::env::vars().collect();
    let loaded = config::load_file(&file, &env)?;
    let client = AdminClient::new(global)?;
    let rollouts = fetch_rollouts(&client).await?;
    let scrape = MetricsScrape::parse(&client.get_text("metrics").await?);
    let mut plans = Vec::new();
    for route in &loaded.config.routes {
        let mut running = rollouts.iter().map(|rollout| &rollout.view);
        let running = running.find(|rollout| rollout.summary.route == route.name);
        let mut changes = describe_changes(route, running);
        changes.extend(latency_note(route, &scrape));
        changes.extend(running.and_then(client_note));
        changes.extend(gone_warning(route, running, &client).await?);
        plans.push(RoutePlan { route: route.name.clone(), changes });
    }
    let name = file.display().to_string();
    let warnings = loaded.warnings.iter().map(|warning| warning.render_line(&name));
    print_plans(&plans, &warnings.collect::<Vec<_>>(), global.format);
    Ok(CliExit::Ok)
}

/// A note when the failures of one client can roll the running rollout back, with the reason.
fn client_note(running: &RolloutDocument) -> Option<String> {
    let evidence = running.details.as_ref()?.evidence.as_ref()?;
    let reason = evidence.counted_why.as_ref()?;
    Some(format!("failures count by request, so one client alone can cause a rollback: {reason}"))
}

fn print_plans(plans: &[RoutePlan], warnings: &[String], format: OutputFormat) {
    match format {
        OutputFormat::Json => {
            let routes: Value = plans
                .iter()
                .map(|plan| json!({"route": plan.route, "changes": plan.changes}))
                .collect();
            print_json(&json!({"routes": routes, "warnings": warnings}));
        }
        OutputFormat::Table => {
            for warning in warnings {
                print_line(format_args!("warning: {warning}"));
            }
            for plan in plans {
                for change in &plan.changes {
                    print_line(format_args!("{}: {change}", plan.route));
                }
            }
        }
    }
}
