//! The stderr of a program: progress reports, lines for the log, and the end for a failure.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::route::parse_progress;
use crate::worker::handler::attempt::TaskAttempt;

/// How much of the end of stderr a failure quotes, bytes.
pub(super) const MAX_STDERR_TAIL: usize = 2048;

/// The longest line of stderr that is logged in one piece, bytes.
const MAX_STDERR_LINE: usize = 4096;

/// Reads stderr line by line: a progress object is reported, any other line is logged, and the last
/// [`MAX_STDERR_TAIL`] bytes of these lines are kept.
pub(super) struct ProgramLog<'a> {
    attempt: &'a TaskAttempt,
    tail: Vec<u8>,
    line: Vec<u8>,
}

// === impl ProgramLog ===

impl<'a> ProgramLog<'a> {
    pub(super) fn new(attempt: &'a TaskAttempt) -> Self {
        Self { attempt, tail: Vec::new(), line: Vec::new() }
    }

    /// Reads the pipe to its end.
    pub(super) async fn read_all(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; MAX_STDERR_LINE];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
                self.line.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.line.len() >= MAX_STDERR_LINE {
                    self.end_line();
                }
            }
        }
    }

    /// The end of what was read.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.tail
    }

    fn end_line(&mut self) {
        if let Some(progress) = parse_progress(&self.line) {
            self.attempt.send_progress(progress);
        } else {
            let text = String::from_utf8_lossy(&self.line);
            let (task_id, topic) = (&self.attempt.task.id, &self.attempt.task.topic);
            tracing::debug!(%task_id, %topic, stderr = text.trim_end());
            self.tail.extend_from_slice(&self.line);
            self.tail.drain(..self.tail.len().saturating_sub(MAX_STDERR_TAIL));
        }
        self.line.clear();
    }
}
