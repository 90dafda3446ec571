//! The contract, kept by the store on Redis; on a Redis Cluster, where each script's keys must
//! share a slot; and on Valkey, as the user of `docs/redis.md`, who may do what the store does and
//! no more.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use omnidaemon::config::{Secret, StoreConfig, StoreUrl};
use omnidaemon::store::{BuriedTask, RedisStore, StoreService as _, TaskStore};
use redis::streams::{StreamInfoGroupsReply, StreamPendingCountReply};
use redis::{AsyncCommands as _, Value};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{StoreFixture, contract};
use crate::support::redis::acl::set_documented_user;
use crate::support::redis::cluster::start_single_node_cluster;
use crate::support::redis::server::RedisServer;

contract!(On<Redis>);

mod cluster {
    use super::super::contract;
    use super::{Cluster, On};

    contract!(On<Cluster>);
}

mod valkey {
    use super::super::contract;
    use super::{On, Valkey};

    contract!(On<Valkey>);
}

/// What the store is on.
#[async_trait]
trait Server: Send + Sync + 'static {
    /// An empty server of this kind.
    async fn start() -> RedisServer;

    /// Where the store is told that it is.
    fn url(server: &RedisServer) -> StoreUrl;
}

struct Redis;

#[async_trait]
impl Server for Redis {
    async fn start() -> RedisServer {
        RedisServer::start().await
    }

    fn url(server: &RedisServer) -> StoreUrl {
        server.store_config().url
    }
}

struct Cluster;

#[async_trait]
impl Server for Cluster {
    async fn start() -> RedisServer {
        start_single_node_cluster().await
    }

    fn url(server: &RedisServer) -> StoreUrl {
        StoreUrl::Cluster(Secret::new(format!("redis+cluster://{}", server.addr())))
    }
}

struct Valkey;

#[async_trait]
impl Server for Valkey {
    async fn start() -> RedisServer {
        let server = RedisServer::start_valkey().await;
        set_documented_user(&server, "resetpass", "canary").await;
        server
    }

    fn url(server: &RedisServer) -> StoreUrl {
        StoreUrl::Redis(Secret::new(format!("redis://omnidaemon:canary@{}", server.addr())))
    }
}

/// A server of its own, and a store on it.
struct On<S> {
    store: Arc<RedisStore>,
    running: DropGuard,
    server: RedisServer,
    kind: PhantomData<S>,
}

impl<S: Server> On<S> {
    fn open(server: RedisServer) -> Self {
        let config = StoreConfig { url: S::url(&server), ..server.store_config() };
        let store = Arc::new(RedisStore::new(&config).expect("a store"));
        let (shutdown, runs) = (CancellationToken::new(), Arc::clone(&store));
        tokio::spawn({
            let shutdown = shutdown.clone();
            async move { runs.run_background(shutdown).await }
        });
        Self { store, running: shutdown.drop_guard(), server, kind: PhantomData }
    }

    async fn keys(&self) -> Vec<String> {
        self.server.connect().await.keys("*").await.expect("answers")
    }
}

#[async_trait]
impl<S: Server> StoreFixture for On<S> {
    async fn new_empty() -> Self {
        Self::open(S::start().await)
    }

    fn store(&self) -> Arc<dyn TaskStore> {
        self.store.clone()
    }

    async fn reopen(self) -> Self {
        drop(self.running);
        Self::open(self.server)
    }

    /// Redis has no clock to turn: what it would have counted down, up or towards is moved instead.
    async fn advance_time(&self, by: Duration) -> Vec<BuriedTask> {
        let mut redis = self.server.connect().await;
        let by = i64::try_from(by.as_millis()).expect("fits");
        for key in self.keys().await {
            let left: i64 = redis.pttl(&key).await.expect("answers");
            if left > 0 {
                let _: bool = redis.pexpire(&key, left - by).await.expect("answers");
            }
            if key.contains("omni:idem:") {
                let lease: Option<i64> = redis.hget(&key, "lease").await.expect("answers");
                if lease.is_some() {
                    let _: i64 = redis.hincr(&key, "lease", -by).await.expect("answers");
                }
            }
            if key.contains("omni:delayed:")
                || key.contains("omni:due:")
                || key.ends_with("omni:outbox")
            {
                let members: Vec<String> = redis.zrange(&key, 0, -1).await.expect("answers");
                for member in members {
                    let _: f64 = redis.zincr(&key, member, -by).await.expect("answers");
                }
            }
            if key.contains("omni-stream:") {
                let groups: StreamInfoGroupsReply =
                    redis.xinfo_groups(&key).await.expect("answers");
                for group in groups.groups {
                    age(&mut redis, &key, &group.name, by).await;
                }
            }
        }
        Vec::new()
    }

    async fn contains_text(&self, text: &str) -> bool {
        let mut redis = self.server.connect().await;
        for key in self.keys().await {
            let kind: String =
                redis::cmd("TYPE").arg(&key).query_async(&mut redis).await.expect("answers");
            let command = match kind.as_str() {
                "stream" => redis::cmd("XRANGE").arg(&key).arg("-").arg("+").clone(),
                "hash" => redis::cmd("HGETALL").arg(&key).clone(),
                "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).clone(),
                "string" => redis::cmd("GET").arg(&key).clone(),
                other => panic!("{key} is a {other}: search it too"),
            };
            let value: Value = command.query_async(&mut redis).await.expect("answers");
            if key.contains(text) || occurs(&value, text) {
                return true;
            }
        }
        false
    }
}

/// Makes a group's pending entries look untouched for longer.
async fn age(redis: &mut redis::aio::MultiplexedConnection, stream: &str, group: &str, by: i64) {
    let pending: StreamPendingCountReply =
        redis.xpending_count(stream, group, "-", "+", 1000).await.expect("answers");
    for entry in pending.ids {
        let idle = i64::try_from(entry.last_delivered_ms).expect("fits") + by;
        let mut claim = redis::cmd("XCLAIM");
        claim
            .arg(stream)
            .arg(group)
            .arg(&entry.consumer)
            .arg(0)
            .arg(&entry.id)
            .arg("IDLE")
            .arg(idle)
            .arg("JUSTID");
        let _: Value = claim.query_async(redis).await.expect("answers");
    }
}

fn occurs(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => {
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        }
        Value::SimpleString(simple) => simple.contains(text),
        Value::Array(values) => values.iter().any(|value| occurs(value, text)),
        _ => false,
    }
}
