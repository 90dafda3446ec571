//! Cancelling a task that runs: its handler is told, wherever it runs, and nothing of it goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, test_kill_process};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::submit_task;
use crate::support::workers::spawn_worker_command;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

/// Ignores SIGTERM, as does the child that it starts, and notes the pids of both.
const STUBBORN_SCRIPT: &str = "trap '' TERM
(while :; do sleep 0.1; done) &
echo $$ $! > \"$(dirname \"$0\")/tmp\" && mv \"$(dirname \"$0\")/tmp\" \"$(dirname \"$0\")/pids\"
while :; do sleep 0.1; done
";

/// A server that takes tasks, never answers, and sees its clients leave.
struct SilentServer {
    url: String,
    posts: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
}

impl SilentServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (posts, left) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (posts.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_connection(stream, counts.clone()));
            }
        });
        Self { url, posts, left }
    }

    fn running(&self) -> usize {
        self.posts.load(Ordering::Relaxed) - self.left.load(Ordering::Relaxed)
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    (posts, left): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    let mut read = Vec::new();
    let is_post = |read: &[u8]| {
        read.starts_with(b"POST ") && read.windows(4).any(|window| window == b"\r\n\r\n")
    };
    let mut counted = false;
    while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
        if !counted && is_post(&read) {
            counted = true;
            posts.fetch_add(1, Ordering::Relaxed);
        }
    }
    left.fetch_add(usize::from(counted), Ordering::Relaxed);
}

async fn start(store: &Store, legacy: &SilentServer, workers: u32) -> Scenario {
    scenario()
        .store(store)
        .upstream_url(&legacy.url)
        .route(route("invoke").topic("legacy"))
        .topic(topic("legacy").retries(3).retry_delay("20ms"))
        .topic(topic("http").http("<upstream>/run").retries(3).retry_delay("20ms"))
        .topic(topic("quick").command(["cat"]))
        .topic(
            topic("stubborn").command(["sh", "<dir>/stubborn.sh"]).retries(3).retry_delay("20ms"),
        )
        .workers(workers)
        .file("stubborn.sh", STUBBORN_SCRIPT)
        .start()
        .await
}

/// Submits a task and returns its id.
async fn submit(omni: &Omnidaemon, topic: &str) -> String {
    submit_task(omni, topic, json!({})).await.trim_start_matches("/task/").to_owned()
}

/// The pids that the stubborn program noted.
async fn stubborn_pids(dir: &Path) -> Vec<Pid> {
    wait_for_some(TEST_DEADLINE, "the program runs", async || {
        let text = std::fs::read_to_string(dir.join("pids")).ok()?;
        text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    })
    .await
}

/// Whether `pid` runs; a zombie that nobody has reaped yet does not.
fn is_running(pid: Pid) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

async fn fetch_status(omni: &Omnidaemon, id: &str) -> String {
    omni.data_client().get(&format!("/task/{id}")).await.json()["status"]
        .as_str()
        .expect("a status")
        .to_owned()
}

on_both_stores!(
    a_cancelled_command_is_ended_with_all_that_it_started,
    a_cancelled_http_or_upstream_task_has_its_connection_dropped,
    the_command_line_cancels_and_says_when_it_is_too_late,
);

async fn a_cancelled_command_is_ended_with_all_that_it_started(store: Store) {
    let legacy = SilentServer::start().await;
    let omni = start(&store, &legacy, 1).await;
    let id = submit(&omni, "stubborn").await;
    let pids = stubborn_pids(omni.dir()).await;
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_running(*pid)));
    let cancelled = omni.data_client().delete(&format!("/task/{id}")).await;
    assert_eq!(
        (cancelled.status.as_u16(), &cancelled.json()["status"]),
        (200, &json!("cancelled"))
    );
    wait_until(TEST_DEADLINE, "program and child are gone", async || {
        !pids.iter().any(|pid| is_running(*pid))
    })
    .await;
    assert_eq!(fetch_status(&omni, &id).await, "cancelled");
    let next = submit(&omni, "quick").await;
    wait_until(TEST_DEADLINE, "the slot is free again", async || {
        fetch_status(&omni, &next).await == "completed"
    })
    .await;
    assert_eq!(fetch_status(&omni, &id).await, "cancelled", "no later attempt has begun");
}

async fn a_cancelled_http_or_upstream_task_has_its_connection_dropped(store: Store) {
    let legacy = SilentServer::start().await;
    let omni = start(&store, &legacy, 2).await;
    for topic in ["http", "legacy"] {
        let id = submit(&omni, topic).await;
        wait_until(TEST_DEADLINE, "the request has come", async || legacy.running() == 1).await;
        let cancelled =
            omni.admin_client().post(&format!("/admin/v1/tasks/{id}/cancel"), &json!({})).await;
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        wait_until(TEST_DEADLINE, "the connection is closed", async || legacy.running() == 0).await;
        assert_eq!(fetch_status(&omni, &id).await, "cancelled");
    }
    assert_eq!(legacy.posts.load(Ordering::Relaxed), 2, "neither was tried again");
}

async fn the_command_line_cancels_and_says_when_it_is_too_late(store: Store) {
    let legacy = SilentServer::start().await;
    let omni = start(&store, &legacy, 1).await;
    let id = submit(&omni, "http").await;
    wait_until(TEST_DEADLINE, "the request has come", async || legacy.running() == 1).await;
    let cancelled = omni.run_cli(&["task", "cancel", &id]).await;
    assert_eq!(cancelled.status.code(), Some(0), "{cancelled:?}");
    assert_eq!(fetch_status(&omni, &id).await, "cancelled");
    assert_eq!(
        omni.run_cli(&["task", "cancel", &id]).await.status.code(),
        Some(0),
        "it may be repeated"
    );
    let done = submit(&omni, "quick").await;
    wait_until(TEST_DEADLINE, "the other has ended", async || {
        fetch_status(&omni, &done).await == "completed"
    })
    .await;
    let late = omni.run_cli(&["task", "cancel", &done]).await;
    assert_eq!(late.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&late.stderr).contains("already ended as completed"),
        "{late:?}"
    );
    assert_eq!(omni.run_cli(&["task", "cancel", "task_unknown"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_task_that_another_process_runs_is_ended_there() {
    let (store, legacy) = (Store::redis().await, SilentServer::start().await);
    let omni = start(&store, &legacy, 0).await;
    let (_worker, _admin) = spawn_worker_command(omni.dir()).await;
    let id = submit(&omni, "stubborn").await;
    let pids = stubborn_pids(omni.dir()).await;
    assert_eq!(omni.data_client().delete(&format!("/task/{id}")).await.status, 200);
    wait_until(TEST_DEADLINE, "program and child are gone", async || {
        !pids.iter().any(|pid| is_running(*pid))
    })
    .await;
    assert_eq!(fetch_status(&omni, &id).await, "cancelled");
}
