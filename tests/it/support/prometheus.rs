//! A real Prometheus on a port and in a directory of its own, which scrapes four times a second
//! what a test tells it to.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::client::{HttpClient, HttpResponse};
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::find_free_port;
use crate::support::{TEST_DEADLINE, wait_until};

const PROMETHEUS_CONFIG: &str = "
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs:
  - job_name: omnidaemon
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
";

/// A Prometheus server; killed when dropped.
pub struct PrometheusServer {
    port: u16,
    directory: TempDir,
    process: ChildProcess,
}

impl PrometheusServer {
    /// A running server that scrapes nothing yet.
    pub async fn start() -> Self {
        let mut directory = tempfile::tempdir().expect("there is room for a directory");
        fs::write(directory.path().join("prometheus.yml"), PROMETHEUS_CONFIG)
            .expect("it can be written");
        fs::write(directory.path().join("targets.json"), "[]").expect("it can be written");
        // Another process may take the port before the server does: then with another one.
        for _ in 0..5 {
            let port = find_free_port();
            let mut server = Self { process: spawn_prometheus(&directory, port), port, directory };
            if server.wait_until_up().await {
                return server;
            }
            directory = server.directory;
        }
        panic!("prometheus did not start on any of five ports");
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Scrapes `/metrics` of these, such as `127.0.0.1:8001`, from now on, and waits until each
    /// answered once.
    pub async fn scrape_targets(&self, targets: &[String]) {
        let list = json!([{"targets": targets}]).to_string();
        // Renamed into place: half a file would be read as none.
        let beside = self.directory.path().join("targets.new");
        fs::write(&beside, list).expect("it can be written");
        fs::rename(&beside, self.directory.path().join("targets.json"))
            .expect("it can be replaced");
        wait_until(TEST_DEADLINE, "Prometheus has scraped every target", async || {
            let up = self.query_value("sum(up)").await;
            up.as_str().and_then(|up| up.parse::<usize>().ok()) == Some(targets.len())
        })
        .await;
    }

    /// The first value of an instant query, as text; null where there is none.
    pub async fn query_value(&self, query: &str) -> Value {
        let escaped =
            query.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).map(char::from);
        let path = format!("/api/v1/query?query={}", escaped.collect::<String>());
        let answer = HttpClient::new(&self.url()).get(&path).await;
        answer.json()["data"]["result"][0]["value"][1].clone()
    }

    /// Stops it without a word, as a host that hangs; [`Self::unfreeze`] ends that.
    pub async fn freeze(&mut self) {
        self.process.freeze().await;
    }

    /// Lets a frozen one go on.
    pub fn unfreeze(&mut self) {
        self.process.send_signal(Signal::CONT);
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        self.process.send_signal(Signal::KILL);
        self.process.wait_for_exit().await;
    }

    /// Starts it again, on the same port and data.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.process = spawn_prometheus(&self.directory, self.port);
        assert!(self.wait_until_up().await, "prometheus did not come back on port {}", self.port);
    }

    /// Whether our process answers; false as soon as it has exited.
    async fn wait_until_up(&mut self) -> bool {
        let client = HttpClient::new(&self.url());
        let deadline = std::time::Instant::now() + TEST_DEADLINE;
        while std::time::Instant::now() < deadline && self.process.is_running() {
            let ready =
                HttpResponse::try_from_request(client.request(http::Method::GET, "/-/ready")).await;
            if ready.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        false
    }
}

fn spawn_prometheus(directory: &TempDir, port: u16) -> ChildProcess {
    let mut command = Command::new("prometheus");
    command.current_dir(directory.path()).args([
        "--config.file",
        "prometheus.yml",
        "--storage.tsdb.path",
        "data",
    ]);
    command.args(["--log.level", "warn", "--web.listen-address", &format!("127.0.0.1:{port}")]);
    ChildProcess::spawn("prometheus", &mut command)
}

#[tokio::test]
async fn prometheus_scrapes_what_it_is_told_to_and_comes_back_on_its_port() {
    let mut server = PrometheusServer::start().await;
    assert_eq!(server.query_value("nothing_of_this_name").await, Value::Null);
    server.scrape_targets(&[format!("127.0.0.1:{}", server.port)]).await;
    assert_eq!(server.query_value("max(up)").await, "1");
    server.restart().await;
    wait_until(TEST_DEADLINE, "it scrapes again", async || {
        server.query_value("max(up)").await == "1"
    })
    .await;
}
