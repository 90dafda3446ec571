//! The connection to Redis: made when first needed, made anew when it is lost, at most one attempt at a time.
//!
//! A failed connect is not repeated for a moment (jittered, at most a second): calls in between fail at once
//! with its reason, so an outage costs nobody a timeout, and the way back is short. A connection that ended,
//! or left a call unanswered, is given up; the driver says so by a push message, for which the protocol is
//! RESP3. Connections live on the runtime of [`Link::settle_on`], whatever runtime calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::error;
use crate::config::Secret;
use crate::store::StoreError;

/// The longest pause between two connects.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// One Redis, as one shared connection and as many of its own as callers ask for.
pub(super) struct Link {
    client: Client,
    timeout: Duration,
    home: Mutex<Option<Handle>>,
    current: tokio::sync::Mutex<Current>,
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
}

// === impl Link ===

impl Link {
    /// A link to `url`, whose calls may take `timeout`. Connects nowhere yet.
    pub(super) fn new(url: &Secret, timeout: Duration) -> Result<Self, StoreError> {
        let bad =
            |_| StoreError::Setup("store.url is not a redis URL: write redis://[user:password@]host:port/db".into());
        let info = url.expose().into_connection_info().map_err(bad)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).map_err(bad)?;
        Ok(Self { client, timeout, home: Mutex::default(), current: tokio::sync::Mutex::default() })
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

    /// [`Self::call`], with the server's errors as they came.
    pub(super) async fn raw_call<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Result<T, redis::RedisError>, StoreError> {
        let mut connection = self.shared().await?;
        if let Ok(answer) = timeout(self.timeout.mul_f32(0.9), connection.query(command)).await {
            return Ok(answer);
        }
        connection.give_up();
        Err(StoreError::Unknown(format!("no answer within {:?}", self.timeout)))
    }

    /// A connection for one caller, who may block on it.
    pub(super) async fn own(&self) -> Result<Connection, StoreError> {
        let connect = connect(self.client.clone(), self.timeout.mul_f32(0.9));
        self.at_home(connect).await
    }

    /// A subscription to `channel`.
    pub(super) async fn subscribe(&self, channel: String) -> Result<PubSub, StoreError> {
        let client = self.client.clone();
        let subscribe = async move {
            let mut subscriber = client.get_async_pubsub().await?;
            subscriber.subscribe(channel).await?;
            Ok(subscriber)
        };
        let deadline = self.timeout;
        self.at_home(async move { timeout(deadline, subscribe).await.unwrap_or_else(|_| Err(late())) }).await
    }

    async fn shared(&self) -> Result<Connection, StoreError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.is_over()) {
            return Ok(connection.clone());
        }
        if let Some(failed) = current.failed.as_ref().filter(|failed| Instant::now() < failed.again) {
            return Err(failed.reason.clone());
        }
        match self.own().await {
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

    /// Runs a connect where its driver is to live.
    async fn at_home<T: Send + 'static>(
        &self,
        connect: impl Future<Output = redis::RedisResult<T>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(Handle::current);
        match home.spawn(connect).await {
            Ok(connected) => {
                connected.map_err(|error| error::of_connect(&error, self.client.get_connection_info().addr()))
            }
            Err(_) => Err(StoreError::Unreachable("the store is shut down".into())),
        }
    }
}

async fn connect(client: Client, deadline: Duration) -> redis::RedisResult<Connection> {
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
    // the driver's own timeout does not cover the handshake
    let connected = timeout(deadline, client.get_multiplexed_async_connection_with_config(&config)).await;
    Ok(Connection { inner: connected.unwrap_or_else(|_| Err(late()))?, over })
}

fn late() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
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
        self.over.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.over.store(true, Ordering::Release);
    }
}
