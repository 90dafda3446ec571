//! Workers as processes of their own, beside a `serve` without any, over one Redis.

use http::Method;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::metrics::ScrapedMetrics;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, scenario, topic};
use crate::support::workers::{runner_pids, spawn_worker_command};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

/// A server without workers of its own.
async fn start(redis: &RedisServer) -> Scenario {
    scenario()
        .redis(redis)
        .topic(topic("t").retries(0))
        .workers(0)
        .yaml("workers.drain", "20s")
        .start()
        .await
}

async fn wait_for_active_workers(omni: &Omnidaemon, slots: u64) -> serde_json::Value {
    wait_for_some(TEST_DEADLINE, &format!("{slots} workers are live"), async || {
        let status = omni.admin_client().get("/admin/v1/status").await.json();
        (status["active_workers"] == slots).then_some(status)
    })
    .await
}

async fn submit_sleep(omni: &Omnidaemon, sleep_ms: u32) -> String {
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
    let redis = RedisServer::start().await;
    let omni = start(&redis).await;
    let idle = omni.admin_client().get("/admin/v1/status").await.json();
    assert_eq!(
        (&idle["status"], &idle["checks"]["workers"]),
        (&json!("degraded"), &json!("none is running")),
        "{idle}"
    );
    let (mut worker, _admin) = spawn_worker_command(omni.dir()).await;
    let live = wait_for_active_workers(&omni, 2).await;
    assert_eq!(
        (&live["status"], &live["checks"]["workers"]),
        (&json!("healthy"), &json!("ok")),
        "{live}"
    );
    let polls = [submit_sleep(&omni, 3000).await, submit_sleep(&omni, 3000).await];
    wait_until(TEST_DEADLINE, "both tasks have begun", async || {
        omni.upstream().fetch_requests().await.requests.len() == 2
    })
    .await;

    // As systemd does with KillMode=control-group; the supervisor then forwards its own.
    worker.send_signal(Signal::TERM);
    for name in ["worker-1", "worker-2"] {
        for pid in runner_pids(&worker, name) {
            kill_process(pid, Signal::TERM).expect("a runner that lives");
        }
    }
    let ended = worker.wait_for_exit().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    for poll in &polls {
        assert_eq!(status(&omni, poll).await, "completed");
    }
    assert_eq!(omni.upstream().fetch_requests().await.requests.len(), 2, "each ran once");
    let after = omni.admin_client().get("/admin/v1/status").await.json();
    assert_eq!(after["active_workers"], 0, "a worker that has ended is not counted on: {after}");
}

#[tokio::test]
async fn a_killed_runner_is_replaced_and_counted() {
    let redis = RedisServer::start().await;
    let omni = start(&redis).await;
    let (worker, admin) = spawn_worker_command(omni.dir()).await;
    wait_for_active_workers(&omni, 2).await;
    let victim = runner_pids(&worker, "worker-1").remove(0);
    kill_process(victim, Signal::KILL).expect("killed");
    wait_until(TEST_DEADLINE, "it is replaced", async || {
        runner_pids(&worker, "worker-1").len() == 2
    })
    .await;
    let metrics = ScrapedMetrics::parse(&admin.get("/metrics").await.text());
    assert_eq!(metrics.value("omnidaemon_workers_crashed_total", &[]), 1.0);
    let polls = [submit_sleep(&omni, 300).await, submit_sleep(&omni, 300).await];
    for poll in &polls {
        wait_until(TEST_DEADLINE, "the replacement works", async || {
            status(&omni, poll).await == "completed"
        })
        .await;
    }
}

#[tokio::test]
async fn a_ctrl_c_that_is_repeated_later_ends_at_once() {
    let redis = RedisServer::start().await;
    let mut omni = start(&redis).await;
    let call = json!({"task": "t", "arguments": {"sleep_ms": 60_000}});
    let request = omni.data_client().request(Method::POST, "/invoke").json(&call);
    let cut = tokio::spawn(HttpResponse::try_from_request(request));
    wait_until(TEST_DEADLINE, "a request is in flight", async || {
        omni.upstream().fetch_requests().await.requests.len() == 1
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
