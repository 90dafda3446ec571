//! A Redis Cluster: real processes on free ports, joined by `redis-cli`.

use std::process::Command;

use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::support::redis::server::{RedisServer, find_free_port};
use crate::support::{TEST_DEADLINE, wait_for_some, wait_until};

/// Masters and replicas; all are killed when dropped.
pub(crate) struct RedisCluster {
    nodes: Vec<RedisServer>,
}

async fn start_node() -> RedisServer {
    let bus = find_free_port().to_string();
    RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "2000",
        "--repl-diskless-sync-delay",
        "0",
    ])
    .await
}

/// A cluster of one node, which owns every slot: what a cluster forbids, without its cost.
pub(crate) async fn start_single_node_cluster() -> RedisServer {
    let node = start_node().await;
    node.run_command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let whole = async {
        let mut connection = node.connect().await;
        loop {
            let info: String = redis::cmd("CLUSTER")
                .arg("INFO")
                .query_async(&mut connection)
                .await
                .expect("answers");
            if info.contains("cluster_state:ok") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        }
    };
    tokio::time::timeout(TEST_DEADLINE, whole).await.expect("a cluster of one node");
    node
}

impl RedisCluster {
    /// Three masters with a replica each.
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(start_node().await);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(nodes.iter().map(RedisServer::addr));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created =
            tokio::task::spawn_blocking(move || create.output().expect("redis-cli is installed"))
                .await;
        let created = created.expect("ran");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes };
        cluster.wait_until_healthy().await;
        wait_until(TEST_DEADLINE, "every master has a replica", async || {
            let slots = cluster.slot_ranges(0).await;
            slots.is_some_and(|rows| {
                rows.len() == 3 && rows.iter().all(|(_, nodes)| nodes.len() == 2)
            })
        })
        .await;
        cluster
    }

    /// `redis+cluster://…`, of all nodes.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(RedisServer::addr).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// A master that owns `slot`, and a replica of it, by position.
    pub(crate) async fn find_slot_owner(&self, slot: u16) -> (usize, Option<usize>) {
        wait_for_some(TEST_DEADLINE, "the slot has an owner that lives", async || {
            for asked in 0..self.nodes.len() {
                let rows = self.slot_ranges(asked).await.unwrap_or_default();
                let row =
                    rows.into_iter().find(|((first, last), _)| (*first..=*last).contains(&slot));
                let Some((_, ports)) = row else { continue };
                let at = |port: &u16| self.nodes.iter().position(|node| node.port() == *port);
                let master = at(ports.first()?)?;
                if self.connect_to_node(master).await.is_some() {
                    return Some((master, ports.get(1).and_then(at)));
                }
            }
            None
        })
        .await
    }

    /// Has the replica of `slot`'s owner take over, and waits until it has.
    pub(crate) async fn fail_over_slot(&self, slot: u16) {
        let (before, replica) = self.find_slot_owner(slot).await;
        self.nodes[replica.expect("a replica")].run_command(&["CLUSTER", "FAILOVER"]).await;
        wait_until(TEST_DEADLINE, "the replica has taken over", async || {
            self.find_slot_owner(slot).await.0 != before
        })
        .await;
    }

    /// Kills `slot`'s owner as a crash would, and waits until its replica is the owner.
    pub(crate) async fn kill_slot_owner(&mut self, slot: u16) {
        let (before, _) = self.find_slot_owner(slot).await;
        self.nodes[before].kill();
        wait_until(TEST_DEADLINE, "a replica has taken over", async || {
            self.find_slot_owner(slot).await.0 != before
        })
        .await;
    }

    /// Moves `slot` to another master, key by key, as a reshard does.
    pub(crate) async fn migrate_slot(&self, slot: u16) {
        let (from, _) = self.find_slot_owner(slot).await;
        let other =
            [1_u16, 8_000, 16_000].map(|slot| async move { self.find_slot_owner(slot).await.0 });
        let mut to = from;
        for owner in other {
            let owner = owner.await;
            to = if owner == from { to } else { owner };
        }
        assert_ne!(from, to, "there are several masters");
        let (source, target, slot) =
            (self.node_id(from).await, self.node_id(to).await, slot.to_string());
        self.nodes[to].run_command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        self.nodes[from].run_command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        let mut connection = self.connect_to_node(from).await.expect("connects");
        let port = self.nodes[to].port().to_string();
        loop {
            let mut keys = redis::cmd("CLUSTER");
            keys.arg("GETKEYSINSLOT").arg(&slot).arg(10);
            let keys: Vec<String> = keys.query_async(&mut connection).await.expect("answers");
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(&port).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
            migrate.query_async::<Value>(&mut connection).await.expect("migrated");
        }
        for at in [to, from] {
            self.nodes[at].run_command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    }

    /// A connection to a node; none when it is not there.
    pub(crate) async fn connect_to_node(&self, at: usize) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.nodes[at].url()).ok()?;
        client.get_multiplexed_async_connection().await.ok()
    }

    async fn node_id(&self, at: usize) -> String {
        let mut connection = self.connect_to_node(at).await.expect("connects");
        redis::cmd("CLUSTER").arg("MYID").query_async(&mut connection).await.expect("answers")
    }

    async fn wait_until_healthy(&self) {
        for at in 0..self.nodes.len() {
            wait_until(TEST_DEADLINE, "the cluster is whole", async || {
                let Some(mut connection) = self.connect_to_node(at).await else { return false };
                let info =
                    redis::cmd("CLUSTER").arg("INFO").query_async::<String>(&mut connection).await;
                info.is_ok_and(|info| info.contains("cluster_state:ok"))
            })
            .await;
        }
    }

    /// Ranges of slots and the ports of their nodes, the master's first, as a node says.
    async fn slot_ranges(&self, at: usize) -> Option<Vec<((u16, u16), Vec<u16>)>> {
        let mut connection = self.connect_to_node(at).await?;
        let rows: Vec<Vec<Value>> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.ok()?;
        let port = |node: &Value| match node {
            Value::Array(fields) => redis::from_redis_value(fields.get(1)?.clone()).ok(),
            _ => None,
        };
        let read = |row: Vec<Value>| {
            let bound = |at: usize| redis::from_redis_value(row.get(at)?.clone()).ok();
            Some(((bound(0)?, bound(1)?), row.iter().skip(2).filter_map(port).collect()))
        };
        Some(rows.into_iter().filter_map(read).collect())
    }
}
