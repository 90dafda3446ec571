//! What the admin API, the command line without a server and the proxy do to the store in one way:
//! publish and cancel tasks, read queues, workers and tasks, act on dead letters.
//!
//! An operation takes a [`StoreAccess`] and the configuration in force, makes store calls, and
//! returns a typed result or a typed error. It knows no HTTP status, no exit code and no JSON: the
//! caller renders the result (`admin/views/`, `proxy/`, `cli/`) and counts metrics. Each store call
//! has its own timeout, also where an operation makes several.

mod access;
mod cancel;
mod dead_letters;
mod publish;
mod queues;
mod status;
mod tasks;

pub use self::access::StoreAccess;
pub use self::cancel::{CancelError, cancel_task};
pub use self::dead_letters::{
    DeadLetterError, ReprocessedTask, discard_dead_letter, get_dead_letter, list_dead_letters,
    reprocess_dead_letter, retry_failed_task,
};
pub use self::publish::{PublishError, PublishedTask, prepare_task, publish_bulk, publish_task};
pub use self::queues::{QueueStatus, configured_queues, find_queue, load_queue_statuses};
pub use self::status::{FleetStatus, lacks_workers, load_fleet_status, load_heartbeats};
pub use self::tasks::{TaskWithDeliveries, list_tasks, load_task, parse_task_status};
