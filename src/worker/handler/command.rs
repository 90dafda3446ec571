//! Runs a program: the task as JSON on stdin, its result on stdout (JSON, else it becomes a
//! string).
//!
//! The program leads a process group of its own. When the attempt should end, the group gets
//! SIGTERM, and SIGKILL after [`KILL_AFTER`]; whatever the program leaves running when it exits, or
//! when the attempt is dropped, is killed too. stderr is logged line by line, and its end is kept
//! for the error; lines that are `{"progress": 0.4, "note": "…"}` say how far it has come.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command as Process};
use tokio::time::timeout;

use super::{Handler, InterruptReason, TaskAttempt, oversized_result_failure, to_json_body};
use crate::route::parse_progress;
use crate::task::{FailureKind, TaskAnswer, TaskFailure};

/// How long a program may take to end after SIGTERM; less than [`super::GRACE`].
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How much of the end of stderr an error quotes, bytes.
const MAX_STDERR_TAIL: usize = 2048;

/// The longest line of stderr that is logged in one piece, bytes.
const MAX_STDERR_LINE: usize = 4096;

/// The `command` handler.
pub(super) struct CommandHandler {
    /// The program and its arguments; never empty.
    pub(super) command_line: Vec<String>,
    pub(super) max_result: usize,
}

/// The task as a program reads it.
#[derive(Serialize)]
struct CommandInput<'a> {
    task_id: &'a str,
    topic: &'a str,
    payload: Box<RawValue>,
    correlation_id: Option<&'a str>,
    attempt: u32,
    /// The same number, under the name of the wire contract.
    delivery_attempts: u32,
    /// Seconds since the Unix epoch.
    created_at: f64,
}

/// A process group; killed when dropped.
struct ProcessGroup(Option<Pid>);

/// What a program did.
struct CommandExit {
    status: ExitStatus,
    stdout: Bytes,
    stderr: Vec<u8>,
}

// === impl Command ===

#[async_trait]
impl Handler for CommandHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let input = render_command_input(attempt)?;
        let (mut child, group) = self.spawn_program(attempt)?;
        let mut talk = pin!(self.exchange_with_program(&mut child, &group, input, attempt));
        let why = tokio::select! {
            ended = &mut talk => return self.answer_from_exit(&ended?),
            why = attempt.await_interrupt() => why,
        };
        group.send_signal(Signal::TERM);
        let _ = timeout(TERM_GRACE, talk).await; // listening on: a closed pipe would kill it at its next word
        let failure = attempt.interrupt_failure(why);
        let end = if why == InterruptReason::Deadline { "; it was stopped" } else { "" };
        Err(TaskFailure {
            message: format!("{}: {}{end}", self.command_line[0], failure.message),
            ..failure
        })
    }
}

impl CommandHandler {
    fn spawn_program(&self, attempt: &TaskAttempt) -> Result<(Child, ProcessGroup), TaskFailure> {
        let child = Process::new(&self.command_line[0])
            .args(&self.command_line[1..])
            .env("OMNIDAEMON_TASK_ID", attempt.task.id.as_str())
            .env("OMNIDAEMON_ATTEMPT", attempt.number.to_string())
            .envs(attempt.task.is_shadow().then_some(("OMNIDAEMON_SHADOW", "1")))
            .env("IDEMPOTENCY_KEY", OsStr::from_bytes(attempt.idempotency_key().as_bytes()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.spawn_failure(attempt, &error))?;
        let group = ProcessGroup(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        Ok((child, group))
    }

    fn spawn_failure(&self, attempt: &TaskAttempt, error: &io::Error) -> TaskFailure {
        let (program, topic) = (&self.command_line[0], &attempt.task.topic);
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                format!(
                    "program {program} was not found: install it, or correct topics.{topic}.handler.command"
                )
            }
            io::ErrorKind::PermissionDenied => {
                format!(
                    "program {program} may not be run: make it executable, or correct topics.{topic}.handler.command"
                )
            }
            _ => format!("program {program} could not be started: {error}"),
        };
        TaskFailure::new(FailureKind::Unreachable, message)
    }

    /// Feeds the program, and listens to it until it has ended and all it wrote is read.
    async fn exchange_with_program(
        &self,
        child: &mut Child,
        group: &ProcessGroup,
        input: Vec<u8>,
        attempt: &TaskAttempt,
    ) -> Result<CommandExit, TaskFailure> {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let exited = async {
            let status = child.wait().await.map_err(|error| unreadable_output_failure(&error))?;
            group.send_signal(Signal::KILL); // what it left running keeps the pipes open
            Ok(status)
        };
        let heard = async { Ok(log_and_collect_stderr(stderr, attempt).await) };
        let fed = async {
            write_stdin(stdin, &input).await;
            Ok::<(), TaskFailure>(())
        };
        let ((), stdout, stderr, status) =
            tokio::try_join!(fed, read_stdout(stdout, self.max_result), heard, exited)?;
        Ok(CommandExit { status, stdout, stderr })
    }

    fn answer_from_exit(&self, ended: &CommandExit) -> Result<TaskAnswer, TaskFailure> {
        if ended.status.success() {
            return Ok(TaskAnswer::from_json(to_json_body(&ended.stdout)));
        }
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let mut message = format!("{} ended with {}", self.command_line[0], ended.status);
        if !stderr.trim().is_empty() {
            message = format!("{message}: {}", stderr.trim());
        }
        Err(TaskFailure::new(FailureKind::HandlerError, message))
    }
}

/// The task as one line of JSON.
fn render_command_input(attempt: &TaskAttempt) -> Result<Vec<u8>, TaskFailure> {
    let task = &attempt.task;
    let unreadable = |error: serde_json::Error| {
        TaskFailure::new(
            FailureKind::Malformed,
            format!("the payload of {} is not JSON: {error}", task.id),
        )
    };
    #[allow(clippy::cast_precision_loss)] // milliseconds fit for 280,000 years
    let created_at = task.created.0 as f64 / 1000.0;
    let input = CommandInput {
        task_id: task.id.as_str(),
        topic: task.topic.as_str(),
        payload: serde_json::from_slice(&task.payload).map_err(unreadable)?,
        correlation_id: task.correlation_id.as_deref(),
        attempt: attempt.number,
        delivery_attempts: attempt.number,
        created_at,
    };
    let mut json = serde_json::to_vec(&input).map_err(unreadable)?;
    json.push(b'\n');
    Ok(json)
}

/// Writes stdin and closes it. A program that does not read it all is free to do so.
async fn write_stdin(stdin: Option<ChildStdin>, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    if let Err(error) = stdin.write_all(input).await {
        tracing::debug!(%error, "the program closed its stdin");
    }
}

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

/// Hears what is written, line by line: progress is passed on, the rest is logged, and its end
/// returned.
async fn log_and_collect_stderr(
    pipe: Option<impl AsyncRead + Unpin>,
    attempt: &TaskAttempt,
) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let (mut tail, mut line, mut chunk) = (Vec::<u8>::new(), Vec::new(), [0; MAX_STDERR_LINE]);
    let mut hear = |line: &mut Vec<u8>| {
        if let Some(progress) = parse_progress(line) {
            attempt.send_progress(progress);
        } else {
            let text = String::from_utf8_lossy(line);
            tracing::debug!(task_id = %attempt.task.id, topic = %attempt.task.topic, stderr = text.trim_end());
            tail.extend_from_slice(line);
            tail.drain(..tail.len().saturating_sub(MAX_STDERR_TAIL));
        }
        line.clear();
    };
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() >= MAX_STDERR_LINE {
                hear(&mut line);
            }
        }
    }
    if !line.is_empty() {
        hear(&mut line);
    }
    tail
}

// === impl Group ===

impl ProcessGroup {
    fn send_signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, signal); // an error: nobody is left
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.send_signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;
    use crate::worker::testing::{test_attempt, test_task, wait_until};
    use rustix::process::test_kill_process;
    use std::path::Path;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    fn shell_handler(script: &str) -> CommandHandler {
        CommandHandler {
            command_line: ["sh", "-c", script].map(str::to_owned).into(),
            max_result: 1 << 20,
        }
    }

    fn payload_attempt() -> TaskAttempt {
        test_attempt(test_task(1, "t", "{\"a\": 1.0}"))
    }

    /// A script that starts a grandchild, notes both their pids in `dir`, and does `then`.
    fn handler_with_grandchild(dir: &Path, then: &str) -> CommandHandler {
        shell_handler(&format!(
            "sleep 600 & echo $$ $! > {0}/tmp; mv {0}/tmp {0}/pids; {then}",
            dir.display()
        ))
    }

    fn read_pids(dir: &Path) -> Vec<Pid> {
        let text = std::fs::read_to_string(dir.join("pids")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// Whether `pid` runs; a zombie that nobody has reaped yet does not.
    fn is_process_running(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .unwrap_or_default();
        test_kill_process(pid).is_ok() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn the_task_comes_on_stdin_and_the_result_goes_to_stdout() {
        let python = "import json,os,sys; t=json.load(sys.stdin); \
            print(json.dumps([t['task_id'],t['topic'],t['payload'],t['correlation_id'],t['attempt'],t['created_at'], \
            os.environ['OMNIDAEMON_TASK_ID'],os.environ['OMNIDAEMON_ATTEMPT'],os.environ['IDEMPOTENCY_KEY']]))";
        let command = CommandHandler {
            command_line: ["python3", "-c", python].map(str::to_owned).into(),
            max_result: 1024,
        };
        let task = Task { correlation_id: Some("c".into()), ..payload_attempt().task };
        let id = task.id.clone();
        let answer = command
            .handle(&TaskAttempt { number: 2, ..test_attempt(task) })
            .await
            .expect("completed");
        let expected = format!(
            "[\"{id}\", \"t\", {{\"a\": 1.0}}, \"c\", 2, 1700000000.5, \"{id}\", \"2\", \"{id}\"]"
        );
        assert_eq!(answer, TaskAnswer::from_json(expected));
    }

    #[tokio::test]
    async fn output_that_is_not_json_is_a_string_and_unread_input_is_no_error() {
        let attempt = test_attempt(test_task(1, "t", &format!("\"{}\"", "x".repeat(1 << 20))));
        let answer = shell_handler("echo done").handle(&attempt).await.expect("completed");
        assert_eq!(answer, TaskAnswer::from_json("\"done\""));
    }

    #[tokio::test]
    async fn a_failed_program_says_its_status_and_the_end_of_its_stderr() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo noise $i >&2; i=$((i+1)); done; echo the reason >&2; exit 3";
        let failure = shell_handler(script).handle(&payload_attempt()).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::HandlerError);
        assert!(
            failure.message.starts_with("sh ended with exit status: 3: "),
            "{}",
            failure.message
        );
        assert!(
            failure.message.ends_with("the reason")
                && failure.message.len() < MAX_STDERR_TAIL + 100,
            "{}",
            failure.message
        );
        let killed =
            shell_handler("kill -9 $$").handle(&payload_attempt()).await.expect_err("killed");
        assert!(killed.message.contains("signal: 9"), "{}", killed.message);
    }

    #[tokio::test]
    async fn large_output_passes_up_to_the_limit_and_kills_the_program_beyond_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let fits =
            shell_handler("head -c 1000000 /dev/zero | tr '\\0' 1; head -c 1000000 /dev/zero >&2");
        assert_eq!(fits.handle(&payload_attempt()).await.expect("completed").body.len(), 1_000_000);
        let endless = handler_with_grandchild(dir.path(), "cat /dev/zero");
        let failure = endless.handle(&payload_attempt()).await.expect_err("too large");
        assert_eq!(failure.kind, FailureKind::UnusableResult);
        wait_until(|| !read_pids(dir.path()).into_iter().any(is_process_running)).await;
    }

    #[tokio::test]
    async fn at_the_deadline_the_program_and_its_children_are_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let command = handler_with_grandchild(dir.path(), "trap 'exit 0' TERM; wait");
        let attempt = TaskAttempt::new(
            payload_attempt().task,
            1,
            Duration::from_millis(500),
            CancellationToken::new(),
        );
        let failure = command.handle(&attempt).await.expect_err("late");
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert_eq!(read_pids(dir.path()).len(), 2);
        wait_until(|| !read_pids(dir.path()).into_iter().any(is_process_running)).await;
    }

    #[tokio::test]
    async fn a_cancelled_program_gets_sigterm_and_one_that_ignores_it_is_killed() {
        for (trap, polite) in
            [("trap 'touch \"$DIR/term\"; exit 0' TERM", true), ("trap '' TERM", false)]
        {
            let dir = tempfile::tempdir().expect("a directory");
            let setup = format!("DIR={}; {trap}", dir.path().display());
            let command = Arc::new(shell_handler(&format!(
                "{setup}; echo $$ > $DIR/tmp; mv $DIR/tmp $DIR/pids; while :; do sleep 0.05; done"
            )));
            let attempt = payload_attempt();
            let cancelled = attempt.cancelled.clone();
            let running = tokio::spawn(async move { command.handle(&attempt).await });
            wait_until(|| !read_pids(dir.path()).is_empty()).await;
            cancelled.cancel();
            running.await.expect("joined").expect_err("cancelled");
            wait_until(|| !read_pids(dir.path()).into_iter().any(is_process_running)).await;
            assert_eq!(dir.path().join("term").exists(), polite, "{trap}");
        }
    }

    #[tokio::test]
    async fn a_dropped_attempt_and_a_program_that_ended_leave_nothing_running() {
        let dir = tempfile::tempdir().expect("a directory");
        let ended = handler_with_grandchild(dir.path(), "echo 1")
            .handle(&payload_attempt())
            .await
            .expect("completed");
        assert_eq!(ended.body, "1");
        wait_until(|| !read_pids(dir.path()).into_iter().any(is_process_running)).await;
        std::fs::remove_file(dir.path().join("pids")).expect("removed");
        let command = handler_with_grandchild(dir.path(), "wait");
        let running = tokio::spawn(async move { command.handle(&payload_attempt()).await });
        wait_until(|| read_pids(dir.path()).len() == 2).await;
        running.abort();
        wait_until(|| !read_pids(dir.path()).into_iter().any(is_process_running)).await;
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named_with_the_key_to_correct() {
        let command =
            CommandHandler { command_line: vec!["/no/such/program".into()], max_result: 1 };
        let failure = command.handle(&payload_attempt()).await.expect_err("not found");
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(failure.message.contains("/no/such/program was not found"), "{}", failure.message);
        assert!(failure.message.contains("topics.t.handler.command"), "{}", failure.message);
    }
}
