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

use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, pairs, print, print_json, text};
use crate::cli::source::Source;
use crate::task::{Status, TaskId};

/// How often a task that is waited for is looked at, first and at last.
const POLLS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// `omnidaemon task …`
#[derive(Subcommand)]
pub(super) enum TaskCommand {
    /// Queue a task
    Publish(PublishArgs),
    /// List tasks, newest first
    List(list::ListArgs),
    /// Show a task's life: its attempts, their workers and errors
    Show(IdArgs),
    /// Show how a task stands, and its result
    Result(ResultArgs),
    /// Cancel a task; one that runs is stopped
    Cancel(IdArgs),
}

/// A command about one task.
#[derive(Args)]
pub(super) struct IdArgs {
    /// The task
    id: String,
}

/// What an envelope may have beside topic and payload.
#[derive(Args, Default, serde::Serialize)]
struct Extras {
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
pub(super) struct PublishArgs {
    /// The queue; with --bulk every line is the payload of a task for it
    #[arg(long, required_unless_present = "bulk")]
    topic: Option<String>,
    /// The task's JSON; @FILE reads it from a file, - from stdin
    #[arg(long, value_name = "JSON", required_unless_present = "bulk", conflicts_with = "bulk")]
    payload: Option<String>,
    /// Queue a task for each line of a file, - is stdin: {"topic": …, "payload": …}, or with --topic the payload alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["correlation_id", "webhook", "reply_to", "delay", "wait"])]
    bulk: Option<String>,
    #[command(flatten)]
    extras: Extras,
    /// Wait for the result, at most so long where a duration is given, as in --wait=30s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = humantime::parse_duration)]
    #[allow(clippy::option_option, reason = "not given, given without a duration, given with one")]
    wait: Option<Option<Duration>>,
}

/// `omnidaemon task result`
#[derive(Args)]
pub(super) struct ResultArgs {
    /// The task
    id: String,
    /// Wait for its end, at most so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(command: TaskCommand, global: &Global) -> Result<Exit, CliError> {
    match command {
        TaskCommand::Publish(args) => publish(args, global).await,
        TaskCommand::List(args) => list::run(args, global).await,
        TaskCommand::Show(args) => show::run(&known_id(&args.id)?, global).await,
        TaskCommand::Result(args) => result(args, global).await,
        TaskCommand::Cancel(args) => cancel(&args, global).await,
    }
}

async fn publish(args: PublishArgs, global: &Global) -> Result<Exit, CliError> {
    if let Some(file) = &args.bulk {
        return bulk::run(file, args.topic, global).await;
    }
    let (topic, given) = (args.topic.unwrap_or_default(), args.payload.unwrap_or_default());
    let envelope = envelope(&topic, &payload(&given)?, &args.extras)?;
    let source = Source::find(global).await?;
    let accepted = source.publish(&topic, envelope).await?;
    let id = text(&accepted["task_id"]);
    let Some(wait) = args.wait else {
        match global.format {
            Format::Json => print_json(&accepted),
            // The bare id, for a script to keep: id=$(omnidaemon task publish …)
            Format::Table => line(&id),
        }
        return Ok(Exit::Ok);
    };
    eprintln!("{id} is queued on {topic}");
    let task = wait_for(&source, &known_id(&id)?, wait.unwrap_or(Duration::MAX)).await?;
    Ok(show(&task, global.format))
}

async fn result(args: ResultArgs, global: &Global) -> Result<Exit, CliError> {
    let id = known_id(&args.id)?;
    let source = Source::find(global).await?;
    let task = wait_for(&source, &id, args.wait.unwrap_or_default()).await?;
    Ok(show(&task, global.format))
}

async fn cancel(args: &IdArgs, global: &Global) -> Result<Exit, CliError> {
    let id = known_id(&args.id)?;
    let cancelled = Source::find(global).await?.cancel(&id).await?;
    match global.format {
        Format::Json => print_json(&cancelled),
        Format::Table => line(format_args!("{id} is cancelled")),
    }
    Ok(Exit::Ok)
}

/// The task once it has ended, or as it stands after `wait`.
async fn wait_for(source: &Source, id: &TaskId, wait: Duration) -> Result<Value, CliError> {
    let start = Instant::now();
    let [mut pause, longest] = POLLS;
    loop {
        let task = source.task(id).await?;
        let left = wait.saturating_sub(start.elapsed());
        if has_ended(&task) || left.is_zero() {
            return Ok(task);
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(longest);
    }
}

fn has_ended(task: &Value) -> bool {
    [Status::Completed, Status::Failed, Status::Cancelled].iter().any(|status| task["status"] == status.as_str())
}

/// What a result's document says; that of a task's life says more.
const RESULT: [&str; 9] =
    ["task_id", "topic", "status", "attempts", "created_ms", "finished_ms", "http_status", "result", "error"];

fn show(task: &Value, format: Format) -> Exit {
    match format {
        Format::Json => {
            let fields = RESULT.iter().filter_map(|field| Some(((*field).to_owned(), task.get(field)?.clone())));
            print_json(&Value::Object(fields.collect()));
        }
        Format::Table => {
            let fields = ["task_id", "topic", "status", "due_at", "attempts", "http_status", "error"];
            let rows = fields.iter().filter(|field| !task[**field].is_null());
            print(&pairs(rows.map(|field| (field, text(&task[*field])))));
            if !task["result"].is_null() {
                line("");
                print_json(&task["result"]);
            }
        }
    }
    match task["status"].as_str() {
        Some("completed") => Exit::Ok,
        _ if has_ended(task) => Exit::Failed,
        _ => Exit::Unfinished,
    }
}

fn known_id(text: &str) -> Result<TaskId, CliError> {
    TaskId::parse(text).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}

/// The payload's JSON text, from where the argument says.
fn payload(argument: &str) -> Result<String, CliError> {
    let read = match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        (_, Some(file)) => std::fs::read_to_string(file),
        _ => Ok(argument.to_owned()),
    };
    read.map_err(|error| CliError::File { what: format!("cannot read the payload from {argument}"), error })
}

/// `{"topic", "payload", …}` around the payload, which stays as it is, byte for byte.
fn envelope(topic: &str, payload: &str, extras: &Extras) -> Result<Bytes, CliError> {
    #[derive(serde::Serialize)]
    struct Envelope<'a> {
        topic: &'a str,
        payload: &'a RawValue,
        #[serde(flatten)]
        extras: &'a Extras,
    }
    let not_json =
        |error| CliError::Usage(format!("the payload is not JSON: {error}; a text needs quotes: '\"text\"'"));
    let payload: &RawValue = serde_json::from_str(payload.trim()).map_err(not_json)?;
    serde_json::to_vec(&Envelope { topic, payload, extras }).map(Bytes::from).map_err(not_json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_published_as_it_was_written() {
        let payload = " {\"b\": 1.10,  \"a\": [12345678901234567890123]}\n";
        let bytes =
            envelope("t", payload, &Extras { correlation_id: Some("c".into()), ..Extras::default() }).expect("JSON");
        let text = r#"{"topic":"t","payload":{"b": 1.10,  "a": [12345678901234567890123]},"correlation_id":"c"}"#;
        assert_eq!(std::str::from_utf8(&bytes), Ok(text));
    }

    #[test]
    fn a_payload_that_is_not_json_is_refused_before_anybody_is_asked() {
        for bad in ["hello", "", "{\"a\":1} x"] {
            assert_eq!(
                envelope("t", bad, &Extras::default()).err().map(|error| error.exit()),
                Some(Exit::Usage),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_delay_is_a_key_of_the_envelope() {
        let bytes = envelope("t", "1", &Extras { delay: Some("10s".into()), ..Extras::default() }).expect("JSON");
        assert_eq!(bytes, r#"{"topic":"t","payload":1,"delay":"10s"}"#);
    }

    #[test]
    fn a_payload_comes_from_a_file_with_an_at_sign() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[1]").expect("it can be written");
        assert_eq!(payload(&format!("@{}", file.path().display())).ok().as_deref(), Some("[1]"));
        assert!(payload("@/no/such/file").expect_err("it is not there").to_string().contains("/no/such/file"));
    }

    #[test]
    fn the_exit_status_says_how_the_task_stands() {
        let exit = |status| show(&json!({"task_id": "t", "status": status}), Format::Table);
        assert_eq!(exit("completed"), Exit::Ok);
        assert_eq!((exit("failed"), exit("cancelled")), (Exit::Failed, Exit::Failed));
        assert_eq!((exit("queued"), exit("processing")), (Exit::Unfinished, Exit::Unfinished));
    }
}
