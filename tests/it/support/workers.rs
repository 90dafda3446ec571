//! Workers in processes of their own.

use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

use super::http::client::HttpClient;
use super::process::child::ChildProcess;

/// `omnidaemon worker --count 2` beside `serve`, and its admin plane.
pub(crate) async fn spawn_worker_command(dir: &Path) -> (ChildProcess, HttpClient) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnidaemon"));
    command.args([
        "worker",
        "--count",
        "2",
        "--admin-listen",
        "127.0.0.1:0",
        "--config",
        "config/omnidaemon.yaml",
    ]);
    command.current_dir(dir).env("NO_COLOR", "1").env_remove("REDIS_URL");
    let mut worker = ChildProcess::spawn("worker", &mut command);
    let listening = |line: &str| {
        line.contains("listening").then(|| line.split("addr=").nth(1).map(str::to_owned))?
    };
    let address = worker.wait_for_log("its admin address", 0, listening).await;
    (worker, HttpClient::new(&format!("http://{}", address.trim())))
}

/// The pids of the runners that were started as `name`, oldest first.
pub(crate) fn runner_pids(worker: &ChildProcess, name: &str) -> Vec<Pid> {
    let marks = [format!("worker=\"{name}\" "), format!("worker={name} ")];
    let lines = worker.logs().lines();
    let started = lines.iter().filter(|line| {
        line.contains("worker started") && marks.iter().any(|mark| line.contains(mark))
    });
    let pid =
        |line: &String| Pid::from_raw(line.split("pid=").nth(1)?.split(' ').next()?.parse().ok()?);
    started.filter_map(pid).collect()
}
