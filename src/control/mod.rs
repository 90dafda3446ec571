//! The rollout controller: the single writer of rollout state and the only publisher of snapshots.
//!
//! It is one loop: input → pure decision (`rollout/`) → save by compare-and-set → publish. Once a
//! second each replica exchanges its status and its counts with the others through the store
//! (`controller/replica_sync.rs`) and learns the routes' state, and one replica becomes the leader.
//! Only the leader acts on evidence and on its configuration file (`controller/leader_tick.rs`),
//! under a term number that makes the store refuse a leader that was replaced. Any replica executes
//! an operator's command (`controller/commands.rs`). While the store is unreachable there is no
//! leader and no weight rises; an abort takes effect in this process at once and is saved when the
//! store is back.

mod controller;
mod counts;
mod handle;
mod notify;
mod prometheus;
mod reload;
mod replicas;
mod route_rollout;
mod store_clock;
mod stored;
mod views;

pub use self::controller::{Controller, ControllerHandles};
pub use self::handle::{RolloutCommandError, RolloutCommandOutcome, RolloutHandle};
pub use self::prometheus::{extract_metric_names, fetch_metric_names, query_prometheus};
pub use self::reload::{ConfigReloader, ConfigSender, ReloadStatus};
pub use self::store_clock::StoreClock;
pub use self::views::{ReplicaView, RolloutsView, RouteRolloutView};
