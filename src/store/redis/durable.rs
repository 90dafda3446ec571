//! `durability: wait`: a new task is made durable only when a replica has it too.
//!
//! `WAIT` holds up the connection that it comes over and speaks of what was written over that, so new tasks have a
//! connection of their own. `WAITAOF` (Redis 7.2, Valkey) also speaks of disks, and is used where the server has it and
//! keeps an append-only file. A task that is not confirmed in time is there all the same, and may or may not outlive
//! its master: its enqueue is [`StoreError::Unknown`]. The next ones are refused, and nothing made of them, until what
//! is written is confirmed again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Cmd;

use super::link::Link;
use super::millis;
use crate::store::{Refusal, StoreError};

/// How long a confirmation is asked for again after one that did not come.
const PAUSE: Duration = Duration::from_millis(500);

/// A connection whose writes can be confirmed.
pub(super) struct Durable {
    pub(super) link: Link,
    /// A key that is written to where there is nothing else to confirm.
    mark: String,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When a confirmation last failed to come; none when the last one came.
    doubt: Option<Instant>,
    /// When the connection was made whose server knows no `WAITAOF`.
    memory_only: Option<Instant>,
    /// When the connection was made that the last write went over, whose confirmation can be asked for again.
    wrote: Option<Instant>,
}

impl Durable {
    /// Over `link`, whose calls may take `timeout`.
    pub(super) fn new(link: Link, mark: String, timeout: Duration) -> Self {
        Self { link, mark, timeout, state: Mutex::default() }
    }

    /// Refuses while nothing is confirmed: before anything is made.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        let Some(since) = self.with(|state| state.doubt) else { return Ok(()) };
        // one that is refused has waited for this one, so the wait is short
        if since.elapsed() >= PAUSE {
            let made = self.link.current().await.map(|(_, made)| made);
            // what went over this connection is asked for again: another write would be as late as the last
            let confirmed = if made.is_some() && self.with(|state| state.wrote) == made {
                self.ask(self.timeout / 10).await?
            } else {
                self.write_and_ask(self.timeout / 10).await?
            };
            if confirmed {
                return Ok(());
            }
        }
        Err(Refusal::ReadOnly(unconfirmed("what is written is confirmed by no replica")).into())
    }

    /// Waits until what was written over the link before is confirmed; `wrote` says whether the last call did write.
    pub(super) async fn confirm(&self, wrote: bool) -> Result<(), StoreError> {
        // a little less than what is left to the call, whose script is behind us
        let patience = self.timeout.mul_f32(0.7);
        let confirmed = if wrote { self.ask(patience).await? } else { self.write_and_ask(patience).await? };
        if confirmed {
            return Ok(());
        }
        Err(StoreError::Unknown(unconfirmed(&format!("no replica confirmed the task within {patience:?}"))))
    }

    /// What was written by another connection, which may have ended since, is confirmed together with a later write.
    async fn write_and_ask(&self, patience: Duration) -> Result<bool, StoreError> {
        self.link.call::<()>(redis::cmd("SET").arg(&self.mark).arg(1)).await?;
        self.ask(patience).await
    }

    async fn ask(&self, patience: Duration) -> Result<bool, StoreError> {
        let made = self.link.current().await.map(|(_, made)| made);
        self.with(|state| state.wrote = made);
        let disks = self.ask_disks(patience).await?;
        let confirmed = match disks {
            Some(confirmed) => confirmed,
            None => self.link.call::<u64>(redis::cmd("WAIT").arg(1).arg(millis(patience))).await? >= 1,
        };
        self.with(|state| state.doubt = (!confirmed).then(Instant::now));
        Ok(confirmed)
    }

    /// Whether the master's disk and a replica's have it; none where that cannot be asked.
    async fn ask_disks(&self, patience: Duration) -> Result<Option<bool>, StoreError> {
        let made = self.link.current().await.map(|(_, made)| made);
        if made.is_some() && self.with(|state| state.memory_only) == made {
            return Ok(None);
        }
        let mut command: Cmd = redis::cmd("WAITAOF");
        command.arg(1).arg(1).arg(millis(patience));
        match self.link.raw_call::<(u64, u64)>(&command).await? {
            Ok((own, replicas)) => Ok(Some(own >= 1 && replicas >= 1)),
            Err(error) => {
                let text = super::error::text(&error);
                // without an append-only file: that may be switched on at any time
                if text.contains("appendonly is disabled") {
                    return Ok(None);
                }
                if !text.contains("unknown command") {
                    return Err(super::error::of_call(&error));
                }
                self.with(|state| state.memory_only = made);
                Ok(None)
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn unconfirmed(what: &str) -> String {
    format!(
        "{what}: connect one (with appendonly yes, where the master has WAITAOF), or set store.durability to default"
    )
}
