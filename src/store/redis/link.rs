//! The connection to Redis: made when first needed, made anew when it is lost, at most one attempt
//! at a time.
//!
//! A failed connect is not repeated for a moment (jittered, at most a second): calls in between
//! fail at once with its reason, so an outage costs nobody a timeout, and the way back is short. A
//! connection that ended, left a call unanswered or leads to a server that is not the master any
//! more is given up, and the next one goes to where the master is then ([`MasterLocator`]). The
//! driver says that one ended by a push message, for which the protocol is RESP3. Connections live
//! on the runtime of [`MasterLink::use_runtime`], whatever runtime calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, PushInfo, PushKind};
use tokio::runtime::Handle;
use tokio::time::{timeout, timeout_at};

use super::resolve::{MasterDiscovery, MasterLocator};
use super::{checks, error};
use crate::config::Secret;
use crate::store::StoreError;

/// The longest pause between two connects.
const MAX_CONNECT_BACKOFF: Duration = Duration::from_secs(1);
const FIRST_CONNECT_BACKOFF: Duration = Duration::from_millis(50);
/// How old a connection must be for another to lead elsewhere.
const MIN_AGE_TO_RESOLVE_AGAIN: Duration = Duration::from_millis(250);

/// One master, as one shared connection and as many of its own as callers ask for.
pub(super) struct MasterLink {
    master: Arc<MasterLocator>,
    timeout: Duration,
    runtime: Mutex<Option<Handle>>,
    state: tokio::sync::Mutex<LinkState>,
    /// Raised when the master turned out to be elsewhere: every older connection is over.
    generation: Arc<AtomicU64>,
    /// What a key must say, and is set to where it is not there.
    partition_count_mark: Option<PartitionCountMark>,
}

/// How many partitions a cluster's data has, written once beside it.
#[derive(Clone)]
pub(super) struct PartitionCountMark {
    /// Where it stands.
    pub(super) key: String,
    /// What is configured.
    pub(super) partitions: usize,
}

#[derive(Default)]
struct LinkState {
    connection: Option<RedisConnection>,
    last_failure: Option<ConnectFailure>,
}

/// The last connect, when it failed.
struct ConnectFailure {
    reason: StoreError,
    backoff: Duration,
    retry_at: Instant,
}

/// A connection and whether it is still good.
#[derive(Clone)]
pub(super) struct RedisConnection {
    inner: MultiplexedConnection,
    closed: Arc<AtomicBool>,
    connected_at: Instant,
    /// `host:port`.
    server: Arc<str>,
    /// The link's epoch, and its value when this was made.
    generation: (Arc<AtomicU64>, u64),
}

/// A connection that one caller at a time blocks on.
pub(super) struct WakeupConnection {
    /// The connection.
    pub(super) connection: RedisConnection,
    /// The server's number for it.
    pub(super) client_id: i64,
}

// === impl Link ===

impl MasterLink {
    /// A link to the master that `url` and `by` name, whose calls may take `timeout`. Connects
    /// nowhere yet.
    pub(super) fn new(
        url: &Secret,
        by: MasterDiscovery,
        timeout: Duration,
        mark: Option<PartitionCountMark>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            master: Arc::new(MasterLocator::new(url, by)?),
            timeout,
            runtime: Mutex::default(),
            state: tokio::sync::Mutex::default(),
            generation: Arc::default(),
            partition_count_mark: mark,
        })
    }

    /// Makes connections on `runtime` from now on; until then they are made on the caller's.
    pub(super) async fn use_runtime(&self, runtime: Handle) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        self.state.lock().await.connection = None;
    }

    /// Sends one command over the shared connection. The answer has a little less than the timeout,
    /// so that the call ends here rather than being dropped by a caller with the same deadline.
    pub(super) async fn send_command<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        match self.send_command_raw(command).await? {
            Ok(value) => Ok(value),
            Err(error) => Err(error::from_call_error(&error)),
        }
    }

    /// [`Self::call`], with the server's errors as they came. One that says that the master is
    /// elsewhere, where nothing was executed, is followed there once.
    pub(super) async fn send_command_raw<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Result<T, redis::RedisError>, StoreError> {
        let deadline = tokio::time::Instant::now() + self.timeout.mul_f32(0.9);
        let mut followed = false;
        loop {
            let mut connection = self.shared_connection().await?;
            let Ok(answer) = timeout_at(deadline, connection.send_query(command)).await else {
                connection.mark_closed();
                return Err(StoreError::OutcomeUnknown(format!(
                    "no answer within {:?}",
                    self.timeout
                )));
            };
            let elsewhere = answer.as_ref().is_err_and(error::is_wrong_server)
                && self.abandon_connection(&connection);
            if followed || !elsewhere {
                return Ok(answer);
            }
            followed = true;
        }
    }

    /// Gives up what leads to the wrong server, unless it was found just now: then it is not known
    /// any better yet.
    fn abandon_connection(&self, connection: &RedisConnection) -> bool {
        let leaves = connection.connected_at.elapsed() >= MIN_AGE_TO_RESOLVE_AGAIN;
        if leaves && !connection.is_closed() {
            self.generation.fetch_add(1, Ordering::AcqRel);
            tracing::info!(
                "the redis server is not the master any more: looking for where it is now"
            );
        }
        leaves
    }

    /// Asks the sentinels whether the master is still where the shared connection leads. In a
    /// failover by hand the old master goes on taking writes for some seconds, which are lost
    /// when it follows the new one.
    pub(super) async fn recheck_master(&self) {
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

    /// Where the shared connection leads, and when it was made; none where there is none.
    pub(super) async fn current_connection(&self) -> Option<(Arc<str>, Instant)> {
        let current = self.state.lock().await;
        let connection =
            current.connection.as_ref().filter(|connection| !connection.is_closed())?;
        Some((connection.server.clone(), connection.connected_at))
    }

    /// A connection for one caller, who may block on it.
    pub(super) async fn open_wakeup_connection(&self) -> Result<WakeupConnection, StoreError> {
        let mut connection = self.open_connection().await?;
        let number = redis::cmd("CLIENT").arg("ID").take();
        let number = timeout(self.timeout.mul_f32(0.9), connection.send_query(&number)).await;
        let number =
            number.map_err(|_| StoreError::OutcomeUnknown("no answer to CLIENT ID".into()))?;
        Ok(WakeupConnection {
            connection,
            client_id: number.map_err(|error| error::from_call_error(&error))?,
        })
    }

    /// Ends the wait on a bell. Where the server is not its own any more, the wait ends by itself.
    pub(super) async fn unblock_client(&self, number: i64) {
        if let Err(error) =
            self.send_command::<i64>(redis::cmd("CLIENT").arg("UNBLOCK").arg(number)).await
        {
            tracing::debug!(%error, "a blocked read could not be ended");
        }
    }

    async fn open_connection(&self) -> Result<RedisConnection, StoreError> {
        let (master, deadline) = (self.master.clone(), self.timeout.mul_f32(0.9));
        let epoch = (self.generation.clone(), self.generation.load(Ordering::Acquire));
        let connect = async move {
            // the driver's own timeout does not cover the handshake
            let connected = timeout(deadline, connect_to_master(&master, deadline, epoch)).await;
            let connected = connected.unwrap_or_else(|_| Err(connect_timeout_error()));
            if connected.is_err() {
                master.deprioritize_first_host();
            }
            connected
        };
        self.spawn_on_runtime(Box::pin(connect)).await
    }

    /// A subscription to `channel`.
    pub(super) async fn subscribe(&self, channel: String) -> Result<PubSub, StoreError> {
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
                let pause = current.last_failure.take().map_or(FIRST_CONNECT_BACKOFF, |failed| {
                    MAX_CONNECT_BACKOFF.min(failed.backoff * 2)
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

    /// A new connection to a server whose data are divided as is configured.
    async fn open_checked_connection(&self) -> Result<RedisConnection, StoreError> {
        let mut connection = self.open_connection().await?;
        let server = connection.server.clone();
        let checked = timeout(
            self.timeout.mul_f32(0.9),
            checks::check_server_version(&mut connection, &server),
        )
        .await;
        checked.map_err(|_| connect_timeout_error())??;
        let Some(PartitionCountMark { key, partitions }) = &self.partition_count_mark else {
            return Ok(connection);
        };
        let mut set = redis::cmd("SET");
        set.arg(key).arg(partitions).arg("NX").arg("GET");
        let answer =
            timeout(self.timeout.mul_f32(0.9), connection.send_query::<Option<usize>>(&set)).await;
        match answer
            .map_err(|_| connect_timeout_error())?
            .map_err(|error| error::from_call_error(&error))?
        {
            Some(found) if found != *partitions => Err(StoreError::InvalidSetup(format!(
                "the cluster's tasks are in {found} partitions, the configuration says {partitions}: set \
                 store.partitions to {found}, or finish all tasks and delete {key} and its like on every master"
            ))),
            _ => Ok(connection),
        }
    }

    /// Runs a connect where its driver is to live.
    async fn spawn_on_runtime<T: Send + 'static>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let home = self
            .runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_else(Handle::current);
        home.spawn(connect)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unreachable("the store is shut down".into())))
    }
}

async fn connect_to_master(
    master: &MasterLocator,
    deadline: Duration,
    epoch: (Arc<AtomicU64>, u64),
) -> Result<RedisConnection, StoreError> {
    let client = master.locate_master(deadline).await?;
    let over = Arc::new(AtomicBool::new(false));
    let flag = over.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline))
        .set_response_timeout(None) // ours: a blocking read has another than the rest
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                flag.store(true, Ordering::Release);
            }
            Ok::<(), ()>(())
        });
    let refused = |error| error::from_connect_error(&error, client.get_connection_info().addr());
    let inner =
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(refused)?;
    let server = client.get_connection_info().addr().to_string().into();
    let mut connection = RedisConnection {
        inner,
        closed: over,
        connected_at: Instant::now(),
        server,
        generation: epoch,
    };
    if master.requires_role_check() {
        check_is_master(&mut connection, &client).await?;
    }
    Ok(connection)
}

/// What sentinels name may not be a master yet, or any more.
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

fn connect_timeout_error() -> StoreError {
    StoreError::Unreachable("no connection was made in time".into())
}

// === impl Connection ===

impl RedisConnection {
    /// Sends a command and waits for its answer, however long.
    pub(super) async fn send_query<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
    ) -> redis::RedisResult<T> {
        let answer = command.query_async(&mut self.inner).await;
        if answer.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            self.mark_closed();
        }
        answer
    }

    /// Whether it is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
            || self.generation.0.load(Ordering::Acquire) != self.generation.1
    }

    fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
