//! One row of a script's reply that describes a lease, and the [`Lease`] that it reads as.

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value};

use crate::store::redis::wire::entry::{EntryMessage, MessageExtras, parse_credentials};
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::redis::wire::packed_record::PackedRecord;
use crate::store::redis::wire::reply_fields::ReplyFields;
use crate::store::{Lease, TopicQueue};
use crate::task::{Task, TaskId, TaskOwner, UnixMs};

/// A lease in a script's reply, as `lease_row` in `prelude.lua` writes it.
pub(crate) struct ScriptLeaseRow {
    /// The position of the lease's queue in the call, from 1.
    pub(crate) queue_position: usize,
    /// The stream entry's id.
    pub(crate) entry_id: String,
    /// The entry's `data`; none where it was not asked for or the entry has none.
    pub(crate) data: Option<Bytes>,
    /// The task's id; empty where the entry is no task.
    pub(crate) task_id: String,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The number of the lease, raised whenever a lease of the entry begins or ends.
    pub(crate) lease_number: u64,
    record: PackedRecord,
}

impl FromRedisValue for ScriptLeaseRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = ReplyFields::parse(value)?;
        Ok(Self {
            queue_position: fields.read_next()?,
            entry_id: fields.read_next()?,
            data: fields.read_next()?,
            task_id: fields.read_next()?,
            attempt: fields.read_next()?,
            lease_number: fields.read_next()?,
            record: PackedRecord::parse(&fields.read_next::<String>()?),
        })
    }
}

impl ScriptLeaseRow {
    /// A lease that can be settled but not run, since its payload is not read.
    pub(crate) fn to_bare_lease(&self, queue: &TopicQueue) -> Option<Lease> {
        let (id, created) =
            (TaskId::parse(&self.task_id).ok()?, UnixMs(self.record.created.unwrap_or_default()));
        let task = Task {
            route: self.record.route.clone(),
            epoch: self.record.epoch,
            client_group: self.record.client_group,
            owner: self.record.owner.as_deref().map(TaskOwner::from_digest),
            retries: self.record.retries.unwrap_or(queue.retries),
            ..Task::new(id, queue.topic.clone(), "null", created)
        };
        let handle =
            LeaseHandle { entry_id: self.entry_id.clone(), lease_number: self.lease_number };
        Some(Lease {
            task,
            attempt: self.attempt,
            queue: queue.clone(),
            store_handle: handle.to_string(),
        })
    }

    /// The whole lease where the entry can be read, so that the task's deliveries are known, and
    /// else the bare one.
    pub(crate) fn to_whole_or_bare_lease(&self, queue: &TopicQueue) -> Option<Lease> {
        let whole = self.parse_lease(queue).ok().map(|(lease, _)| lease);
        whole.or_else(|| self.to_bare_lease(queue))
    }

    /// The lease, and the extras of its message.
    ///
    /// # Errors
    /// The reason in words where the entry is not a task.
    pub(crate) fn parse_lease(&self, queue: &TopicQueue) -> Result<(Lease, MessageExtras), String> {
        let message = EntryMessage::parse(self.data.as_deref().ok_or("the entry has no data")?)?;
        let mut lease = self.to_bare_lease(queue).ok_or("data cannot be read as a message")?;
        let credentials = self
            .record
            .credentials_json
            .as_deref()
            .map(|json| parse_credentials(json.as_bytes()))
            .transpose();
        let open = |stored: crate::store::wire::envelope::StoredRequest| {
            stored.into_request(credentials?, &message.payload)
        };
        lease.task.request =
            message.request.map(open).transpose().map_err(|error| error.to_string())?;
        lease.task.payload = message.payload;
        lease.task.correlation_id = message.correlation_id;
        lease.task.webhook = message.extras.webhook_url();
        lease.task.reply_to = message.extras.reply_topic();
        lease.task.causation_id = message.extras.causing_task_id();
        if let Some(created) = message.created {
            lease.task.created = created;
        }
        Ok((lease, message.extras))
    }
}
