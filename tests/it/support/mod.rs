//! What the integration tests stand on: real processes on free ports, which die with their test and
//! whose logs show when it fails.
//!
//! ```text
//! wait.rs       waiting for what must happen
//! scenario/     a server with everything around it, described by what a test is about
//! server/       `omnidaemon serve` under a config that is edited while it runs
//! tasks.rs      tasks as clients submit and poll them
//! cli_output.rs the binary as a command, and what it printed
//! process/      child processes, their wall clocks, and the Python OmniDaemon
//! http/         clients, upstreams with a fixed response, and a network with faults
//! redis/        redis-server and valkey-server: alone, under sentinels, as a cluster
//! upstream.rs   the legacy endpoint: FastAPI under uvicorn (tests/upstream/app.py)
//! prometheus.rs a Prometheus that scrapes what a test tells it to
//! metrics.rs    a scraped `/metrics`
//! workers.rs    workers in processes of their own
//! sink.rs       a server that receives webhooks
//! load.rs       clients that call without a pause
//! stores.rs     tests that run on both stores
//! ```
#![allow(dead_code, reason = "a harness offers more than the tests of the day use")]
#![allow(unreachable_pub, reason = "its public items are the interface to the tests beside it")]

pub mod cli_output;
pub mod http;
pub mod load;
pub mod metrics;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod scenario;
pub mod server;
pub mod sink;
pub mod stores;
pub mod tasks;
pub mod upstream;
mod wait;
pub mod wall_clock;
pub mod workers;

pub use server::Omnidaemon;
pub use upstream::TestUpstream;
pub use wait::{TEST_DEADLINE, wait_for_some, wait_until};
