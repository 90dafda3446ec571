//! `omnidaemon task …`: publish, and what can be asked and told of one task.

mod bulk;
mod list;
mod show;

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::backoff::BackoffPolicy;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, name_value_table, print_json, print_line, print_table};
use crate::cli::source::CommandBackend;
use crate::task::{TaskId, TaskStatus};

/// The delays between polls of a task that the command waits for.
const POLL_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));

/// `omnidaemon task …`
#[derive(Subcommand)]
pub(super) enum TaskCommand {
    /// Queue a task
    Publish(TaskPublishArgs),
    /// List tasks, newest first
    List(list::TaskListArgs),
    /// Show a task's life: its attempts, their workers and errors
    Show(TaskIdArgs),
    /// Show how a task stands, and its result
    Result(TaskResultArgs),
    /// Cancel a task; one that runs is stopped
    Cancel(TaskIdArgs),
}

/// A command about one task.
#[derive(Args)]
pub(super) struct TaskIdArgs {
    /// The task
    id: String,
}

/// What an envelope may have beside topic and payload.
#[derive(Args, Default, serde::Serialize)]
struct EnvelopeOptions {
    /// An id of your own for it
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    /// A URL that is told of its end; its host must be in webhooks.hosts
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    /// A topic that its result is sent to, as a new task
    #[arg(long, value_name = "TOPIC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    /// Begin not before so long from now, such as 10s
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
}

/// `omnidaemon task publish`
#[derive(Args)]
pub(super) struct TaskPublishArgs {
    /// The queue; with --bulk every line is the payload of a task for it
    #[arg(long, required_unless_present = "bulk")]
    topic: Option<String>,
    /// The task's JSON; @FILE reads it from a file, - from stdin
    #[arg(long, value_name = "JSON", required_unless_present = "bulk", conflicts_with = "bulk")]
    payload: Option<String>,
    /// Queue a task for each line of a file, - is stdin: {"topic": …, "payload": …}, or with
    /// --topic the payload alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["correlation_id", "webhook", "reply_to", "delay", "wait"])]
    bulk: Option<String>,
    #[command(flatten)]
    envelope_options: EnvelopeOptions,
    /// Wait for the result, at most so long where a duration is given, as in --wait=30s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = humantime::parse_duration)]
    #[allow(clippy::option_option, reason = "not given, given without a duration, given with one")]
    wait: Option<Option<Duration>>,
}

/// `omnidaemon task result`
#[derive(Args)]
pub(super) struct TaskResultArgs {
    /// The task
    id: String,
    /// Wait for its end, at most so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(command: TaskCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    match command {
        TaskCommand::Publish(args) => publish_task(args, global).await,
        TaskCommand::List(args) => list::run(args, global).await,
        TaskCommand::Show(args) => show::run(&parse_task_id(&args.id)?, global).await,
        TaskCommand::Result(args) => print_result(args, global).await,
        TaskCommand::Cancel(args) => cancel_task(&args, global).await,
    }
}

async fn publish_task(args: TaskPublishArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    if let Some(file) = &args.bulk {
        return bulk::publish_bulk(file, args.topic, global).await;
    }
    let (topic, given) = (args.topic.unwrap_or_default(), args.payload.unwrap_or_default());
    let envelope = build_envelope(&topic, &read_payload(&given)?, &args.envelope_options)?;
    let source = CommandBackend::connect(global).await?;
    let accepted = source.publish(&topic, envelope).await?;
    let id = format_field(&accepted["task_id"]);
    let Some(wait) = args.wait else {
        match global.format {
            OutputFormat::Json => print_json(&accepted),
            // The bare id, for a script to keep: id=$(omnidaemon task publish …)
            OutputFormat::Table => print_line(&id),
        }
        return Ok(CliExit::Ok);
    };
    eprintln!("{id} is queued on {topic}");
    let task = wait_for_end(&source, &parse_task_id(&id)?, wait.unwrap_or(Duration::MAX)).await?;
    Ok(print_task(&task, global.format))
}

async fn print_result(args: TaskResultArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let id = parse_task_id(&args.id)?;
    let source = CommandBackend::connect(global).await?;
    let task = wait_for_end(&source, &id, args.wait.unwrap_or_default()).await?;
    Ok(print_task(&task, global.format))
}

async fn cancel_task(args: &TaskIdArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let id = parse_task_id(&args.id)?;
    let cancelled = CommandBackend::connect(global).await?.cancel(&id).await?;
    match global.format {
        OutputFormat::Json => print_json(&cancelled),
        OutputFormat::Table => print_line(format_args!("{id} is cancelled")),
    }
    Ok(CliExit::Ok)
}

/// The task once it has ended, or as it stands after `wait`.
async fn wait_for_end(
    source: &CommandBackend,
    id: &TaskId,
    wait: Duration,
) -> Result<Value, CliError> {
    let start = Instant::now();
    let mut pause = POLL_BACKOFF.first_delay();
    loop {
        let task = source.fetch_task(id).await?;
        let left = wait.saturating_sub(start.elapsed());
        if has_ended(&task) || left.is_zero() {
            return Ok(task);
        }
        sleep(pause.min(left)).await;
        pause = POLL_BACKOFF.next_delay(pause);
    }
}

fn has_ended(task: &Value) -> bool {
    [TaskStatus::Completed, TaskStatus::Failed, TaskStatus::Cancelled]
        .iter()
        .any(|status| task["status"] == status.as_str())
}

/// What a result's document says; that of a task's life says more.
const RESULT_FIELDS: [&str; 9] = [
    "task_id",
    "topic",
    "status",
    "attempts",
    "created_ms",
    "finished_ms",
    "http_status",
    "result",
    "error",
];

fn print_task(task: &Value, format: OutputFormat) -> CliExit {
    match format {
        OutputFormat::Json => {
            let fields = RESULT_FIELDS
                .iter()
                .filter_map(|field| Some(((*field).to_owned(), task.get(field)?.clone())));
            print_json(&Value::Object(fields.collect()));
        }
        OutputFormat::Table => {
            let fields =
                ["task_id", "topic", "status", "due_at", "attempts", "http_status", "error"];
            let rows = fields.iter().filter(|field| !task[**field].is_null());
            print_table(&name_value_table(rows.map(|field| (field, format_field(&task[*field])))));
            if !task["result"].is_null() {
                print_line("");
                print_json(&task["result"]);
            }
        }
    }
    match task["status"].as_str() {
        Some("completed") => CliExit::Ok,
        _ if has_ended(task) => CliExit::Failed,
        _ => CliExit::Unfinished,
    }
}

fn parse_task_id(text: &str) -> Result<TaskId, CliError> {
    TaskId::parse(text).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}

/// The payload's JSON text, from where the argument says.
fn read_payload(argument: &str) -> Result<String, CliError> {
    let read = match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        (_, Some(file)) => std::fs::read_to_string(file),
        _ => Ok(argument.to_owned()),
    };
    read.map_err(|error| CliError::File {
        action: format!("cannot read the payload from {argument}"),
        error,
    })
}

/// `{"topic", "payload", …}` around the payload, which stays as it is, byte for byte.
fn build_envelope(topic: &str, payload: &str, extras: &EnvelopeOptions) -> Result<Bytes, CliError> {
    #[derive(serde::Serialize)]
    struct PublishEnvelope<'a> {
        topic: &'a str,
        payload: &'a RawValue,
        #[serde(flatten)]
        extras: &'a EnvelopeOptions,
    }
    let not_json = |error| {
        CliError::Usage(format!(
            "the payload is not JSON: {error}; a text needs quotes: '\"text\"'"
        ))
    };
    let payload: &RawValue = serde_json::from_str(payload.trim()).map_err(not_json)?;
    serde_json::to_vec(&PublishEnvelope { topic, payload, extras })
        .map(Bytes::from)
        .map_err(not_json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_published_as_it_was_written() {
        let payload = " {\"b\": 1.10,  \"a\": [12345678901234567890123]}\n";
        let bytes = build_envelope(
            "t",
            payload,
            &EnvelopeOptions { correlation_id: Some("c".into()), ..EnvelopeOptions::default() },
        )
        .expect("JSON");
        let text = r#"{"topic":"t","payload":{"b": 1.10,  "a": [12345678901234567890123]},"correlation_id":"c"}"#;
        assert_eq!(std::str::from_utf8(&bytes), Ok(text));
    }

    #[test]
    fn a_payload_that_is_not_json_is_refused_before_anybody_is_asked() {
        for bad in ["hello", "", "{\"a\":1} x"] {
            assert_eq!(
                build_envelope("t", bad, &EnvelopeOptions::default())
                    .err()
                    .map(|error| error.exit_status()),
                Some(CliExit::Usage),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_delay_is_a_key_of_the_envelope() {
        let bytes = build_envelope(
            "t",
            "1",
            &EnvelopeOptions { delay: Some("10s".into()), ..EnvelopeOptions::default() },
        )
        .expect("JSON");
        assert_eq!(bytes, r#"{"topic":"t","payload":1,"delay":"10s"}"#);
    }

    #[test]
    fn a_payload_comes_from_a_file_with_an_at_sign() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[1]").expect("it can be written");
        assert_eq!(
            read_payload(&format!("@{}", file.path().display())).ok().as_deref(),
            Some("[1]")
        );
        assert!(
            read_payload("@/no/such/file")
                .expect_err("it is not there")
                .to_string()
                .contains("/no/such/file")
        );
    }

    #[test]
    fn the_exit_status_says_how_the_task_stands() {
        let exit =
            |status| print_task(&json!({"task_id": "t", "status": status}), OutputFormat::Table);
        assert_eq!(exit("completed"), CliExit::Ok);
        assert_eq!((exit("failed"), exit("cancelled")), (CliExit::Failed, CliExit::Failed));
        assert_eq!(
            (exit("queued"), exit("processing")),
            (CliExit::Unfinished, CliExit::Unfinished)
        );
    }
}
