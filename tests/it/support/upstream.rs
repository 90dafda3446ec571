//! The legacy endpoint: the FastAPI app of `tests/upstream/app.py` under uvicorn.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::http::client::HttpClient;
use crate::support::process::child::ChildProcess;

const PROJECT_ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A running app; it can be stopped and started again on its port.
pub struct TestUpstream {
    process: Option<ChildProcess>,
    port: u16,
}

/// What the app says it was asked, by `GET /seen`.
#[derive(Debug, serde::Deserialize)]
pub struct UpstreamRequests {
    /// Every request in order of arrival.
    pub requests: Vec<UpstreamRequest>,
    /// How often each `x-test-id` came.
    pub by_id: std::collections::BTreeMap<String, usize>,
    /// How often each `idempotency-key` came.
    pub by_key: std::collections::BTreeMap<String, usize>,
}

/// One of them.
#[derive(Debug, serde::Deserialize)]
pub struct UpstreamRequest {
    pub method: String,
    pub path: String,
    pub id: Option<String>,
    pub idempotency_key: Option<String>,
    pub attempt: Option<String>,
    pub shadow: Option<String>,
    /// None while it is being answered, and when its connection was broken before that.
    pub status: Option<u16>,
}

impl TestUpstream {
    /// Starts the app on a free port and waits until it accepts.
    pub async fn start() -> Self {
        let mut upstream = Self { process: None, port: 0 };
        upstream.restart().await;
        upstream
    }

    /// Starts it again on the port that it had, as it was in the beginning.
    pub async fn restart(&mut self) {
        self.stop();
        let mut process = ChildProcess::spawn("upstream", &mut uvicorn_command(self.port));
        self.port = process.wait_for_log("its address", 0, parse_uvicorn_port).await;
        self.process = Some(process);
    }

    /// Kills it; its port refuses connections from then on.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Requests that go to it directly.
    pub fn client(&self) -> HttpClient {
        HttpClient::new(&self.url())
    }

    /// What it was asked.
    pub async fn fetch_requests(&self) -> UpstreamRequests {
        self.client().get("/seen").await.json_as()
    }

    /// Forgets what it was asked.
    pub async fn clear_requests(&self) {
        self.client().post("/reset", &()).await;
    }
}

fn uvicorn_command(port: u16) -> Command {
    let mut command = Command::new(python_path());
    command.args(["-m", "uvicorn", "app:app", "--no-access-log", "--port", &port.to_string()]);
    command
        .current_dir(Path::new(PROJECT_ROOT).join("tests/upstream"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The interpreter of the test environment.
pub(crate) fn python_path() -> PathBuf {
    let named = std::env::var_os("OMNIDAEMON_TEST_PYTHON").map(PathBuf::from);
    let python =
        named.unwrap_or_else(|| Path::new(PROJECT_ROOT).join("target/test-env/bin/python"));
    assert!(
        python.exists(),
        "no {}: `scripts/test` makes it (`scripts/test-env` alone too); OMNIDAEMON_TEST_PYTHON \
            names another with {}",
        python.display(),
        "tests/upstream/requirements.txt installed"
    );
    python
}

/// The port in "Uvicorn running on http://127.0.0.1:PORT (Press CTRL+C to quit)".
fn parse_uvicorn_port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("running on http://127.0.0.1:")?;
    rest.split(' ').next()?.parse().ok()
}
