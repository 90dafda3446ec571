//! The command handler with real programs.

use super::stderr_log::MAX_STDERR_TAIL;
use super::*;
use crate::task::Task;
use crate::worker::testing::{test_attempt, test_task, wait_until};
use rustix::process::{Pid, test_kill_process};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn shell_handler(script: &str) -> CommandHandler {
    CommandHandler {
        command_line: ["sh", "-c", script].map(str::to_owned).into(),
        guard: None,
        max_result: 1 << 20,
    }
}

fn payload_attempt() -> TaskAttempt {
    test_attempt(test_task(1, "t", "{\"a\": 1.0}"))
}

/// A script that starts a child process, writes both pids to `dir/pids`, and runs `then`.
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

/// Whether `pid` runs; a zombie that is not reaped yet does not.
fn is_process_running(pid: Pid) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

#[tokio::test]
async fn the_task_comes_on_stdin_and_the_result_goes_to_stdout() {
    let python = "import json,os,sys; t=json.load(sys.stdin); \
        print(json.dumps([t['task_id'],t['topic'],t['payload'],t['correlation_id'], \
        t['attempt'],t['created_at'], \
        os.environ['OMNIDAEMON_TASK_ID'],os.environ['OMNIDAEMON_ATTEMPT'], \
        os.environ['IDEMPOTENCY_KEY']]))";
    let command = CommandHandler {
        command_line: ["python3", "-c", python].map(str::to_owned).into(),
        guard: None,
        max_result: 1024,
    };
    let task = Task { correlation_id: Some("c".into()), ..payload_attempt().task };
    let id = task.id.clone();
    let mut attempt = test_attempt(task);
    attempt.number = 2;
    let answer = command.handle(&attempt).await.expect("completed");
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
async fn a_failure_quotes_the_exit_status_and_the_end_of_stderr() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo noise $i >&2; i=$((i+1)); done; \
        echo the reason >&2; exit 3";
    let failure = shell_handler(script).handle(&payload_attempt()).await.expect_err("failed");
    assert_eq!(failure.kind, FailureKind::HandlerError);
    assert!(failure.message.starts_with("sh ended with exit status: 3: "), "{}", failure.message);
    assert!(
        failure.message.ends_with("the reason") && failure.message.len() < MAX_STDERR_TAIL + 100,
        "{}",
        failure.message
    );
    let killed = shell_handler("kill -9 $$").handle(&payload_attempt()).await.expect_err("killed");
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
async fn a_child_outside_the_group_that_holds_stdout_open_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = format!("setsid sleep 600 & echo $! > {}/pids; echo 7", dir.path().display());
    let answer = shell_handler(&script).handle(&payload_attempt()).await.expect("completed");
    assert_eq!(answer.body, "7");
    for pid in read_pids(dir.path()) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .expect("without a guard it lives on");
    }
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named_with_the_key_to_correct() {
    let command = CommandHandler {
        command_line: vec!["/no/such/program".into()],
        guard: None,
        max_result: 1,
    };
    let failure = command.handle(&payload_attempt()).await.expect_err("not found");
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.message.contains("/no/such/program was not found"), "{}", failure.message);
    assert!(failure.message.contains("topics.t.handler.command"), "{}", failure.message);
}
