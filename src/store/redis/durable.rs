//! `durability: wait`: a new task is made durable only when a replica has it too.
//!
//! `WAIT` holds up the connection that it comes over and speaks of what was written over that, so
//! new tasks have a connection of their own. `WAITAOF` (Redis 7.2, Valkey) also speaks of disks,
//! and is used where the server has it and keeps an append-only file. A task that is not confirmed
//! in time is there all the same, and may or may not outlive its master: its enqueue is
//! [`StoreError::Unknown`]. The next ones are refused, and nothing made of them, until what
//! is written is confirmed again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Cmd;

use super::as_millis_u64;
use super::link::MasterLink;
use crate::store::{StoreError, StoreRefusal};

/// How long a confirmation is asked for again after one that did not come.
const CONFIRMATION_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A connection whose writes can be confirmed.
pub(super) struct DurableWriter {
    pub(super) link: MasterLink,
    /// A key that is written to where there is nothing else to confirm.
    probe_key: String,
    timeout: Duration,
    state: Mutex<DurabilityState>,
}

#[derive(Default)]
struct DurabilityState {
    /// When a confirmation last failed to come; none when the last one came.
    unconfirmed_since: Option<Instant>,
    /// When the connection was made whose server knows no `WAITAOF`.
    connection_without_waitaof: Option<Instant>,
    /// When the connection was made that the last write went over, whose confirmation can be asked
    /// for again.
    last_write_connection: Option<Instant>,
}

impl DurableWriter {
    /// Over `link`, whose calls may take `timeout`.
    pub(super) fn new(link: MasterLink, probe_key: String, timeout: Duration) -> Self {
        Self { link, probe_key, timeout, state: Mutex::default() }
    }

    /// Refuses while nothing is confirmed: before anything is made.
    pub(super) async fn refuse_if_unconfirmed(&self) -> Result<(), StoreError> {
        let Some(since) = self.with_state(|state| state.unconfirmed_since) else { return Ok(()) };
        // one that is refused has waited for this one, so the wait is short
        if since.elapsed() >= CONFIRMATION_RETRY_INTERVAL {
            let made = self.link.current_connection().await.map(|(_, made)| made);
            // what went over this connection is asked for again: another write would be as late as
            // the last
            let confirmed =
                if made.is_some() && self.with_state(|state| state.last_write_connection) == made {
                    self.request_confirmation(self.timeout / 10).await?
                } else {
                    self.probe_confirmation(self.timeout / 10).await?
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

    /// Waits until what was written over the link before is confirmed; `wrote` says whether the
    /// last call did write.
    pub(super) async fn await_confirmation(&self, wrote: bool) -> Result<(), StoreError> {
        // a little less than what is left to the call, whose script is behind us
        let patience = self.timeout.mul_f32(0.7);
        let confirmed = if wrote {
            self.request_confirmation(patience).await?
        } else {
            self.probe_confirmation(patience).await?
        };
        if confirmed {
            return Ok(());
        }
        Err(StoreError::OutcomeUnknown(unconfirmed_message(&format!(
            "no replica confirmed the task within {patience:?}"
        ))))
    }

    /// What was written by another connection, which may have ended since, is confirmed together
    /// with a later write.
    async fn probe_confirmation(&self, patience: Duration) -> Result<bool, StoreError> {
        self.link.send_command::<()>(redis::cmd("SET").arg(&self.probe_key).arg(1)).await?;
        self.request_confirmation(patience).await
    }

    async fn request_confirmation(&self, patience: Duration) -> Result<bool, StoreError> {
        let made = self.link.current_connection().await.map(|(_, made)| made);
        self.with_state(|state| state.last_write_connection = made);
        let disks = self.request_disk_confirmation(patience).await?;
        let confirmed = match disks {
            Some(confirmed) => confirmed,
            None => {
                self.link
                    .send_command::<u64>(redis::cmd("WAIT").arg(1).arg(as_millis_u64(patience)))
                    .await?
                    >= 1
            }
        };
        self.with_state(|state| state.unconfirmed_since = (!confirmed).then(Instant::now));
        Ok(confirmed)
    }

    /// Whether the master's disk and a replica's have it; none where that cannot be asked.
    async fn request_disk_confirmation(
        &self,
        patience: Duration,
    ) -> Result<Option<bool>, StoreError> {
        let made = self.link.current_connection().await.map(|(_, made)| made);
        if made.is_some() && self.with_state(|state| state.connection_without_waitaof) == made {
            return Ok(None);
        }
        let mut command: Cmd = redis::cmd("WAITAOF");
        command.arg(1).arg(1).arg(as_millis_u64(patience));
        match self.link.send_command_raw::<(u64, u64)>(&command).await? {
            Ok((own, replicas)) => Ok(Some(own >= 1 && replicas >= 1)),
            Err(error) => {
                let text = super::error::format_redis_error(&error);
                // without an append-only file: that may be switched on at any time
                if text.contains("appendonly is disabled") {
                    return Ok(None);
                }
                if !text.contains("unknown command") {
                    return Err(super::error::from_call_error(&error));
                }
                self.with_state(|state| state.connection_without_waitaof = made);
                Ok(None)
            }
        }
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut DurabilityState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn unconfirmed_message(what: &str) -> String {
    format!(
        "{what}: connect one (with appendonly yes, where the master has WAITAOF), or set store.durability to default"
    )
}
