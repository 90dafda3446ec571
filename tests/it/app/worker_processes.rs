//! Workers as processes of their own, beside a `serve` without any, over one Redis.

use std::path::Path;
use std::process::Command;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::http::client::{HttpClient, HttpResponse};
use crate::support::metrics::ScrapedMetrics;
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_for_some, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: t, rollout: {percent: 0, mode: manual}}
topics:
  t: {handler: upstream, retries: 0}
workers: {count: 0, drain: 20s}
";

async fn serve(upstream: &TestUpstream, redis: &RedisServer) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", redis.url())
        .start()
        .await
}

/// `omnidaemon worker --count 2` beside `serve`, and its admin plane.
pub(crate) async fn worker(dir: &Path) -> (ChildProcess, HttpClient) {
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
pub(crate) fn pids(worker: &ChildProcess, name: &str) -> Vec<Pid> {
    let marks = [format!("worker=\"{name}\" "), format!("worker={name} ")];
    let lines = worker.logs().lines();
    let started = lines.iter().filter(|line| {
        line.contains("worker started") && marks.iter().any(|mark| line.contains(mark))
    });
    let pid =
        |line: &String| Pid::from_raw(line.split("pid=").nth(1)?.split(' ').next()?.parse().ok()?);
    started.filter_map(pid).collect()
}

async fn until_active(omni: &Omnidaemon, slots: u64) -> serde_json::Value {
    wait_for_some(TEST_DEADLINE, &format!("{slots} workers are live"), async || {
        let status = omni.admin_client().get("/admin/v1/status").await.json();
        (status["active_workers"] == slots).then_some(status)
    })
    .await
}

async fn submit(omni: &Omnidaemon, sleep_ms: u32) -> String {
    let accepted = omni
        .data_client()
        .post("/invoke/async", &json!({"task": "t", "arguments": {"sleep_ms": sleep_ms}}))
        .await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
}

async fn status(omni: &Omnidaemon, poll: &str) -> String {
    omni.data_client().get(poll).await.json()["status"].as_str().expect("a status").to_owned()
}

#[tokio::test]
async fn a_service_manager_that_signals_every_process_at_once_loses_no_task() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let omni = serve(&upstream, &redis).await;
    let nobody = omni.admin_client().get("/admin/v1/status").await.json();
    assert_eq!(
        (&nobody["status"], &nobody["checks"]["workers"]),
        (&json!("degraded"), &json!("none is running")),
        "{nobody}"
    );
    let (mut worker, _admin) = worker(omni.dir()).await;
    let live = until_active(&omni, 2).await;
    assert_eq!(
        (&live["status"], &live["checks"]["workers"]),
        (&json!("healthy"), &json!("ok")),
        "{live}"
    );
    let polls = [submit(&omni, 3000).await, submit(&omni, 3000).await];
    wait_until(TEST_DEADLINE, "both tasks have begun", async || {
        upstream.fetch_requests().await.requests.len() == 2
    })
    .await;

    // As systemd does with KillMode=control-group; the supervisor then forwards its own.
    worker.send_signal(Signal::TERM);
    for name in ["worker-1", "worker-2"] {
        for pid in pids(&worker, name) {
            kill_process(pid, Signal::TERM).expect("a runner that lives");
        }
    }
    let ended = worker.wait_for_exit().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    for poll in &polls {
        assert_eq!(status(&omni, poll).await, "completed");
    }
    assert_eq!(upstream.fetch_requests().await.requests.len(), 2, "each ran once");
    let after = omni.admin_client().get("/admin/v1/status").await.json();
    assert_eq!(after["active_workers"], 0, "a worker that has ended is not counted on: {after}");
}

#[tokio::test]
async fn a_killed_runner_is_replaced_and_counted() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let omni = serve(&upstream, &redis).await;
    let (worker, admin) = worker(omni.dir()).await;
    until_active(&omni, 2).await;
    let victim = pids(&worker, "worker-1").remove(0);
    kill_process(victim, Signal::KILL).expect("killed");
    wait_until(TEST_DEADLINE, "it is replaced", async || pids(&worker, "worker-1").len() == 2)
        .await;
    let metrics = ScrapedMetrics::parse(&admin.get("/metrics").await.text());
    assert_eq!(metrics.value("omnidaemon_workers_crashed_total", &[]), 1.0);
    let polls = [submit(&omni, 300).await, submit(&omni, 300).await];
    for poll in &polls {
        wait_until(TEST_DEADLINE, "the replacement works", async || {
            status(&omni, poll).await == "completed"
        })
        .await;
    }
}

#[tokio::test]
async fn a_ctrl_c_that_is_repeated_later_ends_at_once() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let mut omni = serve(&upstream, &redis).await;
    let call = json!({"task": "t", "arguments": {"sleep_ms": 60_000}});
    let request = omni.data_client().request(Method::POST, "/invoke").json(&call);
    let cut = tokio::spawn(HttpResponse::try_from_request(request));
    wait_until(TEST_DEADLINE, "a request is in flight", async || {
        upstream.fetch_requests().await.requests.len() == 1
    })
    .await;
    let process = omni.process();
    for _ in 0..3 {
        process.send_signal(Signal::TERM);
        process.send_signal(Signal::INT);
    }
    process.wait_for_log("the drain", 0, |line| line.contains("draining").then_some(())).await;
    assert!(process.is_running(), "those came at once: one wish");
    wait_until(TEST_DEADLINE, "a later one is heeded", async || {
        process.send_signal(Signal::INT);
        !process.is_running()
    })
    .await;
    assert_eq!(process.wait_for_exit().await.code(), Some(130), "and not the drain's end");
    assert!(cut.await.expect("joined").is_err());
}
