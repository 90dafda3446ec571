//! A master with two replicas, and three sentinels that watch them: real processes on free ports.

use std::fs;
use std::process::{Child, Command, Stdio};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::support::redis::server::{RedisServer, find_free_port};
use crate::support::{TEST_DEADLINE, wait_for_some, wait_until};

/// What the sentinels call the master.
const SERVICE_NAME: &str = "main";

/// Servers and sentinels; all are killed when dropped.
pub(crate) struct SentinelDeployment {
    servers: Vec<RedisServer>,
    sentinels: Vec<SentinelProcess>,
}

struct SentinelProcess {
    port: u16,
    process: Child,
    _directory: TempDir,
}

impl SentinelDeployment {
    /// A master with two replicas in step, known to three sentinels.
    pub(crate) async fn start() -> Self {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.port().to_string();
        let mut servers = vec![master];
        for _ in 0..2 {
            let extra = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
            servers.push(RedisServer::start_with(&extra).await);
        }
        let sentinels = (0..3).map(|_| SentinelProcess::spawn_sentinel(&port)).collect();
        let started = Self { servers, sentinels };
        for sentinel in &started.sentinels {
            let what = "a sentinel knows two replicas and two other sentinels";
            wait_until(TEST_DEADLINE, what, async || {
                sentinel.knows_all_peers().await.unwrap_or(false)
            })
            .await;
        }
        started
    }

    /// `redis+sentinel://…`
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|at| format!("127.0.0.1:{}", at.port)).collect();
        format!("redis+sentinel://{}/{SERVICE_NAME}", hosts.join(","))
    }

    /// The server that the first sentinel names, once it says itself that it is a master.
    pub(crate) async fn find_master(&mut self) -> &mut RedisServer {
        let (servers, sentinel) = (&self.servers, &self.sentinels[0]);
        let at = wait_for_some(TEST_DEADLINE, "there is a master", async || {
            let port = sentinel.master_port().await?;
            let at = servers.iter().position(|server| server.port() == port)?;
            let client = redis::Client::open(servers[at].url()).ok()?;
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            let role: Vec<redis::Value> =
                redis::cmd("ROLE").query_async(&mut connection).await.ok()?;
            let role: String = redis::from_redis_value(role.first()?.clone()).ok()?;
            (role == "master").then_some(at)
        })
        .await;
        &mut self.servers[at]
    }

    /// Has the sentinels fail over, and waits until another server is the master.
    pub(crate) async fn fail_over_master(&mut self) {
        let before = self.find_master().await.port();
        let mut sentinel = self.sentinels[0].connect().await.expect("connects");
        let mut command = redis::cmd("SENTINEL");
        command
            .arg("FAILOVER")
            .arg(SERVICE_NAME)
            .exec_async(&mut sentinel)
            .await
            .expect("a failover begins");
        self.wait_for_new_master(before).await;
    }

    /// Kills the master as a crash would, and waits until another server is the master.
    pub(crate) async fn kill_master(&mut self) {
        let master = self.find_master().await;
        let before = master.port();
        master.kill();
        self.wait_for_new_master(before).await;
    }

    /// Waits until whatever was written so far is on a replica.
    pub(crate) async fn wait_for_replication(&mut self) {
        wait_for_replication(&mut self.find_master().await.connect().await).await;
    }

    async fn wait_for_new_master(&self, before: u16) {
        let sentinel = &self.sentinels[0];
        let moved = async || sentinel.master_port().await.is_some_and(|port| port != before);
        wait_until(TEST_DEADLINE, "the sentinels name another master", moved).await;
    }
}

/// Waits until whatever was written to the server of `connection` is on a replica.
pub(crate) async fn wait_for_replication(connection: &mut MultiplexedConnection) {
    connection.set_response_timeout(TEST_DEADLINE);
    let mut pipeline = redis::pipe();
    // a wait is for the connection's own last write, and so for all before it
    pipeline.cmd("XADD").arg("{omni-0}mark").arg("*").arg("at").arg(1).ignore();
    pipeline.cmd("WAIT").arg(1).arg(20_000);
    let (replicas,): (u32,) = pipeline.query_async(connection).await.expect("answers");
    assert!(replicas >= 1, "no replica in step");
}

impl SentinelProcess {
    fn spawn_sentinel(master: &str) -> Self {
        let (directory, port) = (tempfile::tempdir().expect("a directory"), find_free_port());
        let file = directory.path().join("sentinel.conf");
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE_NAME} 127.0.0.1 \
                {master} 2\n\
             sentinel down-after-milliseconds {SERVICE_NAME} 1500\nsentinel failover-timeout \
             {SERVICE_NAME} 6000\n",
            directory.path().display()
        );
        fs::write(&file, config).expect("a config");
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { port, process, _directory: directory }
    }

    async fn connect(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).ok()?;
        client.get_multiplexed_async_connection().await.ok()
    }

    async fn master_port(&self) -> Option<u16> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(SERVICE_NAME);
        let address: Option<(String, u16)> =
            command.query_async(&mut self.connect().await?).await.ok()?;
        address.map(|(_, port)| port)
    }

    async fn knows_all_peers(&self) -> Option<bool> {
        let mut connection = self.connect().await?;
        let mut good = [0; 2];
        for (count, kind) in good.iter_mut().zip(["REPLICAS", "SENTINELS"]) {
            let mut command = redis::cmd("SENTINEL");
            command.arg(kind).arg(SERVICE_NAME);
            let known: Vec<std::collections::HashMap<String, String>> =
                command.query_async(&mut connection).await.ok()?;
            let down = |flags: &String| flags.contains("down") || flags.contains("disconnected");
            *count = known.iter().filter(|one| !one.get("flags").is_some_and(down)).count();
        }
        Some(good == [2, 2])
    }
}

impl Drop for SentinelProcess {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may be gone
        let _ = self.process.wait();
    }
}
