//! `omnidaemon bus dlq`: lists, counts, reprocesses and discards dead letters, the tasks that
//! failed for good.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::backend::{CommandBackend, parse_task_id};
use super::document::{ApiDocument, to_json_list};
use super::exit::{CliError, CliExit};
use super::format::format_utc_seconds;
use super::global::{GlobalArgs, OutputFormat};
use super::output::{name_value_table, print_json, print_line, print_table, table_with_headings};
use super::paging::fetch_pages;
use crate::admin::views::{DeadLetterChangeDocument, DeadLetterDocument, TopicDocument};
use crate::task::Topic;

/// Characters of an error that a table shows.
const MAX_ERROR_CHARS: usize = 80;

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
    /// Only dead letters of this topic; by default those of all topics
    #[arg(long)]
    topic: Option<String>,
    /// Print only the number of dead letters
    #[arg(long)]
    count: bool,
    /// The most dead letters to list of each topic, newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Subcommand)]
enum DlqCommand {
    /// Show one with its payload, which lists leave out where it is large
    Show(DeadLetterArgs),
    /// Queue a failed task again, under its id and with all its retries, but without the
    /// credentials of its request, which are not kept
    Reprocess(DeadLetterArgs),
    /// Delete a dead letter for good
    Discard(DeadLetterArgs),
}

/// The arguments of a command about one dead letter.
#[derive(Args)]
struct DeadLetterArgs {
    /// The id of the failed task
    #[arg(long, value_name = "ID")]
    task_id: String,
    /// The topic of the task; by default all topics are searched
    #[arg(long, value_parser = parse_topic_name)]
    topic: Option<String>,
}

/// Checks a topic name, which needs no escaping in a URL when it is valid.
fn parse_topic_name(text: &str) -> Result<String, String> {
    Topic::parse(text).map(|topic| topic.to_string()).map_err(|error| error.to_string())
}

pub(super) async fn run(command: BusCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let BusCommand::Dlq(args) = command;
    match args.command {
        None if args.count => print_counts(args.topic.as_deref(), global).await,
        None => print_dead_letters(args.topic.as_deref(), args.limit, global).await,
        Some(DlqCommand::Show(letter)) => {
            let id = parse_task_id(&letter.task_id)?;
            let backend = CommandBackend::connect(global).await?;
            let shown = backend.fetch_dead_letter(letter.topic.as_deref(), &id).await?;
            print_dead_letter(&shown, global.format);
            Ok(CliExit::Ok)
        }
        Some(DlqCommand::Reprocess(letter)) => {
            let id = parse_task_id(&letter.task_id)?;
            let backend = CommandBackend::connect(global).await?;
            let change = backend.reprocess_dead_letter(letter.topic.as_deref(), &id).await?;
            print_change(&change, global.format);
            Ok(CliExit::Ok)
        }
        Some(DlqCommand::Discard(letter)) => {
            let id = parse_task_id(&letter.task_id)?;
            let backend = CommandBackend::connect(global).await?;
            let change = backend.discard_dead_letter(letter.topic.as_deref(), &id).await?;
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
        // Only the number, for scripts that compare it.
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
    let backend = CommandBackend::connect(global).await?;
    let mut letters = Vec::new();
    for TopicDocument { topic: name, dead_letters: total, .. } in
        fetch_selected_topics(&backend, topic).await?
    {
        let fetched = fetch_dead_letters(&backend, &name, limit).await?;
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

/// The topic of the argument, or all topics without one.
async fn fetch_selected_topics(
    backend: &CommandBackend,
    topic: Option<&str>,
) -> Result<Vec<TopicDocument>, CliError> {
    let mut topics = backend.fetch_topics().await?.view;
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

/// The newest dead letters of a topic, up to `limit`.
async fn fetch_dead_letters(
    backend: &CommandBackend,
    topic: &str,
    limit: usize,
) -> Result<Vec<ApiDocument<DeadLetterDocument>>, CliError> {
    fetch_pages(limit, async |before: Option<String>, page_size: usize| {
        fetch_dead_letter_page(backend, topic, before.as_deref(), page_size).await
    })
    .await
}

/// A page of dead letters, and the cursor of the next page; none after an empty page.
async fn fetch_dead_letter_page(
    backend: &CommandBackend,
    topic: &str,
    before: Option<&str>,
    page_size: usize,
) -> Result<(Vec<ApiDocument<DeadLetterDocument>>, Option<String>), CliError> {
    let page = backend.list_dead_letters(topic, before, page_size).await?.into_items();
    let next_cursor = page.last().map(|letter| letter.view.cursor.clone());
    Ok((page, next_cursor))
}

fn print_dead_letter(letter: &ApiDocument<DeadLetterDocument>, format: OutputFormat) {
    match format {
        OutputFormat::Json => print_json(&letter.raw),
        OutputFormat::Table => {
            let DeadLetterDocument { id, topic, error, attempts, failed_ms, payload, .. } =
                &letter.view;
            print_table(&name_value_table([
                ("task_id", id.clone()),
                ("topic", topic.clone()),
                ("attempts", attempts.to_string()),
                ("failed", format_utc_seconds(Some(*failed_ms))),
                ("error", error.clone()),
            ]));
            print_line("");
            print_json(payload);
        }
    }
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
