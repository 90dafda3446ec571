//! What the integration tests stand on: real processes on free ports, which die with their test and
//! whose logs show when it fails.
//!
//! ```text
//! wait.rs       waiting for what must happen
//! server/       `omnidaemon serve` under a config that a test writes and edits
//! process/      child processes, their wall clocks, and the Python OmniDaemon
//! http/         clients, upstreams with a fixed response, and a network with faults
//! redis/        redis-server and valkey-server: alone, under sentinels, as a cluster
//! upstream.rs   the legacy endpoint: FastAPI under uvicorn (tests/upstream/app.py)
//! prometheus.rs a Prometheus that scrapes what a test tells it to
//! metrics.rs    a scraped `/metrics`
//! stores.rs     tests that run on both stores
//! ```
#![allow(dead_code, reason = "a harness offers more than the tests of the day use")]
#![allow(unreachable_pub, reason = "its public items are the interface to the tests beside it")]

pub mod http;
pub mod metrics;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod server;
pub mod stores;
pub mod upstream;
mod wait;

pub use server::Omnidaemon;
pub use upstream::TestUpstream;
pub use wait::{TEST_DEADLINE, wait_for_some, wait_until};
