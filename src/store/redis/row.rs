//! What the scripts answer, read: leases and records.

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value, from_redis_value};

use super::message::{Message, Rest, read_credentials};
use crate::store::{Lease, Queue};
use crate::task::{Owner, Task, TaskId, UnixMs};

/// A lease as `lease_row` in the scripts answers it.
pub(super) struct Row {
    /// The position of its queue in the call, from 1.
    pub(super) queue: usize,
    /// The stream entry's id.
    pub(super) entry: String,
    /// Its `data`; none where it has none.
    pub(super) data: Option<Bytes>,
    /// The task's id; empty where the entry is no task.
    pub(super) id: String,
    /// Which attempt it is.
    pub(super) attempt: u32,
    /// Which lease it is.
    pub(super) turn: u64,
    known: Known,
}

/// What a packed record says that a lease needs.
#[derive(Default)]
struct Known {
    created: Option<u64>,
    retries: Option<u32>,
    owner: Option<String>,
    route: Option<String>,
    epoch: Option<u64>,
    clients: Option<u8>,
    secret: Option<String>,
}

impl Known {
    /// Reads one as `prelude.lua` describes it.
    fn read(packed: &str) -> Self {
        let mut lines = packed.splitn(5, '\n');
        let mut head = lines.next().unwrap_or_default().split(' ').skip(2);
        let mut number = || head.next().and_then(|number| number.parse::<u64>().ok());
        let (created, retries) = (number(), number().and_then(|retries| u32::try_from(retries).ok()));
        let mut line = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        let (owner, route, epoch, secret) = (line(), line(), line(), line());
        let mut epoch = epoch.as_deref().unwrap_or_default().split('.');
        let (epoch, clients) = (epoch.next(), epoch.next());
        let (epoch, clients) = (epoch.and_then(|text| text.parse().ok()), clients.and_then(|text| text.parse().ok()));
        Self { created, retries, owner, route, epoch, clients, secret }
    }
}

impl FromRedisValue for Row {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            queue: from_redis_value(next())?,
            entry: from_redis_value(next())?,
            data: from_redis_value(next())?,
            id: from_redis_value(next())?,
            attempt: from_redis_value(next())?,
            turn: from_redis_value(next())?,
            known: Known::read(&from_redis_value::<String>(next())?),
        })
    }
}

impl Row {
    /// A lease that can be settled, whatever its payload: for entries that nobody is to run.
    pub(super) fn bare(&self, queue: &Queue) -> Option<Lease> {
        let (id, created) = (TaskId::parse(&self.id).ok()?, UnixMs(self.known.created.unwrap_or_default()));
        let task = Task {
            route: self.known.route.clone(),
            epoch: self.known.epoch,
            clients: self.known.clients,
            owner: self.known.owner.as_deref().map(Owner::from_digest),
            retries: self.known.retries.unwrap_or(queue.retries),
            ..Task::new(id, queue.topic.clone(), "null", created)
        };
        let entry = Handle { entry: self.entry.clone(), turn: self.turn }.to_string();
        Some(Lease { task, attempt: self.attempt, queue: queue.clone(), entry })
    }

    /// The lease, and what its message carries beside the task.
    ///
    /// # Errors
    /// What is wrong with the entry, in words.
    pub(super) fn open(&self, queue: &Queue) -> Result<(Lease, Rest), String> {
        let message = Message::read(self.data.as_deref().ok_or("the entry has no data")?)?;
        let mut lease = self.bare(queue).ok_or("data cannot be read as a message")?;
        let secret = self.known.secret.as_deref().map(|secret| read_credentials(secret.as_bytes())).transpose();
        let open = |stored: crate::store::envelope::StoredRequest| stored.open(secret?, &message.payload);
        lease.task.request = message.request.map(open).transpose().map_err(|error| error.to_string())?;
        lease.task.payload = message.payload;
        lease.task.correlation_id = message.correlation_id;
        lease.task.webhook = message.rest.webhook();
        lease.task.reply_to = message.rest.reply_to();
        lease.task.causation_id = message.rest.causation_id();
        if let Some(created) = message.created {
            lease.task.created = created;
        }
        Ok((lease, message.rest))
    }
}

/// What [`Lease::entry`] is here: `<entry>/<turn>`.
pub(super) struct Handle {
    /// The stream entry's id.
    pub(super) entry: String,
    /// Which lease it is.
    pub(super) turn: u64,
}

impl Handle {
    /// Reads a lease's handle; one that is not ours fits no record.
    pub(super) fn of(lease: &Lease) -> Self {
        Self::read(&lease.entry)
    }

    /// Reads a [`Lease::entry`].
    pub(super) fn read(text: &str) -> Self {
        let (entry, turn) = text.split_once('/').unwrap_or((text, "0"));
        Self { entry: entry.to_owned(), turn: turn.parse().unwrap_or(0) }
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.entry, self.turn)
    }
}
