//! The connection to Redis: made when first needed, made anew when it is lost, at most one attempt at a time.
//!
//! A failed connect is not repeated for a moment (jittered, at most a second): calls in between fail at once
//! with its reason, so an outage costs nobody a timeout, and the way back is short. A connection that ended, left a
//! call unanswered or leads to a server that is not the master any more is given up, and the next one goes to where the
//! master is then ([`Master`]). The driver says that one ended by a push message, for which the protocol is RESP3.
//! Connections live on the runtime of [`Link::settle_on`], whatever runtime calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, PushInfo, PushKind};
use tokio::runtime::Handle;
use tokio::time::{timeout, timeout_at};

use super::resolve::{By, Master};
use super::{checks, error};
use crate::config::Secret;
use crate::store::StoreError;

/// The longest pause between two connects.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How old a connection must be for another to lead elsewhere.
const SETTLED: Duration = Duration::from_millis(250);

/// One master, as one shared connection and as many of its own as callers ask for.
pub(super) struct Link {
    master: Arc<Master>,
    timeout: Duration,
    home: Mutex<Option<Handle>>,
    current: tokio::sync::Mutex<Current>,
    /// Raised when the master turned out to be elsewhere: every older connection is over.
    epoch: Arc<AtomicU64>,
    /// What a key must say, and is set to where it is not there.
    mark: Option<Mark>,
}

/// How many partitions a cluster's data has, written once beside it.
#[derive(Clone)]
pub(super) struct Mark {
    /// Where it stands.
    pub(super) key: String,
    /// What is configured.
    pub(super) partitions: usize,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    failed: Option<Failed>,
}

/// The last connect, when it failed.
struct Failed {
    reason: StoreError,
    pause: Duration,
    again: Instant,
}

/// A connection and whether it is still good.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    over: Arc<AtomicBool>,
    made: Instant,
    /// `host:port`.
    server: Arc<str>,
    /// The link's epoch, and its value when this was made.
    epoch: (Arc<AtomicU64>, u64),
}

/// A connection that one caller at a time blocks on.
pub(super) struct Bell {
    /// The connection.
    pub(super) connection: Connection,
    /// The server's number for it.
    pub(super) number: i64,
}

// === impl Link ===

impl Link {
    /// A link to the master that `url` and `by` name, whose calls may take `timeout`. Connects nowhere yet.
    pub(super) fn new(url: &Secret, by: By, timeout: Duration, mark: Option<Mark>) -> Result<Self, StoreError> {
        Ok(Self {
            master: Arc::new(Master::new(url, by)?),
            timeout,
            home: Mutex::default(),
            current: tokio::sync::Mutex::default(),
            epoch: Arc::default(),
            mark,
        })
    }

    /// Makes connections on `runtime` from now on; until then they are made on the caller's.
    pub(super) async fn settle_on(&self, runtime: Handle) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        self.current.lock().await.connection = None;
    }

    /// Sends one command over the shared connection. The answer has a little less than the timeout, so that the
    /// call ends here rather than being dropped by a caller with the same deadline.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        match self.raw_call(command).await? {
            Ok(value) => Ok(value),
            Err(error) => Err(error::of_call(&error)),
        }
    }

    /// [`Self::call`], with the server's errors as they came. One that says that the master is elsewhere, where
    /// nothing was executed, is followed there once.
    pub(super) async fn raw_call<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Result<T, redis::RedisError>, StoreError> {
        let deadline = tokio::time::Instant::now() + self.timeout.mul_f32(0.9);
        let mut followed = false;
        loop {
            let mut connection = self.shared().await?;
            let Ok(answer) = timeout_at(deadline, connection.query(command)).await else {
                connection.give_up();
                return Err(StoreError::Unknown(format!("no answer within {:?}", self.timeout)));
            };
            let elsewhere = answer.as_ref().is_err_and(error::is_of_elsewhere) && self.leave(&connection);
            if followed || !elsewhere {
                return Ok(answer);
            }
            followed = true;
        }
    }

    /// Gives up what leads to the wrong server, unless it was found just now: then it is not known any better yet.
    fn leave(&self, connection: &Connection) -> bool {
        let leaves = connection.made.elapsed() >= SETTLED;
        if leaves && !connection.is_over() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            tracing::info!("the redis server is not the master any more: looking for where it is now");
        }
        leaves
    }

    /// Asks the sentinels whether the master is still where the shared connection leads. In a failover by hand the old
    /// master goes on taking writes for some seconds, which are lost when it follows the new one.
    pub(super) async fn look_again(&self) {
        let Some(connection) = self.current.lock().await.connection.clone() else { return };
        if !self.master.is_watched() || connection.is_over() {
            return;
        }
        let (master, deadline) = (self.master.clone(), self.timeout);
        let find = async move { timeout(deadline, master.find(deadline)).await.unwrap_or_else(|_| Err(late())) };
        if let Ok(client) = self.at_home(Box::pin(find)).await
            && client.get_connection_info().addr().to_string() != *connection.server
        {
            self.leave(&connection);
        }
    }

    /// Where the shared connection leads, and when it was made; none where there is none.
    pub(super) async fn current(&self) -> Option<(Arc<str>, Instant)> {
        let current = self.current.lock().await;
        let connection = current.connection.as_ref().filter(|connection| !connection.is_over())?;
        Some((connection.server.clone(), connection.made))
    }

    /// A connection for one caller, who may block on it.
    pub(super) async fn bell(&self) -> Result<Bell, StoreError> {
        let mut connection = self.own().await?;
        let number = redis::cmd("CLIENT").arg("ID").take();
        let number = timeout(self.timeout.mul_f32(0.9), connection.query(&number)).await;
        let number = number.map_err(|_| StoreError::Unknown("no answer to CLIENT ID".into()))?;
        Ok(Bell { connection, number: number.map_err(|error| error::of_call(&error))? })
    }

    /// Ends the wait on a bell. Where the server is not its own any more, the wait ends by itself.
    pub(super) async fn unblock(&self, number: i64) {
        if let Err(error) = self.call::<i64>(redis::cmd("CLIENT").arg("UNBLOCK").arg(number)).await {
            tracing::debug!(%error, "a blocked read could not be ended");
        }
    }

    async fn own(&self) -> Result<Connection, StoreError> {
        let (master, deadline) = (self.master.clone(), self.timeout.mul_f32(0.9));
        let epoch = (self.epoch.clone(), self.epoch.load(Ordering::Acquire));
        let connect = async move {
            // the driver's own timeout does not cover the handshake
            let connected = timeout(deadline, connect(&master, deadline, epoch)).await;
            let connected = connected.unwrap_or_else(|_| Err(late()));
            if connected.is_err() {
                master.was_wrong();
            }
            connected
        };
        self.at_home(Box::pin(connect)).await
    }

    /// A subscription to `channel`.
    pub(super) async fn subscribe(&self, channel: String) -> Result<PubSub, StoreError> {
        let (master, deadline) = (self.master.clone(), self.timeout);
        let subscribe = async move {
            let client = master.find(deadline).await?;
            let subscribed = async {
                let mut subscriber = client.get_async_pubsub().await?;
                subscriber.subscribe(channel).await?;
                Ok(subscriber)
            };
            subscribed.await.map_err(|error| error::of_connect(&error, client.get_connection_info().addr()))
        };
        let in_time = async move { timeout(deadline, subscribe).await.unwrap_or_else(|_| Err(late())) };
        self.at_home(Box::pin(in_time)).await
    }

    async fn shared(&self) -> Result<Connection, StoreError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.is_over()) {
            return Ok(connection.clone());
        }
        if let Some(failed) = current.failed.as_ref().filter(|failed| Instant::now() < failed.again) {
            return Err(failed.reason.clone());
        }
        match self.fresh().await {
            Ok(connection) => {
                *current = Current { connection: Some(connection.clone()), failed: None };
                Ok(connection)
            }
            Err(reason) => {
                let pause = current.failed.take().map_or(FIRST_PAUSE, |failed| LONGEST_PAUSE.min(failed.pause * 2));
                let again = Instant::now() + pause.mul_f32(rand::random_range(0.5..1.0));
                *current = Current { connection: None, failed: Some(Failed { reason: reason.clone(), pause, again }) };
                Err(reason)
            }
        }
    }

    /// A new connection to a server whose data are divided as is configured.
    async fn fresh(&self) -> Result<Connection, StoreError> {
        let mut connection = self.own().await?;
        let server = connection.server.clone();
        let checked = timeout(self.timeout.mul_f32(0.9), checks::check_version(&mut connection, &server)).await;
        checked.map_err(|_| late())??;
        let Some(Mark { key, partitions }) = &self.mark else { return Ok(connection) };
        let mut set = redis::cmd("SET");
        set.arg(key).arg(partitions).arg("NX").arg("GET");
        let answer = timeout(self.timeout.mul_f32(0.9), connection.query::<Option<usize>>(&set)).await;
        match answer.map_err(|_| late())?.map_err(|error| error::of_call(&error))? {
            Some(found) if found != *partitions => Err(StoreError::Setup(format!(
                "the cluster's tasks are in {found} partitions, the configuration says {partitions}: set \
                 store.partitions to {found}, or finish all tasks and delete {key} and its like on every master"
            ))),
            _ => Ok(connection),
        }
    }

    /// Runs a connect where its driver is to live.
    async fn at_home<T: Send + 'static>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(Handle::current);
        home.spawn(connect).await.unwrap_or_else(|_| Err(StoreError::Unreachable("the store is shut down".into())))
    }
}

async fn connect(master: &Master, deadline: Duration, epoch: (Arc<AtomicU64>, u64)) -> Result<Connection, StoreError> {
    let client = master.find(deadline).await?;
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
    let refused = |error| error::of_connect(&error, client.get_connection_info().addr());
    let inner = client.get_multiplexed_async_connection_with_config(&config).await.map_err(refused)?;
    let server = client.get_connection_info().addr().to_string().into();
    let mut connection = Connection { inner, over, made: Instant::now(), server, epoch };
    if master.is_watched() {
        is_master(&mut connection, &client).await?;
    }
    Ok(connection)
}

/// What sentinels name may not be a master yet, or any more.
async fn is_master(connection: &mut Connection, client: &Client) -> Result<(), StoreError> {
    let server = client.get_connection_info().addr();
    let role: Vec<redis::Value> =
        connection.query(&redis::cmd("ROLE")).await.map_err(|error| error::of_connect(&error, server))?;
    match role.first().cloned().map(redis::from_redis_value::<String>) {
        Some(Ok(role)) if role == "master" => Ok(()),
        _ => Err(StoreError::Unreachable(format!("the sentinels name {server}, which is not a master"))),
    }
}

fn late() -> StoreError {
    StoreError::Unreachable("no connection was made in time".into())
}

// === impl Connection ===

impl Connection {
    /// Sends a command and waits for its answer, however long.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> redis::RedisResult<T> {
        let answer = command.query_async(&mut self.inner).await;
        if answer.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            self.give_up();
        }
        answer
    }

    /// Whether it is of no use any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.epoch.0.load(Ordering::Acquire) != self.epoch.1
    }

    fn give_up(&self) {
        self.over.store(true, Ordering::Release);
    }
}
