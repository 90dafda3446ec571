//! Periodic work beside requests, tasks and rollouts: queue gauges and due tasks, the capacity of
//! the fleet, the tasks that other consumers run, and warnings about routes that are gone.
//!
//! Each loop reads the present configuration from the snapshot on every round, ends with its
//! shutdown token, and leaves its work to a later round while the store is unreachable.

mod capacity;
mod gone_routes;
mod periodic;
mod recent_durations;
mod reconcile_external;
mod refresh_queues;

pub use self::capacity::CapacityRefresher;
pub use self::gone_routes::warn_of_gone_routes;
pub use self::reconcile_external::reconcile_external_queues;
pub use self::refresh_queues::refresh_queues;
