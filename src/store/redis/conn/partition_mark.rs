//! The mark beside a cluster's data that holds the number of partitions they are divided into.
//!
//! With another number, a process would search for tasks in the wrong partitions, so one whose
//! configuration differs from the mark gets no connection.

use crate::store::StoreError;
use crate::store::redis::conn::connection::RedisConnection;
use crate::store::redis::conn::error;

/// How many partitions a cluster's data has: written once, by the first process that connects.
#[derive(Clone)]
pub(crate) struct PartitionCountMark {
    /// The key that holds the number.
    pub(crate) key: String,
    /// The configured number.
    pub(crate) partitions: usize,
}

impl PartitionCountMark {
    /// Writes the mark where there is none.
    ///
    /// # Errors
    /// [`StoreError::InvalidSetup`] where the mark names another number.
    pub(crate) async fn check(&self, connection: &mut RedisConnection) -> Result<(), StoreError> {
        let Self { key, partitions } = self;
        let mut set = redis::cmd("SET");
        set.arg(key).arg(partitions).arg("NX").arg("GET");
        let found = connection.send_query::<Option<usize>>(&set).await;
        match found.map_err(|error| error::from_call_error(&error))? {
            Some(found) if found != *partitions => Err(StoreError::InvalidSetup(format!(
                "the cluster's tasks are in {found} partitions, the configuration says \
                 {partitions}: set store.partitions to {found}, or finish all tasks and delete \
                 {key} and its like on every master"
            ))),
            _ => Ok(()),
        }
    }
}
