//! What the scripts answer, read: leases and records.

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value, from_redis_value};

use super::message::{EntryMessage, MessageExtras, parse_credentials};
use crate::store::{Lease, TopicQueue};
use crate::task::{Task, TaskId, TaskOwner, UnixMs};

/// A lease as `lease_row` in the scripts answers it.
pub(super) struct ScriptLeaseRow {
    /// The position of its queue in the call, from 1.
    pub(super) queue_position: usize,
    /// The stream entry's id.
    pub(super) entry_id: String,
    /// Its `data`; none where it has none.
    pub(super) data: Option<Bytes>,
    /// The task's id; empty where the entry is no task.
    pub(super) task_id: String,
    /// Which attempt it is.
    pub(super) attempt: u32,
    /// Which lease it is.
    pub(super) lease_number: u64,
    record: PackedRecord,
}

/// What a packed record says that a lease needs.
#[derive(Default)]
struct PackedRecord {
    created: Option<u64>,
    retries: Option<u32>,
    owner: Option<String>,
    route: Option<String>,
    epoch: Option<u64>,
    client_group: Option<u8>,
    credentials_json: Option<String>,
}

impl PackedRecord {
    /// Reads one as `prelude.lua` describes it.
    fn parse(packed: &str) -> Self {
        let mut lines = packed.splitn(5, '\n');
        let mut head = lines.next().unwrap_or_default().split(' ').skip(2);
        let mut number = || head.next().and_then(|number| number.parse::<u64>().ok());
        let (created, retries) =
            (number(), number().and_then(|retries| u32::try_from(retries).ok()));
        let mut line = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        let (owner, route, epoch, credentials_json) = (line(), line(), line(), line());
        let mut epoch = epoch.as_deref().unwrap_or_default().split('.');
        let (epoch, clients) = (epoch.next(), epoch.next());
        let (epoch, client_group) =
            (epoch.and_then(|text| text.parse().ok()), clients.and_then(|text| text.parse().ok()));
        Self { created, retries, owner, route, epoch, client_group, credentials_json }
    }
}

impl FromRedisValue for ScriptLeaseRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            queue_position: from_redis_value(next())?,
            entry_id: from_redis_value(next())?,
            data: from_redis_value(next())?,
            task_id: from_redis_value(next())?,
            attempt: from_redis_value(next())?,
            lease_number: from_redis_value(next())?,
            record: PackedRecord::parse(&from_redis_value::<String>(next())?),
        })
    }
}

impl ScriptLeaseRow {
    /// A lease that can be settled, whatever its payload: for entries that nobody is to run.
    pub(super) fn to_bare_lease(&self, queue: &TopicQueue) -> Option<Lease> {
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
        let entry =
            LeaseHandle { entry_id: self.entry_id.clone(), lease_number: self.lease_number }
                .to_string();
        Some(Lease { task, attempt: self.attempt, queue: queue.clone(), store_handle: entry })
    }

    /// The lease, and what its message carries beside the task.
    ///
    /// # Errors
    /// What is wrong with the entry, in words.
    pub(super) fn parse_lease(&self, queue: &TopicQueue) -> Result<(Lease, MessageExtras), String> {
        let message = EntryMessage::parse(self.data.as_deref().ok_or("the entry has no data")?)?;
        let mut lease = self.to_bare_lease(queue).ok_or("data cannot be read as a message")?;
        let secret = self
            .record
            .credentials_json
            .as_deref()
            .map(|secret| parse_credentials(secret.as_bytes()))
            .transpose();
        let open = |stored: crate::store::wire::envelope::StoredRequest| {
            stored.into_request(secret?, &message.payload)
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

/// What [`Lease::entry`] is here: `<entry>/<turn>`.
pub(super) struct LeaseHandle {
    /// The stream entry's id.
    pub(super) entry_id: String,
    /// Which lease it is.
    pub(super) lease_number: u64,
}

impl LeaseHandle {
    /// Reads a lease's handle; one that is not ours fits no record.
    pub(super) fn from_lease(lease: &Lease) -> Self {
        Self::parse(&lease.store_handle)
    }

    /// Reads a [`Lease::entry`].
    pub(super) fn parse(text: &str) -> Self {
        let (entry, turn) = text.split_once('/').unwrap_or((text, "0"));
        Self { entry_id: entry.to_owned(), lease_number: turn.parse().unwrap_or(0) }
    }
}

impl std::fmt::Display for LeaseHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.entry_id, self.lease_number)
    }
}
