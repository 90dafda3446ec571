//! What the integration tests stand on, so that they read like prose: real processes on free ports,
//! which die with their test and whose logs show when it fails.
//!
//! ```text
//! process.rs    a child process: drained logs, signals, exit
//! clock.rs      a wall clock that is off, for one process
//! proxy.rs      `omnidaemon serve` under a config that a test writes and edits
//! prometheus.rs a Prometheus that scrapes what a test tells it to
//! upstream.rs   the legacy endpoint: FastAPI under uvicorn (tests/upstream/app.py)
//! client.rs     HTTP requests, and connections whose every byte a test writes
//! websocket.rs  a WebSocket client of short text messages
//! metrics.rs    a scraped `/metrics`
//! redis.rs      a redis-server or valkey-server that can be killed and brought back
//! sentinel.rs   a master, its replicas, and sentinels that watch them
//! cluster.rs    a Redis Cluster of masters and replicas
//! python.rs     the Python OmniDaemon on one: its agents, its SDK, its command line
//! scripted.rs   an upstream that says the same bytes to everybody
//! fault.rs      a TCP proxy that delays, slices, stalls and resets
//! ```
#![allow(dead_code, reason = "a harness offers more than the tests of the day use")]
#![allow(unreachable_pub, reason = "its public items are the interface to the tests beside it")]

pub mod client;
pub mod clock;
pub mod cluster;
pub mod fault;
pub mod metrics;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod scripted;
pub mod sentinel;
pub mod upstream;
pub mod websocket;

use std::time::{Duration, Instant};

pub use proxy::Omnidaemon;
pub use upstream::TestUpstream;

/// How long anything that must happen may take on a loaded machine.
pub const TEST_DEADLINE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Polls until `probe` says true.
///
/// # Panics
/// When it has not within `deadline`; `what` names it: "the queue drains".
pub async fn wait_until(deadline: Duration, what: &str, mut probe: impl AsyncFnMut() -> bool) {
    wait_for_some(deadline, what, async || probe().await.then_some(())).await;
}

/// Polls until `probe` finds something, and returns that.
///
/// # Panics
/// When it has not within `deadline`, as a probe that hangs has not.
pub async fn wait_for_some<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut tries = 0_u32;
    let polling = async {
        loop {
            tries += 1;
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let found = tokio::time::timeout(deadline, polling).await;
    found.unwrap_or_else(|_| panic!("not within {:.1?}, in {tries} tries: {what}", start.elapsed()))
}
