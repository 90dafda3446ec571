//! Clients that call `POST /invoke` without a pause, for tests in which something fails meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use super::scenario::{ScenarioBuilder, scenario};
use super::{Omnidaemon, TEST_DEADLINE, wait_until};

/// A server all of whose calls go onto the queue of the store at this URL, unless the store fails.
pub(crate) fn scenario_under_load(store_url: String) -> ScenarioBuilder {
    scenario()
        .store_url(store_url)
        .yaml("store.timeout", "500ms")
        .percent(100)
        .wait("3s")
        .workers(4)
        .concurrency(4)
}

/// Clients that call one after the other until they are stopped, and count what they got.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// How many calls were answered by the synchronous path.
    pub(crate) sync_calls: Arc<AtomicUsize>,
    /// How many went onto the queue.
    pub(crate) async_calls: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many clients of `POST /invoke`.
    pub(crate) fn start(omni: &Omnidaemon, clients: usize) -> Self {
        let (stop, sync_calls, async_calls) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<AtomicUsize>::default(),
        );
        let tasks = (0..clients)
            .map(|_| {
                let (client, stop, sync_calls, async_calls) =
                    (omni.data_client(), stop.clone(), sync_calls.clone(), async_calls.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.post("/invoke", &json!({"task": "t"})).await;
                        // 202 where the task was queued and could not be run before `wait` was
                        // over: deferred, not failed.
                        assert!(
                            answer.status == 200 || answer.status == 202,
                            "{}: {}",
                            answer.status,
                            answer.text()
                        );
                        let path = answer.header("x-omnidaemon-path");
                        let counter = if path == Some("sync") { &sync_calls } else { &async_calls };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, sync_calls, async_calls, tasks }
    }

    /// Waits until `counter`, one of the two above, has grown by `more`.
    pub(crate) async fn wait_for_more(&self, what: &str, counter: &AtomicUsize, more: usize) {
        let from = counter.load(Ordering::Relaxed);
        wait_until(TEST_DEADLINE, what, async || counter.load(Ordering::Relaxed) >= from + more)
            .await;
    }

    /// Ends the clients; fails when a call of theirs failed.
    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call failed");
        }
    }
}
