//! `task publish --bulk FILE`: a task for each line, many on their way at a time, and the fate of every line told.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Extras, envelope};
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, text};
use crate::cli::source::Source;

/// What one request carries at most, in lines and in bytes (a longer line goes alone).
const LINES: usize = 100;
const BYTES: usize = 1 << 20;
/// Requests on their way at a time.
const AT_ONCE: usize = 4;
/// How often stderr says how far it is.
const SAY: Duration = Duration::from_secs(2);

/// A line of the file: its envelope, or what is wrong with it.
struct Line {
    number: usize,
    envelope: Result<Bytes, String>,
}

/// What became of a line: its task's id, or why there is none.
struct Fate {
    number: usize,
    queued: Result<String, String>,
}

/// The lines in pieces, until the end or until `stop`.
struct Pieces<'a> {
    reader: Box<dyn BufRead>,
    topic: Option<String>,
    number: usize,
    stop: &'a Cell<bool>,
}

/// How many lines went how.
struct Tally {
    queued: usize,
    failed: usize,
    said: Instant,
}

pub(super) async fn run(file: &str, topic: Option<String>, global: &Global) -> Result<Exit, CliError> {
    let reader: Box<dyn BufRead> = match file {
        "-" => Box::new(BufReader::new(stdin())),
        path => {
            let what = format!("cannot read the tasks from {path}");
            Box::new(BufReader::new(File::open(path).map_err(|error| CliError::File { what, error })?))
        }
    };
    let source = Source::find(global).await?;
    let stop = Cell::new(false);
    let mut tally = Tally { queued: 0, failed: 0, said: Instant::now() };
    let pieces = Pieces { reader, topic, number: 0, stop: &stop };
    let mut sent = stream::iter(pieces).map(|piece| send(&source, piece, &stop)).buffered(AT_ONCE);
    while let Some(fates) = sent.next().await {
        for fate in fates {
            tally.tell(&fate, global.format);
        }
    }
    if stop.get() {
        eprintln!("stopped there: the lines after were not read");
    }
    eprintln!("{} queued, {} not", tally.queued, tally.failed);
    Ok(match (tally.queued, tally.failed) {
        (_, 0) => Exit::Ok,
        (0, _) => Exit::Failed,
        _ => Exit::Partial,
    })
}

/// Sends a piece; where the server finds it too large, each of its lines alone. Without a server it stops.
async fn send(source: &Source, piece: Vec<Line>, stop: &Cell<bool>) -> Vec<Fate> {
    let envelopes: Vec<Bytes> = piece.iter().filter_map(|line| line.envelope.clone().ok()).collect();
    let answers = if envelopes.is_empty() { Vec::new() } else { ask(source, envelopes, stop).await };
    let mut answers = answers.into_iter();
    let fate = |line: Line| {
        let queued = line.envelope.and_then(|_| answers.next().unwrap_or(Err("nothing was said of it".to_owned())));
        Fate { number: line.number, queued }
    };
    piece.into_iter().map(fate).collect()
}

async fn ask(source: &Source, envelopes: Vec<Bytes>, stop: &Cell<bool>) -> Vec<Result<String, String>> {
    let (count, several) = (envelopes.len(), envelopes.len() > 1);
    match source.publish_all(envelopes.clone()).await {
        Ok(tasks) => tasks.iter().map(queued).collect(),
        Err(CliError::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) if several => {
            let mut answers = Vec::with_capacity(count);
            for envelope in envelopes {
                answers.append(&mut Box::pin(ask(source, vec![envelope], stop)).await);
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
fn queued(task: &Value) -> Result<String, String> {
    if task["error"].is_null() { Ok(text(&task["task_id"])) } else { Err(text(&task["error"])) }
}

// === impl Pieces ===

impl Iterator for Pieces<'_> {
    type Item = Vec<Line>;

    fn next(&mut self) -> Option<Vec<Line>> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while !self.stop.get() && piece.len() < LINES && bytes < BYTES {
            let mut read = Vec::new();
            let envelope = match self.reader.read_until(b'\n', &mut read) {
                Ok(0) => break,
                Ok(_) => self.envelope(&read),
                Err(error) => {
                    self.stop.set(true);
                    Err(format!("it cannot be read: {error}"))
                }
            };
            self.number += 1;
            if envelope.is_err() || !read.trim_ascii().is_empty() {
                bytes += read.len();
                piece.push(Line { number: self.number, envelope });
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl Pieces<'_> {
    /// The envelope of a line. What is not JSON would spoil its neighbours' request.
    fn envelope(&self, line: &[u8]) -> Result<Bytes, String> {
        let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?.trim();
        if text.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(topic) = &self.topic {
            return envelope(topic, text, &Extras::default()).map_err(|error| error.to_string());
        }
        let json: &RawValue = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        Ok(Bytes::copy_from_slice(json.get().as_bytes()))
    }
}

// === impl Tally ===

impl Tally {
    /// Ids go to stdout, errors to stderr; for programs both go to stdout, an object a line.
    fn tell(&mut self, fate: &Fate, format: Format) {
        let number = fate.number;
        match (&fate.queued, format) {
            (Ok(id), Format::Table) => line(id),
            (Ok(id), Format::Json) => line(json!({"line": number, "task_id": id})),
            (Err(error), Format::Table) => eprintln!("line {number}: {error}"),
            (Err(error), Format::Json) => line(json!({"line": number, "error": error})),
        }
        if fate.queued.is_ok() {
            self.queued += 1;
        } else {
            self.failed += 1;
        }
        if self.said.elapsed() >= SAY {
            eprintln!("{} queued, {} not, up to line {number}", self.queued, self.failed);
            self.said = Instant::now();
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
        let mut pieces = Pieces { reader, topic: None, number: 0, stop: &stop };
        let piece = pieces.next().expect("a piece");
        let told: Vec<_> = piece.iter().map(|line| (line.number, line.envelope.is_ok())).collect();
        assert_eq!(told, [(1, true), (3, false), (4, true)]);
        assert!(pieces.next().is_none());

        let many = "1\n".repeat(LINES + 1);
        let reader = Box::new(std::io::Cursor::new(many.into_bytes()));
        let pieces = Pieces { reader, topic: Some("t".into()), number: 0, stop: &stop };
        let pieces: Vec<_> = pieces.collect();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [LINES, 1]);
        let first = pieces[0][0].envelope.as_ref().expect("an envelope");
        assert_eq!(first, "{\"topic\":\"t\",\"payload\":1}");
    }
}
