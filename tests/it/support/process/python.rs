//! The Python `OmniDaemon`, the package itself (`tests/python/requirements.txt`), beside ours on
//! one Redis.
//!
//! Its agents are processes of their own (`tests/python/agent.py`), so that they can be killed;
//! each call of its SDK (`tests/python/sdk.py`) and of its command line is a process too.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;

const PROJECT_ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The package on one server.
pub struct PythonOmnidaemon {
    url: String,
}

/// An agent that is about to start.
pub struct PythonAgentBuilder {
    command: Command,
    options: Value,
}

impl PythonOmnidaemon {
    /// The package, with this server for its bus and its storage.
    pub fn with_redis(server: &RedisServer) -> Self {
        // redis-py from 8 on gives up a read after five seconds, which is how long the package's
        // block
        Self { url: format!("{}?socket_timeout=60", server.url()) }
    }

    /// An agent `name` of `topic`. It reclaims what has been idle for three minutes, and looks for
    /// it each second.
    pub fn build_agent(&self, topic: &str, name: &str) -> PythonAgentBuilder {
        PythonAgentBuilder {
            command: self.build_command("python"),
            options: json!({"topic": topic, "name": name}),
        }
    }

    /// Publishes one task and returns its id.
    pub async fn publish_task(&self, topic: &str, content: &Value) -> String {
        self.publish_tasks(topic, std::slice::from_ref(content)).await.remove(0)
    }

    /// Publishes tasks and returns their ids.
    pub async fn publish_tasks(&self, topic: &str, contents: &[Value]) -> Vec<String> {
        let ids =
            self.call_sdk("publish_tasks", &json!({"topic": topic, "contents": contents})).await;
        serde_json::from_value(ids).expect("ids")
    }

    /// A task's result; null while there is none.
    pub async fn fetch_result(&self, task: &str) -> Value {
        self.call_sdk("get_result", &json!({"task_id": task})).await
    }

    /// Calls a method of the SDK.
    ///
    /// # Panics
    /// When it raises.
    pub async fn call_sdk(&self, method: &str, arguments: &Value) -> Value {
        let mut command = self.build_command("python");
        command.arg("sdk.py").args([method, &arguments.to_string()]);
        let output = run_to_end(command).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let answer = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        answer.unwrap_or_else(|| {
            panic!("{method}: {said}{}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Runs its `omnidaemon` and returns what it prints.
    ///
    /// # Panics
    /// When it fails, or prints a traceback.
    pub async fn run_cli(&self, args: &[&str]) -> String {
        let mut command = self.build_command("omnidaemon");
        // wide enough for no line to be cut
        command.args(args).env("COLUMNS", "2000");
        let output = run_to_end(command).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !complaints.contains("Traceback"),
            "{args:?}: {said}{complaints}"
        );
        said
    }

    fn build_command(&self, program: &str) -> Command {
        let mut command = Command::new(environment_path().join("bin").join(program));
        command.current_dir(Path::new(PROJECT_ROOT).join("tests/python"));
        command
            .env("REDIS_URL", &self.url)
            .env("STORAGE_BACKEND", "redis")
            .env_remove("REDIS_KEY_PREFIX");
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
        command
    }
}

impl PythonAgentBuilder {
    /// Sets one of what `agent.py` reads: `runs`, `reclaim_idle_ms`, `dlq_retry_limit`,
    /// `consumer_count`.
    pub fn set_option(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.options[option] = value.into();
        self
    }

    /// Starts it and waits until it is subscribed.
    pub async fn start(mut self) -> ChildProcess {
        self.command.arg("agent.py").arg(self.options.to_string());
        let mut process = ChildProcess::spawn("agent.py", &mut self.command);
        process
            .wait_for_log("that it is registered", 0, |line| (line == "registered").then_some(()))
            .await;
        process
    }
}

async fn run_to_end(command: Command) -> Output {
    let output = tokio::process::Command::from(command).output().await;
    output.expect("a program of the environment can be run")
}

fn environment_path() -> PathBuf {
    let named = std::env::var_os("OMNIDAEMON_TEST_AGENTS").map(PathBuf::from);
    let environment = named.unwrap_or_else(|| Path::new(PROJECT_ROOT).join("target/test-agents"));
    assert!(
        environment.exists(),
        "no {}: `scripts/test` makes it (`scripts/test-env` alone too); OMNIDAEMON_TEST_AGENTS \
            names another with {}",
        environment.display(),
        "tests/python/requirements.txt installed"
    );
    environment
}
