//! The `command` handler: runs a program with the task as JSON on stdin; the result is the output
//! on stdout (JSON, or any text as a JSON string).
//!
//! The program runs in a process group of its own, under a guard that kills it when this process
//! dies. When the attempt must end, the group gets SIGTERM, and [`TERM_GRACE`] later all processes
//! of the program are killed. Processes that the program leaves running when it exits, or when the
//! attempt is dropped, are killed as well, and nothing waits for them. stderr is logged line by
//! line, and its end is quoted in the failure; lines of the form `{"progress": 0.4, "note": "…"}`
//! report progress.

mod input;
mod process;
mod stderr_log;

use std::io;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use self::input::render_command_input;
use self::process::{CommandExit, exchange_with_program, spawn_program};
use super::Handler;
use super::attempt::{InterruptReason, TaskAttempt};
use super::result::to_json_body;
use crate::task::{FailureKind, TaskAnswer, TaskFailure};
use crate::worker::program_guard::GuardCommand;

/// How long a program may take to end after SIGTERM; less than [`super::INTERRUPT_GRACE`].
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How long the processes of a program may take to end after they were killed.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// The `command` handler of one attempt.
pub(super) struct CommandHandler {
    /// The program and its arguments; never empty.
    pub(super) command_line: Vec<String>,
    /// How its guard is started; without one it outlives a worker that is killed.
    pub(super) guard: Option<GuardCommand>,
    /// The largest result, bytes.
    pub(super) max_result: usize,
}

// === impl CommandHandler ===

#[async_trait]
impl Handler for CommandHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let input = render_command_input(attempt)?;
        let (mut child, processes) =
            spawn_program(&self.command_line, self.guard.as_ref(), attempt)
                .map_err(|error| self.spawn_failure(attempt, &error))?;
        let mut exchange =
            pin!(exchange_with_program(&mut child, &processes, input, self.max_result, attempt));
        let reason = tokio::select! {
            exit = &mut exchange => return self.answer_from_exit(&exit?),
            reason = attempt.await_interrupt() => reason,
        };
        processes.terminate();
        // The output is still read, since a closed pipe would kill the program at its next write.
        if timeout(TERM_GRACE, &mut exchange).await.is_err() {
            processes.kill();
            let _ = timeout(KILL_GRACE, exchange).await;
        }
        let failure = attempt.interrupt_failure(reason);
        let suffix = if reason == InterruptReason::Deadline { "; it was stopped" } else { "" };
        Err(TaskFailure {
            message: format!("{}: {}{suffix}", self.command_line[0], failure.message),
            ..failure
        })
    }
}

impl CommandHandler {
    fn spawn_failure(&self, attempt: &TaskAttempt, error: &io::Error) -> TaskFailure {
        let (program, topic) = (&self.command_line[0], &attempt.task.topic);
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "program {program} was not found: install it, or correct \
                 topics.{topic}.handler.command"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "program {program} may not be run: make it executable, or correct \
                 topics.{topic}.handler.command"
            ),
            _ => format!("program {program} could not be started: {error}"),
        };
        TaskFailure::new(FailureKind::Unreachable, message)
    }

    fn answer_from_exit(&self, exit: &CommandExit) -> Result<TaskAnswer, TaskFailure> {
        if exit.status.success() {
            return Ok(TaskAnswer::from_json(to_json_body(&exit.stdout)));
        }
        let stderr = String::from_utf8_lossy(&exit.stderr);
        let mut message = format!("{} ended with {}", self.command_line[0], exit.status);
        if !stderr.trim().is_empty() {
            message = format!("{message}: {}", stderr.trim());
        }
        Err(TaskFailure::new(FailureKind::HandlerError, message))
    }
}

#[cfg(test)]
mod tests;
