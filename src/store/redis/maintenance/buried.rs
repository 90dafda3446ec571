//! A task that maintenance ended as failed.

use crate::store::{BuriedTask, Lease};

/// The report on a buried task; `trimmed` where it failed because its entry was trimmed.
pub(crate) fn buried_task(lease: Lease, trimmed: bool) -> BuriedTask {
    BuriedTask { topic: lease.task.topic, route: lease.task.route, trimmed }
}
