//! `durability: wait`: a new task is durable only when a replica has it too.
//!
//! `WAIT` blocks its connection and confirms what was written over that connection, so new tasks
//! have a connection of their own. `WAITAOF` (Redis 7.2, Valkey) also confirms writes to disk, and
//! is used where the server has it and keeps an append-only file. A task that is not confirmed in
//! time is stored all the same, and may or may not outlive its master: its enqueue fails with
//! [`StoreError::OutcomeUnknown`]. Until a write is confirmed again, further tasks are refused
//! before anything is written.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::Cmd;

use crate::store::redis::conn::error;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::time::as_millis_u64;
use crate::store::{StoreError, StoreRefusal};

/// The pause after a failed confirmation before the next is requested.
const CONFIRMATION_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The part of the timeout that a confirmation may take: less than what the script of the same call
/// left of it.
const CONFIRMATION_TIMEOUT_SHARE: f32 = 0.7;
/// The part of the timeout, as a divisor, that a repeated confirmation may take while a new task
/// waits for it.
const RECHECK_TIMEOUT_DIVISOR: u32 = 10;

/// A connection whose writes can be confirmed.
pub(crate) struct DurableWriter {
    /// The connection for new tasks.
    pub(crate) link: MasterLink,
    /// A key that is written where there is no other write to confirm.
    probe_key: String,
    timeout: Duration,
    state: Mutex<DurabilityState>,
}

#[derive(Default)]
struct DurabilityState {
    /// When the last confirmation failed; none where it succeeded.
    unconfirmed_since: Option<Instant>,
    /// The connection, by the time when it was made, whose server has no `WAITAOF`.
    connection_without_waitaof: Option<Instant>,
    /// The connection, by the time when it was made, of the last write, whose confirmation can be
    /// requested again.
    last_write_connection: Option<Instant>,
}

impl DurableWriter {
    /// A writer over `link`, whose calls may take `timeout`.
    pub(crate) fn new(link: MasterLink, probe_key: String, timeout: Duration) -> Self {
        Self { link, probe_key, timeout, state: Mutex::default() }
    }

    /// Refuses a new task while writes are not confirmed, before it is written.
    pub(crate) async fn refuse_if_unconfirmed(&self) -> Result<(), StoreError> {
        let Some(since) = self.with_state(|state| state.unconfirmed_since) else { return Ok(()) };
        // the caller waits for this confirmation, so it gets a short time
        if since.elapsed() >= CONFIRMATION_RETRY_INTERVAL {
            let connection =
                self.link.current_connection().await.map(|(_, connected_at)| connected_at);
            // the last write went over this connection: request its confirmation again, since
            // another write would be confirmed no sooner
            let confirmed = if connection.is_some()
                && self.with_state(|state| state.last_write_connection) == connection
            {
                self.request_confirmation(self.timeout / RECHECK_TIMEOUT_DIVISOR).await?
            } else {
                self.probe_confirmation(self.timeout / RECHECK_TIMEOUT_DIVISOR).await?
            };
            if confirmed {
                return Ok(());
            }
        }
        Err(StoreRefusal::ReadOnly(unconfirmed_message(
            "what is written is confirmed by no replica",
        ))
        .into())
    }

    /// Waits until the earlier writes over the link are confirmed; `wrote` is whether the last
    /// call wrote anything.
    pub(crate) async fn await_confirmation(&self, wrote: bool) -> Result<(), StoreError> {
        let time_limit = self.timeout.mul_f32(CONFIRMATION_TIMEOUT_SHARE);
        let confirmed = if wrote {
            self.request_confirmation(time_limit).await?
        } else {
            self.probe_confirmation(time_limit).await?
        };
        if confirmed {
            return Ok(());
        }
        Err(StoreError::OutcomeUnknown(unconfirmed_message(&format!(
            "no replica confirmed the task within {time_limit:?}"
        ))))
    }

    /// Writes the probe key and requests its confirmation, which also confirms earlier writes of
    /// other connections, even closed ones.
    async fn probe_confirmation(&self, time_limit: Duration) -> Result<bool, StoreError> {
        self.link.send_command::<()>(redis::cmd("SET").arg(&self.probe_key).arg(1)).await?;
        self.request_confirmation(time_limit).await
    }

    async fn request_confirmation(&self, time_limit: Duration) -> Result<bool, StoreError> {
        let connection = self.link.current_connection().await.map(|(_, connected_at)| connected_at);
        self.with_state(|state| state.last_write_connection = connection);
        let on_disk = self.request_disk_confirmation(time_limit).await?;
        let confirmed = match on_disk {
            Some(confirmed) => confirmed,
            None => {
                self.link
                    .send_command::<u64>(redis::cmd("WAIT").arg(1).arg(as_millis_u64(time_limit)))
                    .await?
                    >= 1
            }
        };
        self.with_state(|state| state.unconfirmed_since = (!confirmed).then(Instant::now));
        Ok(confirmed)
    }

    /// Whether the master and a replica have the writes on disk; none where the server cannot say.
    async fn request_disk_confirmation(
        &self,
        time_limit: Duration,
    ) -> Result<Option<bool>, StoreError> {
        let connection = self.link.current_connection().await.map(|(_, connected_at)| connected_at);
        if connection.is_some()
            && self.with_state(|state| state.connection_without_waitaof) == connection
        {
            return Ok(None);
        }
        let mut command: Cmd = redis::cmd("WAITAOF");
        command.arg(1).arg(1).arg(as_millis_u64(time_limit));
        match self.link.send_command_raw::<(u64, u64)>(&command).await? {
            Ok((own, replicas)) => Ok(Some(own >= 1 && replicas >= 1)),
            Err(error) => {
                let text = error::format_redis_error(&error);
                // Redis has no codes for these two errors. An append-only file can be switched on
                // at any time, so the next confirmation tries again
                if text.contains("appendonly is disabled") {
                    return Ok(None);
                }
                if !text.contains("unknown command") {
                    return Err(error::from_call_error(&error));
                }
                self.with_state(|state| state.connection_without_waitaof = connection);
                Ok(None)
            }
        }
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut DurabilityState) -> T) -> T {
        change(&mut lock_unpoisoned(&self.state))
    }
}

fn unconfirmed_message(what: &str) -> String {
    format!(
        "{what}: connect one (with appendonly yes, where the master has WAITAOF), or set \
         store.durability to default"
    )
}
