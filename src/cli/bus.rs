//! `omnidaemon bus dlq`: the dead letters, tasks that failed for good.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::document::{ApiDocument, to_json_list};
use super::exit::{CliError, CliExit};
use super::format::format_utc_seconds;
use super::global::{GlobalArgs, OutputFormat};
use super::output::{name_value_table, print_json, print_line, print_table, table_with_headings};
use super::source::{CommandBackend, parse_task_id};
use crate::admin::views::{DeadLetterChangeDocument, DeadLetterDocument, TopicDocument};
use crate::task::Topic;

/// Characters of an error that a table shows.
const MAX_ERROR_CHARS: usize = 80;
/// Dead letters of one request.
const DEAD_LETTER_PAGE_SIZE: usize = 500;

/// `omnidaemon bus …`
#[derive(Subcommand)]
pub(super) enum BusCommand {
    /// Dead letters: list or count them, reprocess or discard one
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
    /// Print only how many there are
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

/// The arguments of a command about one dead letter.
#[derive(Args)]
struct DeadLetterArgs {
    /// The task that failed
    #[arg(long, value_name = "ID")]
    task_id: String,
    /// Its queue; all are searched where none is named
    #[arg(long, value_parser = parse_topic_name)]
    topic: Option<String>,
}

/// A valid topic name, which can be put into a URL.
fn parse_topic_name(text: &str) -> Result<String, String> {
    Topic::parse(text).map(|topic| topic.to_string()).map_err(|error| error.to_string())
}

pub(super) async fn run(command: BusCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let BusCommand::Dlq(args) = command;
    match args.command {
        None if args.count => print_counts(args.topic.as_deref(), global).await,
        None => print_dead_letters(args.topic.as_deref(), args.limit, global).await,
        Some(DlqCommand::Reprocess(letter)) => {
            let id = parse_task_id(&letter.task_id)?;
            let source = CommandBackend::connect(global).await?;
            let change = source.reprocess_dead_letter(letter.topic.as_deref(), &id).await?;
            print_change(&change, global.format);
            Ok(CliExit::Ok)
        }
        Some(DlqCommand::Discard(letter)) => {
            let id = parse_task_id(&letter.task_id)?;
            let source = CommandBackend::connect(global).await?;
            let change = source.discard_dead_letter(letter.topic.as_deref(), &id).await?;
            print_change(&change, global.format);
            Ok(CliExit::Ok)
        }
    }
}

async fn print_counts(topic: Option<&str>, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let topics = fetch_selected_topics(&CommandBackend::connect(global).await?, topic).await?;
    let count =
        |known: &TopicDocument| json!({"topic": known.topic, "dead_letters": known.dead_letters});
    match (global.format, topic, &topics[..]) {
        (OutputFormat::Json, Some(_), [one]) => print_json(&count(one)),
        (OutputFormat::Json, ..) => print_json(&topics.iter().map(count).collect::<Value>()),
        // The bare number, for a script to compare.
        (OutputFormat::Table, Some(_), [one]) => print_line(one.dead_letters),
        (OutputFormat::Table, ..) => {
            let rows = topics.iter().map(|one| (&one.topic, one.dead_letters.to_string()));
            print_table(&name_value_table(rows));
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
    for TopicDocument { topic: name, dead_letters: total, .. } in
        fetch_selected_topics(&source, topic).await?
    {
        let fetched = fetch_dead_letters(&source, &name, limit).await?;
        if (fetched.len() as u64) < total {
            let count = fetched.len();
            eprintln!("{name}: the newest {count} of {total}; --limit {total} lists all");
        }
        letters.extend(fetched);
    }
    match global.format {
        OutputFormat::Json => print_json(&to_json_list(&letters)),
        OutputFormat::Table if letters.is_empty() => eprintln!("no dead letters"),
        OutputFormat::Table => {
            let mut table =
                table_with_headings(&["task id", "topic", ">attempts", "failed", "error"]);
            for ApiDocument { view: letter, .. } in letters {
                let error = letter.error.replace('\n', " ");
                table.add_row([
                    letter.id,
                    letter.topic,
                    letter.attempts.to_string(),
                    format_utc_seconds(Some(letter.failed_ms)),
                    error.chars().take(MAX_ERROR_CHARS).collect(),
                ]);
            }
            print_table(&table);
        }
    }
    Ok(CliExit::Ok)
}

/// The topic that was named, or all of them.
async fn fetch_selected_topics(
    source: &CommandBackend,
    topic: Option<&str>,
) -> Result<Vec<TopicDocument>, CliError> {
    let mut topics = source.fetch_topics().await?.view;
    if let Some(name) = topic {
        topics.retain(|known| known.topic == name);
        if topics.is_empty() {
            return Err(CliError::NotFound(format!(
                "there is no topic {name:?} in the configuration"
            )));
        }
    }
    Ok(topics)
}

/// A topic's dead letters, newest first, page by page up to `limit`.
async fn fetch_dead_letters(
    source: &CommandBackend,
    topic: &str,
    limit: usize,
) -> Result<Vec<ApiDocument<DeadLetterDocument>>, CliError> {
    let mut letters: Vec<ApiDocument<DeadLetterDocument>> = Vec::new();
    while letters.len() < limit {
        let before = letters.last().map(|last| last.view.cursor.clone());
        let page_size = DEAD_LETTER_PAGE_SIZE.min(limit - letters.len());
        let page = source.list_dead_letters(topic, before.as_deref(), page_size).await?;
        let page = page.into_items();
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    Ok(letters)
}

fn print_change(change: &ApiDocument<DeadLetterChangeDocument>, format: OutputFormat) {
    match format {
        OutputFormat::Json => print_json(&change.raw),
        OutputFormat::Table => {
            let DeadLetterChangeDocument { task_id, status, note, .. } = &change.view;
            print_line(format_args!("{task_id} is {status}"));
            if let Some(note) = note {
                eprintln!("{note}");
            }
        }
    }
}
