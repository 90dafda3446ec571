//! `task list`: the tasks, newest first, a page after the other up to the limit.

use clap::Args;
use serde_json::Value;

use super::show::time;
use crate::admin::status;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{print, print_json, table, text};
use crate::cli::source::Source;
use crate::store::Listing;
use crate::task::{Status, Topic};

/// The most tasks that are asked for at a time.
const PAGE: usize = 500;

/// `omnidaemon task list`
#[derive(Args)]
pub(in crate::cli) struct ListArgs {
    /// Those of one topic
    #[arg(long)]
    topic: Option<String>,
    /// Those that stand so: queued, processing, completed, failed or cancelled
    #[arg(long, value_parser = status)]
    status: Option<Status>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(args: ListArgs, global: &Global) -> Result<Exit, CliError> {
    let topic = args.topic.as_deref().map(Topic::parse).transpose();
    let topic = topic.map_err(|error| CliError::Usage(error.to_string()))?;
    let source = Source::find(global).await?;
    let mut tasks: Vec<Value> = Vec::new();
    let mut after = None;
    while tasks.len() < args.limit {
        let limit = (args.limit - tasks.len()).min(PAGE);
        let listing = Listing { topic: topic.clone(), status: args.status, limit, after: after.take() };
        let mut page = source.list(&listing).await?;
        tasks.append(page["tasks"].as_array_mut().unwrap_or(&mut Vec::new()));
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            warn_of(&page["unlisted"], args.status);
            break;
        }
    }
    match global.format {
        Format::Json => print_json(&tasks.into()),
        Format::Table => people(&tasks),
    }
    Ok(Exit::Ok)
}

/// Says what the list cannot have, where that was asked for.
fn warn_of(unlisted: &Value, asked: Option<Status>) {
    let is_unlisted =
        |status: Status| unlisted.as_array().is_some_and(|all| all.iter().any(|one| *one == status.as_str()));
    if let Some(status) = asked.filter(|status| is_unlisted(*status)) {
        eprintln!("this store cannot list tasks that are {}: ask for one by its id", status.as_str());
    }
}

fn people(tasks: &[Value]) {
    let mut listed = table(&["task", "topic", "status", ">attempts", "created", "finished"]);
    for task in tasks {
        let words = ["task_id", "topic", "status", "attempts"].map(|field| text(&task[field]));
        listed.add_row(words.into_iter().chain([time(&task["created_ms"]), time(&task["finished_ms"])]));
    }
    print(&listed);
}
