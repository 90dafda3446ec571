//! `omnidaemon bus dlq`: what failed for good, and what becomes of it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{
    format_field, name_value_table, print_json, print_line, print_table, table_with_headings,
};
use super::source::CommandBackend;
use crate::task::{TaskId, Topic};

/// How much of an error a table shows.
const MAX_ERROR_CHARS: usize = 80;
/// Dead letters asked for at a time.
const DEAD_LETTER_PAGE_SIZE: usize = 500;

/// `omnidaemon bus …`
#[derive(Subcommand)]
pub(super) enum BusCommand {
    /// Dead letters: list or count them, run one again, throw one away
    Dlq(DlqArgs),
}

/// `omnidaemon bus dlq`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DlqArgs {
    #[command(subcommand)]
    command: Option<DlqCommand>,
    /// The queue; all of them where none is named
    #[arg(long)]
    topic: Option<String>,
    /// Say only how many there are
    #[arg(long)]
    count: bool,
    /// The most to list of a queue, newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Subcommand)]
enum DlqCommand {
    /// Queue a failed task again, under its id and with all its retries; credentials of its request
    /// are gone
    Reprocess(DeadLetterArgs),
    /// Delete a dead letter for good
    Discard(DeadLetterArgs),
}

/// A command about one dead letter.
#[derive(Args)]
struct DeadLetterArgs {
    /// The task that failed
    #[arg(long, value_name = "ID")]
    task_id: String,
    /// Its queue; looked for where none is named
    #[arg(long, value_parser = parse_topic_name)]
    topic: Option<String>,
}

/// A topic's name, before it is put into a URL.
fn parse_topic_name(text: &str) -> Result<String, String> {
    Topic::parse(text).map(|topic| topic.to_string()).map_err(|error| error.to_string())
}

pub(super) async fn run(command: BusCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let BusCommand::Dlq(args) = command;
    match args.command {
        None if args.count => print_counts(args.topic.as_deref(), global).await,
        None => print_dead_letters(args.topic.as_deref(), args.limit, global).await,
        Some(DlqCommand::Reprocess(letter)) => {
            let (id, source) =
                (parse_task_id(&letter.task_id)?, CommandBackend::connect(global).await?);
            print_outcome(
                &source.reprocess_dead_letter(letter.topic.as_deref(), &id).await?,
                global.format,
            );
            Ok(CliExit::Ok)
        }
        Some(DlqCommand::Discard(letter)) => {
            let (id, source) =
                (parse_task_id(&letter.task_id)?, CommandBackend::connect(global).await?);
            print_outcome(
                &source.discard_dead_letter(letter.topic.as_deref(), &id).await?,
                global.format,
            );
            Ok(CliExit::Ok)
        }
    }
}

async fn print_counts(topic: Option<&str>, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let topics = fetch_selected_topics(&CommandBackend::connect(global).await?, topic).await?;
    let counts: Vec<Value> = topics
        .iter()
        .map(|known| json!({"topic": known["topic"], "dead_letters": known["dead_letters"]}))
        .collect();
    match (global.format, topic, &counts[..]) {
        (OutputFormat::Json, Some(_), [one]) => print_json(one),
        (OutputFormat::Json, ..) => print_json(&counts.into()),
        // the bare number, for a script to compare
        (OutputFormat::Table, Some(_), [one]) => print_line(format_field(&one["dead_letters"])),
        (OutputFormat::Table, ..) => {
            print_table(&name_value_table(
                counts
                    .iter()
                    .map(|one| (format_field(&one["topic"]), format_field(&one["dead_letters"]))),
            ));
        }
    }
    Ok(CliExit::Ok)
}

async fn print_dead_letters(
    topic: Option<&str>,
    limit: usize,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let source = CommandBackend::connect(global).await?;
    let mut letters = Vec::new();
    for known in fetch_selected_topics(&source, topic).await? {
        let (name, there) =
            (format_field(&known["topic"]), known["dead_letters"].as_u64().unwrap_or_default());
        let found = collect_dead_letters(&source, &name, limit).await?;
        if (found.len() as u64) < there {
            eprintln!("{name}: the newest {} of {there}; --limit {there} lists all", found.len());
        }
        letters.extend(found);
    }
    match global.format {
        OutputFormat::Json => print_json(&letters.into()),
        OutputFormat::Table if letters.is_empty() => eprintln!("no dead letters"),
        OutputFormat::Table => {
            let mut rows =
                table_with_headings(&["task id", "topic", ">attempts", "failed", "error"]);
            for letter in &letters {
                let error: String = format_field(&letter["error"])
                    .replace('\n', " ")
                    .chars()
                    .take(MAX_ERROR_CHARS)
                    .collect();
                let [id, topic, attempts] =
                    ["id", "topic", "attempts"].map(|field| format_field(&letter[field]));
                rows.add_row([
                    id,
                    topic,
                    attempts,
                    format_utc_seconds(&letter["failed_ms"]),
                    error,
                ]);
            }
            print_table(&rows);
        }
    }
    Ok(CliExit::Ok)
}

/// The queues asked about, as they stand.
async fn fetch_selected_topics(
    source: &CommandBackend,
    topic: Option<&str>,
) -> Result<Vec<Value>, CliError> {
    let Value::Array(mut topics) = source.fetch_topics().await? else { return Ok(Vec::new()) };
    if let Some(name) = topic {
        topics.retain(|known| known["topic"] == name);
        if topics.is_empty() {
            return Err(CliError::NotFound(format!(
                "there is no topic {name:?} in the configuration"
            )));
        }
    }
    Ok(topics)
}

async fn collect_dead_letters(
    source: &CommandBackend,
    topic: &str,
    limit: usize,
) -> Result<Vec<Value>, CliError> {
    let mut letters: Vec<Value> = Vec::new();
    while letters.len() < limit {
        let before = letters.last().map(|last| format_field(&last["cursor"]));
        let page = source
            .list_dead_letters(
                topic,
                before.as_deref(),
                DEAD_LETTER_PAGE_SIZE.min(limit - letters.len()),
            )
            .await?;
        let Value::Array(page) = page else { break };
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    Ok(letters)
}

fn print_outcome(document: &Value, format: OutputFormat) {
    match format {
        OutputFormat::Json => print_json(document),
        OutputFormat::Table => {
            print_line(format_args!(
                "{} is {}",
                format_field(&document["task_id"]),
                format_field(&document["status"])
            ));
            if let Some(note) = document["note"].as_str() {
                eprintln!("{note}");
            }
        }
    }
}

fn format_utc_seconds(ms: &Value) -> String {
    let at = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"))
}

fn parse_task_id(text: &str) -> Result<TaskId, CliError> {
    TaskId::parse(text).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}
