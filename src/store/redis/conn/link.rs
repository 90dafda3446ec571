//! The link to one master: a shared connection, made when it is first needed and made again when it
//! is lost, with at most one attempt at a time.
//!
//! After a failed connect the next attempt waits (with jitter, at most a second), and calls in
//! between fail at once with the reason, so that an outage costs no caller a timeout. A connection
//! that ended, left a call unanswered or leads to a server that is no longer the master is given
//! up, and the next one goes to the server that is the master then ([`MasterLocator`]).
//! Connections live on the runtime of [`MasterLink::use_runtime`], whatever runtime calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::PubSub;
use redis::{Cmd, FromRedisValue};
use tokio::runtime::Handle;
use tokio::time::{timeout, timeout_at};

use crate::backoff::BackoffPolicy;
use crate::config::Secret;
use crate::store::StoreError;
use crate::store::redis::conn::connection::{
    RedisConnection, connect_timeout_error, connect_to_master,
};
use crate::store::redis::conn::partition_mark::PartitionCountMark;
use crate::store::redis::conn::topology::{MasterDiscovery, MasterLocator};
use crate::store::redis::conn::{error, version};
use crate::store::redis::lock::lock_unpoisoned;

/// The delays between failed attempts to connect, before jitter.
const CONNECT_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));
/// A younger connection is not given up when its server is not the master: another attempt would
/// find the same server.
const MIN_AGE_TO_RESOLVE_AGAIN: Duration = Duration::from_millis(250);
/// The most extra time for a reply to a large write.
const MAX_EXTRA_REPLY_TIME: Duration = Duration::from_mins(2);
/// The part of the configured timeout that the server has for its reply: less than the whole, so
/// that a call ends here rather than being dropped by a caller with the same deadline.
const REPLY_TIMEOUT_SHARE: f32 = 0.9;

/// The way to one master: a shared connection for calls, and separate connections for callers that
/// block.
pub(crate) struct MasterLink {
    master: Arc<MasterLocator>,
    timeout: Duration,
    runtime: Mutex<Option<Handle>>,
    state: tokio::sync::Mutex<LinkState>,
    /// Raised when another server turned out to be the master: every connection of an earlier
    /// generation counts as closed.
    generation: Arc<AtomicU64>,
    /// Checked on every new shared connection to a cluster.
    partition_count_mark: Option<PartitionCountMark>,
    /// How much longer than [`Self::reply_timeout`] a reply may take: large writes need time, and
    /// their callers limit it. A call that is dropped meanwhile gives the connection up.
    extra_reply_time: Duration,
}

/// Gives a connection up unless its call has ended.
struct AbandonedCallGuard(Option<RedisConnection>);

#[derive(Default)]
struct LinkState {
    connection: Option<RedisConnection>,
    last_failure: Option<ConnectFailure>,
}

/// The last attempt to connect, where it failed.
struct ConnectFailure {
    reason: StoreError,
    backoff: Duration,
    retry_at: Instant,
}

impl Drop for AbandonedCallGuard {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.mark_closed();
        }
    }
}

// === impl MasterLink ===

impl MasterLink {
    /// A link to the master that `url` and `discovery` name, whose calls may take `timeout`. Makes
    /// no connection yet.
    pub(crate) fn new(
        url: &Secret,
        discovery: MasterDiscovery,
        timeout: Duration,
        mark: Option<PartitionCountMark>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            master: Arc::new(MasterLocator::new(url, discovery)?),
            timeout,
            runtime: Mutex::default(),
            state: tokio::sync::Mutex::default(),
            generation: Arc::default(),
            partition_count_mark: mark,
            extra_reply_time: Duration::ZERO,
        })
    }

    /// The same link for large writes, whose callers limit how long they take.
    pub(crate) fn for_large_writes(self) -> Self {
        Self { extra_reply_time: MAX_EXTRA_REPLY_TIME, ..self }
    }

    /// Makes connections on `runtime` from now on; before this call they live on the caller's.
    pub(crate) async fn use_runtime(&self, runtime: Handle) {
        *lock_unpoisoned(&self.runtime) = Some(runtime);
        self.state.lock().await.connection = None;
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long the server has for one reply.
    pub(crate) fn reply_timeout(&self) -> Duration {
        self.timeout.mul_f32(REPLY_TIMEOUT_SHARE)
    }

    /// Sends one command over the shared connection.
    pub(crate) async fn send_command<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        match self.send_command_raw(command).await? {
            Ok(value) => Ok(value),
            Err(error) => Err(error::from_call_error(&error)),
        }
    }

    /// As [`Self::send_command`], with the server's errors unchanged. After an error that says that
    /// another server is the master (nothing was executed), the command is sent to that one, once.
    pub(crate) async fn send_command_raw<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Result<T, redis::RedisError>, StoreError> {
        let deadline = tokio::time::Instant::now() + self.reply_timeout() + self.extra_reply_time;
        let mut followed = false;
        loop {
            let mut connection = self.shared_connection().await?;
            let large = Some(&connection).filter(|_| !self.extra_reply_time.is_zero());
            let mut guard = AbandonedCallGuard(large.cloned());
            let answer = timeout_at(deadline, connection.send_query(command)).await;
            guard.0 = None;
            let Ok(answer) = answer else {
                connection.mark_closed();
                return Err(StoreError::OutcomeUnknown(format!(
                    "no answer within {:?}",
                    self.timeout
                )));
            };
            let is_given_up = answer.as_ref().is_err_and(error::is_wrong_server)
                && self.abandon_connection(&connection);
            if followed || !is_given_up {
                return Ok(answer);
            }
            followed = true;
        }
    }

    /// Gives up a connection that leads to the wrong server; returns whether it did. One that was
    /// made just now is kept, since no better server is known yet.
    fn abandon_connection(&self, connection: &RedisConnection) -> bool {
        let is_old_enough = connection.connected_at.elapsed() >= MIN_AGE_TO_RESOLVE_AGAIN;
        if is_old_enough && !connection.is_closed() {
            self.generation.fetch_add(1, Ordering::AcqRel);
            tracing::info!("the redis server is no longer the master: looking for the new master");
        }
        is_old_enough
    }

    /// Asks the sentinels whether the shared connection still leads to the master. In a failover by
    /// hand the old master goes on taking writes for some seconds, which are lost when it becomes a
    /// replica of the new one.
    pub(crate) async fn recheck_master(&self) {
        let Some(connection) = self.state.lock().await.connection.clone() else { return };
        if !self.master.requires_role_check() || connection.is_closed() {
            return;
        }
        let (master, deadline) = (self.master.clone(), self.timeout);
        let find = async move {
            timeout(deadline, master.locate_master(deadline))
                .await
                .unwrap_or_else(|_| Err(connect_timeout_error()))
        };
        if let Ok(client) = self.spawn_on_runtime(Box::pin(find)).await
            && client.get_connection_info().addr().to_string() != *connection.server
        {
            self.abandon_connection(&connection);
        }
    }

    /// The server of the shared connection and the time when it was made, where one is open.
    pub(crate) async fn current_connection(&self) -> Option<(Arc<str>, Instant)> {
        let current = self.state.lock().await;
        let connection =
            current.connection.as_ref().filter(|connection| !connection.is_closed())?;
        Some((connection.server.clone(), connection.connected_at))
    }

    /// Opens a connection that the link does not share.
    pub(crate) async fn open_connection(&self) -> Result<RedisConnection, StoreError> {
        let (master, deadline) = (self.master.clone(), self.reply_timeout());
        let generation = (self.generation.clone(), self.generation.load(Ordering::Acquire));
        let connect = async move {
            // the driver's own timeout does not cover the handshake
            let connected =
                timeout(deadline, connect_to_master(&master, deadline, generation)).await;
            let connected = connected.unwrap_or_else(|_| Err(connect_timeout_error()));
            if connected.is_err() {
                master.deprioritize_first_host();
            }
            connected
        };
        self.spawn_on_runtime(Box::pin(connect)).await
    }

    /// A subscription to `channel`.
    pub(crate) async fn subscribe(&self, channel: String) -> Result<PubSub, StoreError> {
        let (master, deadline) = (self.master.clone(), self.timeout);
        let subscribe = async move {
            let client = master.locate_master(deadline).await?;
            let subscribed = async {
                let mut subscriber = client.get_async_pubsub().await?;
                subscriber.subscribe(channel).await?;
                Ok(subscriber)
            };
            subscribed.await.map_err(|error| {
                error::from_connect_error(&error, client.get_connection_info().addr())
            })
        };
        let in_time = async move {
            timeout(deadline, subscribe).await.unwrap_or_else(|_| Err(connect_timeout_error()))
        };
        self.spawn_on_runtime(Box::pin(in_time)).await
    }

    async fn shared_connection(&self) -> Result<RedisConnection, StoreError> {
        let mut current = self.state.lock().await;
        if let Some(connection) =
            current.connection.as_ref().filter(|connection| !connection.is_closed())
        {
            return Ok(connection.clone());
        }
        if let Some(failed) =
            current.last_failure.as_ref().filter(|failed| Instant::now() < failed.retry_at)
        {
            return Err(failed.reason.clone());
        }
        match self.open_checked_connection().await {
            Ok(connection) => {
                *current = LinkState { connection: Some(connection.clone()), last_failure: None };
                Ok(connection)
            }
            Err(reason) => {
                let pause =
                    current.last_failure.take().map_or(CONNECT_BACKOFF.first_delay(), |failed| {
                        CONNECT_BACKOFF.next_delay(failed.backoff)
                    });
                let again = Instant::now() + pause.mul_f32(rand::random_range(0.5..1.0));
                *current = LinkState {
                    connection: None,
                    last_failure: Some(ConnectFailure {
                        reason: reason.clone(),
                        backoff: pause,
                        retry_at: again,
                    }),
                };
                Err(reason)
            }
        }
    }

    /// A new connection to a server of a supported version, whose data are divided into as many
    /// partitions as are configured.
    async fn open_checked_connection(&self) -> Result<RedisConnection, StoreError> {
        let mut connection = self.open_connection().await?;
        let server = connection.server.clone();
        let checked = version::check_server_version(&mut connection, &server);
        timeout(self.reply_timeout(), checked).await.map_err(|_| connect_timeout_error())??;
        if let Some(mark) = &self.partition_count_mark {
            let checked = mark.check(&mut connection);
            timeout(self.reply_timeout(), checked).await.map_err(|_| connect_timeout_error())??;
        }
        Ok(connection)
    }

    /// Runs `connect` on the runtime that the connection's driver is to live on.
    async fn spawn_on_runtime<T: Send + 'static>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = lock_unpoisoned(&self.runtime).clone().unwrap_or_else(Handle::current);
        runtime
            .spawn(connect)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unreachable("the store is shut down".into())))
    }
}
