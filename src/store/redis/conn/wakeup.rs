//! Connections that block until a stream has a new entry, so that a lease call that found nothing
//! returns as soon as there is something to lease.
//!
//! The blocking command is an `XREAD`, which consumes nothing: its reply only means that it is time
//! to lease again. Each caller blocks on a connection of its own, taken from a pool.

use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;
use crate::store::redis::conn::connection::RedisConnection;
use crate::store::redis::conn::error;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::time::as_millis_u64;

/// The longest pause after a blocking read that failed.
const FAILED_READ_PAUSE: Duration = Duration::from_millis(100);

/// A connection that one caller at a time blocks on.
struct WakeupConnection {
    connection: RedisConnection,
    /// The server's number for the connection, which `CLIENT UNBLOCK` takes.
    client_id: i64,
}

/// The wakeup connections to one master that no caller blocks on now.
#[derive(Default)]
pub(crate) struct WakeupPool(Mutex<Vec<WakeupConnection>>);

impl WakeupPool {
    /// Waits for `limit`, until one of `streams` has an entry after the id at the same position of
    /// `last_ids`, or until `cancelled`. Where no connection can be made, waits for `limit` or
    /// `cancelled` alone.
    pub(crate) async fn wait_for_entry(
        &self,
        link: &MasterLink,
        streams: &[String],
        last_ids: &[String],
        limit: Duration,
        cancelled: &CancellationToken,
    ) {
        let until = Instant::now() + limit;
        let idle = match self.pop_open() {
            Some(idle) => Some(idle),
            None => cancelled
                .run_until_cancelled(WakeupConnection::open(link))
                .await
                .and_then(Result::ok),
        };
        let Some(mut wakeup) = idle else {
            cancelled.run_until_cancelled(sleep_until(until)).await;
            return;
        };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(as_millis_u64(limit).max(1)).arg("STREAMS");
        read.arg(streams).arg(last_ids);
        let client_id = wakeup.client_id;
        let reply = {
            let query = wakeup.connection.send_query::<redis::Value>(&read);
            let mut reading = pin!(timeout(limit + link.timeout(), query));
            if let Some(reply) = cancelled.run_until_cancelled(&mut reading).await {
                reply
            } else {
                unblock_client(link, client_id).await;
                reading.await
            }
        };
        if let Ok(Ok(_)) = reply {
            lock_unpoisoned(&self.0).push(wakeup);
        } else {
            // the connection ended or is silent: the next lease call reports what is wrong
            let left = until.saturating_duration_since(Instant::now());
            sleep(left.min(FAILED_READ_PAUSE)).await;
        }
    }

    fn pop_open(&self) -> Option<WakeupConnection> {
        let mut idle = lock_unpoisoned(&self.0);
        idle.retain(|wakeup| !wakeup.connection.is_closed());
        idle.pop()
    }
}

impl WakeupConnection {
    async fn open(link: &MasterLink) -> Result<Self, StoreError> {
        let mut connection = link.open_connection().await?;
        let get_id = redis::cmd("CLIENT").arg("ID").take();
        let client_id = timeout(link.reply_timeout(), connection.send_query(&get_id))
            .await
            .map_err(|_| StoreError::OutcomeUnknown("no answer to CLIENT ID".into()))?
            .map_err(|error| error::from_call_error(&error))?;
        Ok(Self { connection, client_id })
    }
}

/// Ends the blocking read of another connection. Where the master has changed since that connection
/// was made, the read ends by itself.
async fn unblock_client(link: &MasterLink, client_id: i64) {
    let unblock = redis::cmd("CLIENT").arg("UNBLOCK").arg(client_id).take();
    if let Err(error) = link.send_command::<i64>(&unblock).await {
        tracing::debug!(%error, "a blocked read could not be ended");
    }
}
