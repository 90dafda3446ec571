//! `task publish --bulk FILE`: a task for each line, many on their way at a time, and the fate of
//! every line told.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{EnvelopeOptions, build_envelope};
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_line};
use crate::cli::source::CommandBackend;

/// What one request carries at most, in lines and in bytes (a longer line goes alone).
const MAX_LINES_PER_REQUEST: usize = 100;
const MAX_BYTES_PER_REQUEST: usize = 1 << 20;
/// Requests on their way at a time.
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// How often stderr says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// A line of the file: its envelope, or what is wrong with it.
struct BulkLine {
    number: usize,
    envelope: Result<Bytes, String>,
}

/// What became of a line: its task's id, or why there is none.
struct LineOutcome {
    number: usize,
    task_id: Result<String, String>,
}

/// The lines in pieces, until the end or until `stop`.
struct LineBatches<'a> {
    reader: Box<dyn BufRead>,
    topic: Option<String>,
    number: usize,
    stop: &'a Cell<bool>,
}

/// How many lines went how.
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
            let what = format!("cannot read the tasks from {path}");
            Box::new(BufReader::new(
                File::open(path).map_err(|error| CliError::File { action: what, error })?,
            ))
        }
    };
    let source = CommandBackend::connect(global).await?;
    let stop = Cell::new(false);
    let mut tally = BulkTally { queued: 0, failed: 0, reported_at: Instant::now() };
    let pieces = LineBatches { reader, topic, number: 0, stop: &stop };
    let mut sent = stream::iter(pieces)
        .map(|piece| publish_batch(&source, piece, &stop))
        .buffered(MAX_CONCURRENT_REQUESTS);
    while let Some(fates) = sent.next().await {
        for fate in fates {
            tally.report(&fate, global.format);
        }
    }
    if stop.get() {
        eprintln!("stopped there: the lines after were not read");
    }
    eprintln!("{} queued, {} not", tally.queued, tally.failed);
    Ok(match (tally.queued, tally.failed) {
        (_, 0) => CliExit::Ok,
        (0, _) => CliExit::Failed,
        _ => CliExit::Partial,
    })
}

/// Sends a piece; where the server finds it too large, each of its lines alone. Without a server it
/// stops.
async fn publish_batch(
    source: &CommandBackend,
    piece: Vec<BulkLine>,
    stop: &Cell<bool>,
) -> Vec<LineOutcome> {
    let envelopes: Vec<Bytes> =
        piece.iter().filter_map(|line| line.envelope.clone().ok()).collect();
    let answers = if envelopes.is_empty() {
        Vec::new()
    } else {
        publish_envelopes(source, envelopes, stop).await
    };
    let mut answers = answers.into_iter();
    let fate = |line: BulkLine| {
        let queued = line
            .envelope
            .and_then(|_| answers.next().unwrap_or(Err("nothing was said of it".to_owned())));
        LineOutcome { number: line.number, task_id: queued }
    };
    piece.into_iter().map(fate).collect()
}

async fn publish_envelopes(
    source: &CommandBackend,
    envelopes: Vec<Bytes>,
    stop: &Cell<bool>,
) -> Vec<Result<String, String>> {
    let (count, several) = (envelopes.len(), envelopes.len() > 1);
    match source.publish_all(envelopes.clone()).await {
        Ok(tasks) => tasks.iter().map(parse_outcome).collect(),
        Err(CliError::AdminRefused { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) if several => {
            let mut answers = Vec::with_capacity(count);
            for envelope in envelopes {
                answers
                    .append(&mut Box::pin(publish_envelopes(source, vec![envelope], stop)).await);
            }
            answers
        }
        Err(error @ CliError::Unreachable { .. }) => {
            stop.set(true);
            vec![Err(format!("{error} (if the connection broke off, it may be queued)")); count]
        }
        Err(error) => vec![Err(error.to_string()); count],
    }
}

/// What a document says of one task.
fn parse_outcome(task: &Value) -> Result<String, String> {
    if task["error"].is_null() {
        Ok(format_field(&task["task_id"]))
    } else {
        Err(format_field(&task["error"]))
    }
}

// === impl Pieces ===

impl Iterator for LineBatches<'_> {
    type Item = Vec<BulkLine>;

    fn next(&mut self) -> Option<Vec<BulkLine>> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while !self.stop.get()
            && piece.len() < MAX_LINES_PER_REQUEST
            && bytes < MAX_BYTES_PER_REQUEST
        {
            let mut read = Vec::new();
            let envelope = match self.reader.read_until(b'\n', &mut read) {
                Ok(0) => break,
                Ok(_) => self.parse_line(&read),
                Err(error) => {
                    self.stop.set(true);
                    Err(format!("it cannot be read: {error}"))
                }
            };
            self.number += 1;
            if envelope.is_err() || !read.trim_ascii().is_empty() {
                bytes += read.len();
                piece.push(BulkLine { number: self.number, envelope });
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl LineBatches<'_> {
    /// The envelope of a line. What is not JSON would spoil its neighbours' request.
    fn parse_line(&self, line: &[u8]) -> Result<Bytes, String> {
        let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?.trim();
        if text.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(topic) = &self.topic {
            return build_envelope(topic, text, &EnvelopeOptions::default())
                .map_err(|error| error.to_string());
        }
        let json: &RawValue =
            serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        Ok(Bytes::copy_from_slice(json.get().as_bytes()))
    }
}

// === impl Tally ===

impl BulkTally {
    /// Ids go to stdout, errors to stderr; for programs both go to stdout, an object a line.
    fn report(&mut self, fate: &LineOutcome, format: OutputFormat) {
        let number = fate.number;
        match (&fate.task_id, format) {
            (Ok(id), OutputFormat::Table) => print_line(id),
            (Ok(id), OutputFormat::Json) => print_line(json!({"line": number, "task_id": id})),
            (Err(error), OutputFormat::Table) => eprintln!("line {number}: {error}"),
            (Err(error), OutputFormat::Json) => print_line(json!({"line": number, "error": error})),
        }
        if fate.task_id.is_ok() {
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
    fn lines_come_in_pieces_with_their_numbers_and_bad_ones_among_them() {
        let stop = Cell::new(false);
        let text = "{\"topic\":\"t\",\"payload\": 1}\n\nnonsense\n\"last\"";
        let reader = Box::new(std::io::Cursor::new(text.as_bytes()));
        let mut pieces = LineBatches { reader, topic: None, number: 0, stop: &stop };
        let piece = pieces.next().expect("a piece");
        let told: Vec<_> = piece.iter().map(|line| (line.number, line.envelope.is_ok())).collect();
        assert_eq!(told, [(1, true), (3, false), (4, true)]);
        assert!(pieces.next().is_none());

        let many = "1\n".repeat(MAX_LINES_PER_REQUEST + 1);
        let reader = Box::new(std::io::Cursor::new(many.into_bytes()));
        let pieces = LineBatches { reader, topic: Some("t".into()), number: 0, stop: &stop };
        let pieces: Vec<_> = pieces.collect();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINES_PER_REQUEST, 1]);
        let first = pieces[0][0].envelope.as_ref().expect("an envelope");
        assert_eq!(first, "{\"topic\":\"t\",\"payload\":1}");
    }
}
