//! `omnidaemon bus dlq`: what failed for good, and what becomes of it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::global::{Format, Global};
use super::output::{line, pairs, print, print_json, table, text};
use super::source::Source;
use crate::task::{TaskId, Topic};

/// How much of an error a table shows.
const SHOWN: usize = 80;
/// Dead letters asked for at a time.
const PAGE: usize = 500;

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
    /// Queue a failed task again, under its id and with all its retries; credentials of its request are gone
    Reprocess(LetterArgs),
    /// Delete a dead letter for good
    Discard(LetterArgs),
}

/// A command about one dead letter.
#[derive(Args)]
struct LetterArgs {
    /// The task that failed
    #[arg(long, value_name = "ID")]
    task_id: String,
    /// Its queue; looked for where none is named
    #[arg(long, value_parser = known_topic)]
    topic: Option<String>,
}

/// A topic's name, before it is put into a URL.
fn known_topic(text: &str) -> Result<String, String> {
    Topic::parse(text).map(|topic| topic.to_string()).map_err(|error| error.to_string())
}

pub(super) async fn run(command: BusCommand, global: &Global) -> Result<Exit, CliError> {
    let BusCommand::Dlq(args) = command;
    match args.command {
        None if args.count => count(args.topic.as_deref(), global).await,
        None => list(args.topic.as_deref(), args.limit, global).await,
        Some(DlqCommand::Reprocess(letter)) => {
            let (id, source) = (known_id(&letter.task_id)?, Source::find(global).await?);
            show(&source.reprocess(letter.topic.as_deref(), &id).await?, global.format);
            Ok(Exit::Ok)
        }
        Some(DlqCommand::Discard(letter)) => {
            let (id, source) = (known_id(&letter.task_id)?, Source::find(global).await?);
            show(&source.discard(letter.topic.as_deref(), &id).await?, global.format);
            Ok(Exit::Ok)
        }
    }
}

async fn count(topic: Option<&str>, global: &Global) -> Result<Exit, CliError> {
    let topics = asked(&Source::find(global).await?, topic).await?;
    let counts: Vec<Value> =
        topics.iter().map(|known| json!({"topic": known["topic"], "dead_letters": known["dead_letters"]})).collect();
    match (global.format, topic, &counts[..]) {
        (Format::Json, Some(_), [one]) => print_json(one),
        (Format::Json, ..) => print_json(&counts.into()),
        // the bare number, for a script to compare
        (Format::Table, Some(_), [one]) => line(text(&one["dead_letters"])),
        (Format::Table, ..) => {
            print(&pairs(counts.iter().map(|one| (text(&one["topic"]), text(&one["dead_letters"])))));
        }
    }
    Ok(Exit::Ok)
}

async fn list(topic: Option<&str>, limit: usize, global: &Global) -> Result<Exit, CliError> {
    let source = Source::find(global).await?;
    let mut letters = Vec::new();
    for known in asked(&source, topic).await? {
        let (name, there) = (text(&known["topic"]), known["dead_letters"].as_u64().unwrap_or_default());
        let found = of_topic(&source, &name, limit).await?;
        if (found.len() as u64) < there {
            eprintln!("{name}: the newest {} of {there}; --limit {there} lists all", found.len());
        }
        letters.extend(found);
    }
    match global.format {
        Format::Json => print_json(&letters.into()),
        Format::Table if letters.is_empty() => eprintln!("no dead letters"),
        Format::Table => {
            let mut rows = table(&["task id", "topic", ">attempts", "failed", "error"]);
            for letter in &letters {
                let error: String = text(&letter["error"]).replace('\n', " ").chars().take(SHOWN).collect();
                let [id, topic, attempts] = ["id", "topic", "attempts"].map(|field| text(&letter[field]));
                rows.add_row([id, topic, attempts, time(&letter["failed_ms"]), error]);
            }
            print(&rows);
        }
    }
    Ok(Exit::Ok)
}

/// The queues asked about, as they stand.
async fn asked(source: &Source, topic: Option<&str>) -> Result<Vec<Value>, CliError> {
    let Value::Array(mut topics) = source.topics().await? else { return Ok(Vec::new()) };
    if let Some(name) = topic {
        topics.retain(|known| known["topic"] == name);
        if topics.is_empty() {
            return Err(CliError::NotFound(format!("there is no topic {name:?} in the configuration")));
        }
    }
    Ok(topics)
}

async fn of_topic(source: &Source, topic: &str, limit: usize) -> Result<Vec<Value>, CliError> {
    let mut letters: Vec<Value> = Vec::new();
    while letters.len() < limit {
        let before = letters.last().map(|last| text(&last["cursor"]));
        let page = source.dead_letters(topic, before.as_deref(), PAGE.min(limit - letters.len())).await?;
        let Value::Array(page) = page else { break };
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    Ok(letters)
}

fn show(document: &Value, format: Format) {
    match format {
        Format::Json => print_json(document),
        Format::Table => {
            line(format_args!("{} is {}", text(&document["task_id"]), text(&document["status"])));
            if let Some(note) = document["note"].as_str() {
                eprintln!("{note}");
            }
        }
    }
}

fn time(ms: &Value) -> String {
    let at = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"))
}

fn known_id(text: &str) -> Result<TaskId, CliError> {
    TaskId::parse(text).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}
