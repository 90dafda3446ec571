//! `task publish --bulk FILE`: a task for each line, several requests at a time, and the outcome of
//! each line reported in their order.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::json;
use serde_json::value::RawValue;

use super::envelope::{EnvelopeOptions, build_envelope};
use crate::admin::views::BulkItemDocument;
use crate::cli::backend::CommandBackend;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::print_line;

/// Lines of one request at most, and bytes, which a single line may exceed.
const MAX_LINES_PER_REQUEST: usize = 100;
const MAX_BYTES_PER_REQUEST: usize = 1 << 20;
/// Requests in flight at a time.
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// Time between two progress lines on stderr.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// A line of the file, numbered from 1: its envelope, or what is wrong with it.
struct BulkLine {
    number: usize,
    envelope: Result<Bytes, String>,
}

/// The outcome of a line: its task's id, or why there is none.
struct LineOutcome {
    number: usize,
    task_id: Result<String, String>,
}

/// The lines in batches, until the end of the file or until `stop` is set.
struct LineBatches<'a> {
    reader: Box<dyn BufRead>,
    topic: Option<String>,
    number: usize,
    stop: &'a Cell<bool>,
}

/// Counts of the outcomes.
struct BulkTally {
    queued: usize,
    failed: usize,
    reported_at: Instant,
}

pub(super) async fn publish_bulk(
    file: &str,
    topic: Option<String>,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let reader: Box<dyn BufRead> = match file {
        "-" => Box::new(BufReader::new(stdin())),
        path => {
            let action = format!("cannot read the tasks from {path}");
            let file = File::open(path).map_err(|error| CliError::File { action, error })?;
            Box::new(BufReader::new(file))
        }
    };
    let backend = CommandBackend::connect(global).await?;
    let stop = Cell::new(false);
    let mut tally = BulkTally { queued: 0, failed: 0, reported_at: Instant::now() };
    let batches = LineBatches { reader, topic, number: 0, stop: &stop };
    let mut published = stream::iter(batches)
        .map(|batch| publish_batch(&backend, batch, &stop))
        .buffered(MAX_CONCURRENT_REQUESTS);
    while let Some(outcomes) = published.next().await {
        for outcome in outcomes {
            tally.report(&outcome, global.format);
        }
    }
    if stop.get() {
        eprintln!("stopped after these lines: the rest of the input was not read");
    }
    eprintln!("{} queued, {} not", tally.queued, tally.failed);
    Ok(match (tally.queued, tally.failed) {
        (_, 0) => CliExit::Ok,
        (0, _) => CliExit::Failed,
        _ => CliExit::Partial,
    })
}

/// Publishes the valid lines of a batch, and returns the outcome of each line.
async fn publish_batch(
    backend: &CommandBackend,
    batch: Vec<BulkLine>,
    stop: &Cell<bool>,
) -> Vec<LineOutcome> {
    let envelopes: Vec<Bytes> =
        batch.iter().filter_map(|line| line.envelope.clone().ok()).collect();
    let results = if envelopes.is_empty() {
        Vec::new()
    } else {
        publish_envelopes(backend, envelopes, stop).await
    };
    let mut results = results.into_iter();
    let outcome = |line: BulkLine| {
        let no_result = || Err("the response has no result for this line".to_owned());
        let task_id = line.envelope.and_then(|_| results.next().unwrap_or_else(no_result));
        LineOutcome { number: line.number, task_id }
    };
    batch.into_iter().map(outcome).collect()
}

/// Publishes envelopes in one request; when the server refuses that as too large, each in a request
/// of its own. Sets `stop` when the server cannot be reached.
async fn publish_envelopes(
    backend: &CommandBackend,
    envelopes: Vec<Bytes>,
    stop: &Cell<bool>,
) -> Vec<Result<String, String>> {
    let (count, several) = (envelopes.len(), envelopes.len() > 1);
    match backend.publish_all(envelopes.clone()).await {
        Ok(items) => items.into_iter().map(task_id_of).collect(),
        Err(CliError::AdminRefused { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) if several => {
            let mut results = Vec::with_capacity(count);
            for envelope in envelopes {
                results
                    .append(&mut Box::pin(publish_envelopes(backend, vec![envelope], stop)).await);
            }
            results
        }
        Err(error @ CliError::Unreachable { .. }) => {
            stop.set(true);
            vec![Err(format!("{error} (the task may be queued, if the connection broke)")); count]
        }
        Err(error) => vec![Err(error.to_string()); count],
    }
}

/// The id of a queued task, or why there is none.
fn task_id_of(item: BulkItemDocument) -> Result<String, String> {
    match item {
        BulkItemDocument::Accepted(task) => Ok(task.task_id),
        BulkItemDocument::Refused(refused) => Err(refused.error),
    }
}

impl Iterator for LineBatches<'_> {
    type Item = Vec<BulkLine>;

    fn next(&mut self) -> Option<Vec<BulkLine>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while !self.stop.get()
            && batch.len() < MAX_LINES_PER_REQUEST
            && bytes < MAX_BYTES_PER_REQUEST
        {
            let mut read = Vec::new();
            let envelope = match self.reader.read_until(b'\n', &mut read) {
                Ok(0) => break,
                Ok(_) => self.parse_line(&read),
                Err(error) => {
                    self.stop.set(true);
                    Err(format!("the line cannot be read: {error}"))
                }
            };
            self.number += 1;
            if envelope.is_err() || !read.trim_ascii().is_empty() {
                bytes += read.len();
                batch.push(BulkLine { number: self.number, envelope });
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

impl LineBatches<'_> {
    /// The envelope of a line. A line that is not JSON would make the whole request invalid.
    fn parse_line(&self, line: &[u8]) -> Result<Bytes, String> {
        let text =
            std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?.trim();
        if text.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(topic) = &self.topic {
            return build_envelope(topic, text, &EnvelopeOptions::default())
                .map_err(|error| error.to_string());
        }
        let json: &RawValue =
            serde_json::from_str(text).map_err(|error| format!("the line is not JSON: {error}"))?;
        Ok(Bytes::copy_from_slice(json.get().as_bytes()))
    }
}

impl BulkTally {
    /// Counts and prints an outcome: ids go to stdout and errors to stderr; as JSON both go to
    /// stdout, one object per line.
    fn report(&mut self, outcome: &LineOutcome, format: OutputFormat) {
        let number = outcome.number;
        match (&outcome.task_id, format) {
            (Ok(id), OutputFormat::Table) => print_line(id),
            (Ok(id), OutputFormat::Json) => print_line(json!({"line": number, "task_id": id})),
            (Err(error), OutputFormat::Table) => eprintln!("line {number}: {error}"),
            (Err(error), OutputFormat::Json) => print_line(json!({"line": number, "error": error})),
        }
        if outcome.task_id.is_ok() {
            self.queued += 1;
        } else {
            self.failed += 1;
        }
        if self.reported_at.elapsed() >= PROGRESS_INTERVAL {
            eprintln!("{} queued, {} not, up to line {number}", self.queued, self.failed);
            self.reported_at = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_batches_with_their_numbers_invalid_ones_included() {
        let stop = Cell::new(false);
        let text = "{\"topic\":\"t\",\"payload\": 1}\n\nnonsense\n\"last\"";
        let reader = Box::new(std::io::Cursor::new(text.as_bytes()));
        let mut batches = LineBatches { reader, topic: None, number: 0, stop: &stop };
        let batch = batches.next().expect("a batch");
        let valid: Vec<_> = batch.iter().map(|line| (line.number, line.envelope.is_ok())).collect();
        assert_eq!(valid, [(1, true), (3, false), (4, true)]);
        assert!(batches.next().is_none());

        let many = "1\n".repeat(MAX_LINES_PER_REQUEST + 1);
        let reader = Box::new(std::io::Cursor::new(many.into_bytes()));
        let batches = LineBatches { reader, topic: Some("t".into()), number: 0, stop: &stop };
        let batches: Vec<_> = batches.collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINES_PER_REQUEST, 1]);
        let first = batches[0][0].envelope.as_ref().expect("an envelope");
        assert_eq!(first, "{\"topic\":\"t\",\"payload\":1}");
    }
}
