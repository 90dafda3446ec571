//! One connection to a Redis master, and whether it may still be used.
//!
//! The driver reports the end of a connection by a push message, which needs the protocol RESP3.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, PushInfo, PushKind};

use crate::store::StoreError;
use crate::store::redis::conn::error;
use crate::store::redis::conn::topology::MasterLocator;

/// A connection, and whether it may still be used. Clones share both.
#[derive(Clone)]
pub(crate) struct RedisConnection {
    inner: MultiplexedConnection,
    closed: Arc<AtomicBool>,
    /// When it was made, which also tells two connections apart.
    pub(crate) connected_at: Instant,
    /// `host:port`.
    pub(crate) server: Arc<str>,
    /// The link's generation, and its value when this connection was made.
    generation: (Arc<AtomicU64>, u64),
}

/// Connects to the master that `master` finds, within `deadline`. The connection counts as
/// closed once the link's generation is no longer the one given here.
pub(crate) async fn connect_to_master(
    master: &MasterLocator,
    deadline: Duration,
    generation: (Arc<AtomicU64>, u64),
) -> Result<RedisConnection, StoreError> {
    let client = master.locate_master(deadline).await?;
    let closed = Arc::new(AtomicBool::new(false));
    let closed_by_push = closed.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline))
        .set_response_timeout(None) // set per call: a blocking read takes longer than the others
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed_by_push.store(true, Ordering::Release);
            }
            Ok::<(), ()>(())
        });
    let refused = |error| error::from_connect_error(&error, client.get_connection_info().addr());
    let inner =
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(refused)?;
    let server = client.get_connection_info().addr().to_string().into();
    let mut connection =
        RedisConnection { inner, closed, connected_at: Instant::now(), server, generation };
    if master.requires_role_check() {
        check_is_master(&mut connection, &client).await?;
    }
    Ok(connection)
}

/// Refuses a server that is not a master: the one that sentinels name may not be one yet, or no
/// longer.
async fn check_is_master(
    connection: &mut RedisConnection,
    client: &Client,
) -> Result<(), StoreError> {
    let server = client.get_connection_info().addr();
    let role: Vec<redis::Value> = connection
        .send_query(&redis::cmd("ROLE"))
        .await
        .map_err(|error| error::from_connect_error(&error, server))?;
    match role.first().cloned().map(redis::from_redis_value::<String>) {
        Some(Ok(role)) if role == "master" => Ok(()),
        _ => Err(StoreError::Unreachable(format!(
            "the sentinels name {server}, which is not a master"
        ))),
    }
}

/// The error of a connect that took too long; nothing was sent.
pub(crate) fn connect_timeout_error() -> StoreError {
    StoreError::Unreachable("no connection was made in time".into())
}

impl RedisConnection {
    /// Sends a command and waits for its reply without a time limit.
    pub(crate) async fn send_query<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
    ) -> redis::RedisResult<T> {
        let answer = command.query_async(&mut self.inner).await;
        if answer.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            self.mark_closed();
        }
        answer
    }

    /// Whether it must not be used any more: it ended, or belongs to an earlier generation.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
            || self.generation.0.load(Ordering::Acquire) != self.generation.1
    }

    /// Gives the connection up; the link opens another for the next call.
    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
