//! The process of a program: its guard, its group, its environment and its pipes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;

use super::stderr_log::ProgramLog;
use crate::config::check_program;
use crate::task::{FailureKind, TaskFailure};
use crate::worker::handler::attempt::TaskAttempt;
use crate::worker::handler::result::oversized_result_failure;
use crate::worker::program_guard::GuardCommand;

/// How long output is read after the exit of a program if a process that it left, and that could
/// not be killed, keeps the pipes open.
const LEFT_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The processes of a program; they are killed when this is dropped.
pub(super) struct ProgramProcesses {
    /// The leader of the process group: the guard, or without a guard the program.
    leader: Option<Pid>,
    is_guarded: bool,
    has_exited: AtomicBool,
}

/// How a program ended, and its output.
pub(super) struct CommandExit {
    pub(super) status: ExitStatus,
    pub(super) stdout: Bytes,
    /// The end of stderr.
    pub(super) stderr: Vec<u8>,
}

/// Starts a program with the environment of `attempt`, in a process group of its own, under a guard
/// if `guard` can start one.
pub(super) fn spawn_program(
    command_line: &[String],
    guard: Option<&GuardCommand>,
    attempt: &TaskAttempt,
) -> io::Result<(Child, ProgramProcesses)> {
    let command = if let Some(guard) = guard {
        check_program(&command_line[0])?; // since the guard would be started in any case
        guard.build(command_line)
    } else {
        let mut command = Command::new(&command_line[0]);
        command.args(&command_line[1..]);
        command
    };
    let child = tokio::process::Command::from(command)
        .env("OMNIDAEMON_TASK_ID", attempt.task.id.as_str())
        .env("OMNIDAEMON_ATTEMPT", attempt.number.to_string())
        .envs(attempt.task.is_shadow().then_some(("OMNIDAEMON_SHADOW", "1")))
        .env("IDEMPOTENCY_KEY", OsStr::from_bytes(attempt.idempotency_key().as_bytes()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(guard.is_none()) // a guard must live to kill what left its group
        .spawn()?;
    let processes = ProgramProcesses {
        leader: child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
        is_guarded: guard.is_some(),
        has_exited: AtomicBool::new(false),
    };
    Ok((child, processes))
}

/// Writes `input` to the program, and reads its output until the program has exited. Processes that
/// it left running are killed then, and not waited for. Fails if stdout exceeds `max_result` bytes.
pub(super) async fn exchange_with_program(
    child: &mut Child,
    processes: &ProgramProcesses,
    input: Vec<u8>,
    max_result: usize,
    attempt: &TaskAttempt,
) -> Result<CommandExit, TaskFailure> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut log) = (BytesMut::new(), ProgramLog::new(attempt));
    let status = {
        let written = async {
            write_stdin(stdin, &input).await;
            Ok::<(), TaskFailure>(())
        };
        let logged = async {
            log.read_all(stderr).await;
            Ok(())
        };
        let transfer = async {
            tokio::try_join!(written, read_stdout(stdout, &mut output, max_result), logged)
        };
        let (mut transfer, mut is_transferred) = (pin!(transfer), false);
        let status = loop {
            tokio::select! {
                result = &mut transfer, if !is_transferred => {
                    result?;
                    is_transferred = true;
                }
                status = child.wait() => break status,
            }
        };
        processes.end_after_exit();
        if !is_transferred && let Ok(result) = timeout(LEFT_OUTPUT_TIMEOUT, transfer).await {
            result?;
        }
        status.map_err(|error| unreadable_output_failure(&error))?
    };
    Ok(CommandExit { status, stdout: output.freeze(), stderr: log.finish() })
}

/// Writes the input to stdin and closes it. A program need not read all of it.
async fn write_stdin(stdin: Option<ChildStdin>, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    if let Err(error) = stdin.write_all(input).await {
        tracing::debug!(%error, "the program closed its stdin");
    }
}

/// Reads stdout into `output`, at most `max` bytes.
async fn read_stdout(
    pipe: Option<impl AsyncRead + Unpin>,
    output: &mut BytesMut,
    max: usize,
) -> Result<(), TaskFailure> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    while pipe.read_buf(output).await.map_err(|error| unreadable_output_failure(&error))? > 0 {
        if output.len() > max {
            return Err(oversized_result_failure(max));
        }
    }
    Ok(())
}

fn unreadable_output_failure(error: &io::Error) -> TaskFailure {
    TaskFailure::new(
        FailureKind::BrokenExchange,
        format!("the program's output could not be read: {error}"),
    )
}

// === impl ProgramProcesses ===

impl ProgramProcesses {
    /// Asks the program and the processes of its group to end.
    pub(super) fn terminate(&self) {
        self.send_to_group(Signal::TERM);
    }

    /// Kills all processes of the program, unless it has exited, when they were killed already.
    pub(super) fn kill(&self) {
        if self.has_exited.load(Ordering::Relaxed) {
            return;
        }
        match self.leader {
            Some(guard) if self.is_guarded => {
                let _ = kill_process(guard, Signal::INT); // an error means that it has just exited
            }
            _ => self.send_to_group(Signal::KILL),
        }
    }

    /// Kills what is left of the group after the exit of its leader.
    fn end_after_exit(&self) {
        self.has_exited.store(true, Ordering::Relaxed);
        self.send_to_group(Signal::KILL);
    }

    fn send_to_group(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, signal); // an error means that no process is left
        }
    }
}

impl Drop for ProgramProcesses {
    fn drop(&mut self) {
        self.kill();
    }
}
