//! The process of a program: its group, its environment and its pipes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::{ExitStatus, Stdio};

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command as Process};

use crate::route::parse_progress;
use crate::task::{FailureKind, TaskFailure};
use crate::worker::handler::attempt::TaskAttempt;
use crate::worker::handler::result::oversized_result_failure;

/// How much of the end of stderr a failure quotes, bytes.
pub(super) const MAX_STDERR_TAIL: usize = 2048;

/// The longest line of stderr that is logged in one piece, bytes.
const MAX_STDERR_LINE: usize = 4096;

/// The process group of a program; it is killed when this is dropped.
pub(super) struct ProcessGroup(Option<Pid>);

/// How a program ended, and its output.
pub(super) struct CommandExit {
    pub(super) status: ExitStatus,
    pub(super) stdout: Bytes,
    /// The end of stderr.
    pub(super) stderr: Vec<u8>,
}

/// Starts a program as the leader of a process group of its own, with the environment of `attempt`.
pub(super) fn spawn_program(
    command_line: &[String],
    attempt: &TaskAttempt,
) -> io::Result<(Child, ProcessGroup)> {
    let child = Process::new(&command_line[0])
        .args(&command_line[1..])
        .env("OMNIDAEMON_TASK_ID", attempt.task.id.as_str())
        .env("OMNIDAEMON_ATTEMPT", attempt.number.to_string())
        .envs(attempt.task.is_shadow().then_some(("OMNIDAEMON_SHADOW", "1")))
        .env("IDEMPOTENCY_KEY", OsStr::from_bytes(attempt.idempotency_key().as_bytes()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = ProcessGroup(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    Ok((child, group))
}

/// Writes `input` to the program, and reads its output until it has exited and all output is read.
/// Fails if stdout exceeds `max_result` bytes.
pub(super) async fn exchange_with_program(
    child: &mut Child,
    group: &ProcessGroup,
    input: Vec<u8>,
    max_result: usize,
    attempt: &TaskAttempt,
) -> Result<CommandExit, TaskFailure> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let exited = async {
        let status = child.wait().await.map_err(|error| unreadable_output_failure(&error))?;
        group.send_signal(Signal::KILL); // processes that it left running keep the pipes open
        Ok(status)
    };
    let collected = async { Ok(log_and_collect_stderr(stderr, attempt).await) };
    let written = async {
        write_stdin(stdin, &input).await;
        Ok::<(), TaskFailure>(())
    };
    let ((), stdout, stderr, status) =
        tokio::try_join!(written, read_stdout(stdout, max_result), collected, exited)?;
    Ok(CommandExit { status, stdout, stderr })
}

/// Writes the input to stdin and closes it. A program need not read all of it.
async fn write_stdin(stdin: Option<ChildStdin>, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    if let Err(error) = stdin.write_all(input).await {
        tracing::debug!(%error, "the program closed its stdin");
    }
}

/// Reads stdout, at most `max` bytes.
async fn read_stdout(
    pipe: Option<impl AsyncRead + Unpin>,
    max: usize,
) -> Result<Bytes, TaskFailure> {
    let Some(mut pipe) = pipe else { return Ok(Bytes::new()) };
    let mut read = BytesMut::new();
    while pipe.read_buf(&mut read).await.map_err(|error| unreadable_output_failure(&error))? > 0 {
        if read.len() > max {
            return Err(oversized_result_failure(max));
        }
    }
    Ok(read.freeze())
}

fn unreadable_output_failure(error: &io::Error) -> TaskFailure {
    TaskFailure::new(
        FailureKind::BrokenExchange,
        format!("the program's output could not be read: {error}"),
    )
}

/// Reads stderr line by line: a progress object is reported, any other line is logged, and the last
/// [`MAX_STDERR_TAIL`] bytes of these lines are returned.
async fn log_and_collect_stderr(
    pipe: Option<impl AsyncRead + Unpin>,
    attempt: &TaskAttempt,
) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let (mut tail, mut line, mut chunk) = (Vec::<u8>::new(), Vec::new(), [0; MAX_STDERR_LINE]);
    let mut handle_line = |line: &mut Vec<u8>| {
        if let Some(progress) = parse_progress(line) {
            attempt.send_progress(progress);
        } else {
            let text = String::from_utf8_lossy(line);
            let (task_id, topic) = (&attempt.task.id, &attempt.task.topic);
            tracing::debug!(%task_id, %topic, stderr = text.trim_end());
            tail.extend_from_slice(line);
            tail.drain(..tail.len().saturating_sub(MAX_STDERR_TAIL));
        }
        line.clear();
    };
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() >= MAX_STDERR_LINE {
                handle_line(&mut line);
            }
        }
    }
    if !line.is_empty() {
        handle_line(&mut line);
    }
    tail
}

// === impl ProcessGroup ===

impl ProcessGroup {
    pub(super) fn send_signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, signal); // an error means that no process is left
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.send_signal(Signal::KILL);
    }
}
