//! The programs of `command` handlers: they and their children end with whatever runs them, nothing
//! waits for what they leave, and no zombie is left of them.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::http::client::HttpClient;
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;
use crate::support::server::parse_listen_address;
use crate::support::workers::{runner_pids, spawn_worker_command};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

const CONFIG: &str = "
upstream: {url: 'http://127.0.0.1:9'}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: t, rollout: {percent: 0, mode: manual}}
topics:
  t: {handler: {command: [sh, <dir>/program.sh]}, retries: 3, retry_delay: 10ms}
  leaving: {handler: {command: [sh, -c, 'setsid sleep 600 & echo $! > <dir>/left; echo 7']}}
workers: {count: <count>, drain: 500ms}
";

/// Starts two children, one of which leaves the process group, and writes all three process ids
/// to `runs`. A lock that all of them hold tells whether two runs overlap.
const PROGRAM: &str = "
cd \"$(dirname \"$0\")\"
exec 9> lock
flock -n 9 || echo overlap >> overlaps
sleep 600 &
inside=$!
setsid sleep 600 &
echo \"$$ $inside $!\" >> runs
wait
";

async fn start(store: &str, count: &str) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_file("program.sh", PROGRAM)
        .set_placeholder("store", store)
        .set_placeholder("count", count)
        .start()
        .await
}

async fn submit(client: &HttpClient, topic: &str) -> String {
    let accepted = client.post("/invoke/async", &json!({"topic": topic, "payload": {}})).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
}

/// The process ids of run number `index`, from 0, once it has begun; a second one may have to wait
/// for the end of a lease.
async fn wait_for_run(dir: &Path, index: usize) -> Vec<Pid> {
    wait_for_some(4 * TEST_DEADLINE, "the program runs", async || {
        let runs = std::fs::read_to_string(dir.join("runs")).unwrap_or_default();
        Some(parse_pids(runs.lines().nth(index)?))
    })
    .await
}

fn parse_pids(words: &str) -> Vec<Pid> {
    words.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The state letter and the parent of a process; none if it is gone.
fn process_state(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether a process runs; a zombie does not.
fn is_running(pid: Pid) -> bool {
    process_state(pid.as_raw_nonzero().get()).is_some_and(|(state, _)| state != 'Z')
}

async fn wait_until_gone(program: &[Pid]) {
    assert_eq!(program.len(), 3, "the program and its two children");
    wait_until(TEST_DEADLINE, "the program and its children are gone", async || {
        !program.iter().any(|&pid| is_running(pid))
    })
    .await;
}

fn assert_no_overlap(dir: &Path) {
    assert!(!dir.join("overlaps").exists(), "two runs of one task overlapped");
}

#[tokio::test]
async fn a_program_and_its_children_die_with_a_runner_that_is_killed() {
    let redis = RedisServer::start().await;
    let omni = start(&redis.url(), "0").await;
    let (worker, _admin) = spawn_worker_command(omni.dir()).await;
    submit(&omni.data_client(), "t").await;
    let first = wait_for_run(omni.dir(), 0).await;
    for name in ["worker-1", "worker-2"] {
        kill_process(runner_pids(&worker, name)[0], Signal::KILL).expect("a runner that lives");
    }
    wait_until_gone(&first).await;
    let second = wait_for_run(omni.dir(), 1).await;
    assert_no_overlap(omni.dir());
    drop(worker);
    wait_until_gone(&second).await;
}

#[tokio::test]
async fn a_program_and_its_children_die_with_a_supervisor_that_is_killed() {
    let redis = RedisServer::start().await;
    let omni = start(&redis.url(), "0").await;
    let (mut worker, _admin) = spawn_worker_command(omni.dir()).await;
    let poll = submit(&omni.data_client(), "t").await;
    let program = wait_for_run(omni.dir(), 0).await;
    worker.send_signal(Signal::KILL);
    wait_until_gone(&program).await;
    wait_until(TEST_DEADLINE, "the task is given back", async || {
        let task = omni.data_client().get(&poll).await.json();
        task["status"] == "queued" && task["attempts"] == 0
    })
    .await;
    assert_no_overlap(omni.dir());
}

#[tokio::test]
async fn a_program_and_its_children_die_with_a_server_that_is_killed() {
    let mut omni = start("sqlite:data/omnidaemon.db", "1").await;
    submit(&omni.data_client(), "t").await;
    let first = wait_for_run(omni.dir(), 0).await;
    omni.kill();
    wait_until_gone(&first).await;
    omni.restart().await;
    wait_for_run(omni.dir(), 1).await;
    assert_no_overlap(omni.dir());
}

#[tokio::test]
async fn a_cancelled_task_ends_its_program_and_the_children_that_left_its_group() {
    let omni = start("sqlite:data/omnidaemon.db", "1").await;
    let poll = submit(&omni.data_client(), "t").await;
    let program = wait_for_run(omni.dir(), 0).await;
    assert_eq!(omni.data_client().delete(&poll).await.status, 200);
    wait_until_gone(&program).await;
}

#[tokio::test]
async fn a_child_that_holds_stdout_open_does_not_hold_the_result_up() {
    let omni = start("sqlite:data/omnidaemon.db", "1").await;
    let poll = submit(&omni.data_client(), "leaving").await;
    let ended = omni.data_client().get(&format!("{poll}?wait=60s")).await.json();
    assert_eq!((&ended["status"], &ended["result"]), (&json!("completed"), &json!(7)), "{ended}");
    let left = std::fs::read_to_string(omni.dir().join("left")).expect("written");
    wait_until(TEST_DEADLINE, "the child is gone", async || {
        !parse_pids(&left).into_iter().any(is_running)
    })
    .await;
}

/// Runs `script` under a guard whose worker is this test.
fn run_guarded(command_line: &[&str]) -> std::process::Output {
    let worker = std::process::id().to_string();
    let mut guard = Command::new(env!("CARGO_BIN_EXE_omnidaemon"));
    guard.args(["__program-guard", &worker]).args(command_line).output().expect("it runs")
}

#[test]
fn a_guard_exits_as_its_program_did() {
    let output = run_guarded(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    for signal in [2, 9, 11, 15] {
        let output = run_guarded(&["sh", "-c", &format!("kill -{signal} $$; sleep 600")]);
        assert_eq!(output.status.signal(), Some(signal), "{:?}", output.status);
    }
    let output = run_guarded(&["/no/such/program"]);
    assert_eq!(output.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be started"));
}

#[test]
fn a_guard_whose_worker_has_died_before_starts_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_omnidaemon"))
        .args(["__program-guard", "1", "sh", "-c", "echo started"])
        .output()
        .expect("it runs");
    assert!(output.stdout.is_empty() && !output.status.success(), "{output:?}");
}

const FIRST_PROCESS_CONFIG: &str = "
proxy: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0}
upstream: {url: 'http://127.0.0.1:9'}
store: {url: 'sqlite:data/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: leaving, rollout: {percent: 0, mode: manual}}
topics:
  leaving:
    handler: {command: [sh, -c, 'sleep 0.3 & setsid sleep 0.3 & echo 1']}
    concurrency: 8
  unguarded: {handler: {command: [sh, -c, 'kill -9 $PPID; sleep 600']}, retries: 0}
workers: {count: 1}
";

/// A parent that takes all orphans, as process 1 does, and reaps only its own child.
const SUBREAPER: &str = "
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
sys.exit(subprocess.Popen(sys.argv[1:]).wait())
";

/// The command that runs the program as process 1, and whether it does: where the system refuses
/// namespaces, a parent that takes orphans and does not reap them stands in for process 1.
fn first_process_command() -> (Command, bool) {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let is_allowed = Command::new("unshare")
        .args(unshare)
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    let mut command = Command::new(if is_allowed { "unshare" } else { "python3" });
    if is_allowed {
        command.args(unshare);
    } else {
        command.args(["-c", SUBREAPER]);
    }
    command.arg(env!("CARGO_BIN_EXE_omnidaemon"));
    (command, is_allowed)
}

/// The processes that came of `root`, with their state letters.
fn descendants(root: i32) -> Vec<(i32, char)> {
    let all: Vec<_> = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| process_state(pid).map(|(state, parent)| (pid, state, parent)))
        .collect();
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        for (pid, state, _) in all.iter().filter(|(_, _, of)| *of == parent) {
            found.push((*pid, *state));
            parents.push(*pid);
        }
    }
    found
}

#[tokio::test]
async fn as_process_1_two_hundred_tasks_that_leave_children_leave_no_zombie() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("omnidaemon.yaml"), FIRST_PROCESS_CONFIG).expect("written");
    let (mut command, is_first) = first_process_command();
    command.args(["serve", "--config", "omnidaemon.yaml"]).current_dir(dir.path());
    command.env("NO_COLOR", "1").env_remove("REDIS_URL");
    let mut server = ChildProcess::spawn("process 1", &mut command);
    let find = |line: &str| parse_listen_address(line, "data");
    let address = server.wait_for_log("its address", 0, find).await;
    let client = HttpClient::new(&format!("http://{address}"));
    let mut polls = Vec::new();
    for _ in 0..200 {
        polls.push(submit(&client, "leaving").await);
    }
    for poll in &polls {
        let ended: Value = client.get(&format!("{poll}?wait=60s")).await.json();
        assert_eq!(ended["result"], 1, "{ended}");
    }
    if is_first {
        // A guard that is killed leaves its program to process 1.
        for _ in 0..10 {
            let poll = submit(&client, "unguarded").await;
            let ended: Value = client.get(&format!("{poll}?wait=60s")).await.json();
            assert_eq!(ended["status"], "failed", "{ended}");
        }
    }
    let root = i32::try_from(server.pid()).expect("a pid");
    wait_until(TEST_DEADLINE, "all zombies are reaped", async || {
        descendants(root).iter().all(|(_, state)| *state != 'Z')
    })
    .await;
    // The first child of `unshare` is process 1, that of the stand-in is the server.
    let (first, _) = descendants(root)[0];
    kill_process(Pid::from_raw(first).expect("a pid"), Signal::TERM).expect("it lives");
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    assert!(server.logs().contains("drained"), "{}", server.logs().to_text());
}
