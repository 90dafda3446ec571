//! `task publish`: queue one task, or with `--bulk` many.

use std::time::Duration;

use clap::Args;

use super::bulk::publish_bulk;
use super::envelope::{EnvelopeOptions, build_envelope, read_payload};
use super::result::{print_task, wait_for_end};
use crate::cli::backend::{CommandBackend, parse_task_id};
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_line};

/// `omnidaemon task publish`
#[derive(Args)]
pub(in crate::cli) struct TaskPublishArgs {
    /// The topic; with --bulk each line of the file is the payload of a task for it
    #[arg(long, required_unless_present = "bulk")]
    topic: Option<String>,
    /// The payload as JSON; @FILE reads it from a file, - from stdin
    #[arg(long, value_name = "JSON", required_unless_present = "bulk", conflicts_with = "bulk")]
    payload: Option<String>,
    /// Queue a task for each line of a file, - is stdin: {"topic": …, "payload": …}, or with
    /// --topic the payload alone
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["correlation_id", "webhook", "reply_to", "delay", "wait"]
    )]
    bulk: Option<String>,
    #[command(flatten)]
    envelope_options: EnvelopeOptions,
    /// Wait for the result; with a duration, as in --wait=30s, no longer than that
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        value_parser = humantime::parse_duration
    )]
    #[allow(clippy::option_option, reason = "absent, without a duration, or with one")]
    wait: Option<Option<Duration>>,
}

pub(super) async fn run(args: TaskPublishArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    if let Some(file) = &args.bulk {
        return publish_bulk(file, args.topic, global).await;
    }
    let (topic, payload) = (args.topic.unwrap_or_default(), args.payload.unwrap_or_default());
    let envelope = build_envelope(&topic, &read_payload(&payload)?, &args.envelope_options)?;
    let backend = CommandBackend::connect(global).await?;
    let accepted = backend.publish(&topic, envelope).await?;
    let id = &accepted.view.task_id;
    let Some(wait) = args.wait else {
        match global.format {
            OutputFormat::Json => print_json(&accepted.raw),
            // Only the id, for scripts: id=$(omnidaemon task publish …)
            OutputFormat::Table => print_line(id),
        }
        return Ok(CliExit::Ok);
    };
    eprintln!("{id} is queued on {topic}");
    let task = wait_for_end(&backend, &parse_task_id(id)?, wait.unwrap_or(Duration::MAX)).await?;
    Ok(print_task(&task, global.format))
}
