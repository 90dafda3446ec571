//! `omnidaemon serve`, the real binary, in a directory of its own and on free ports.
//!
//! Most tests start it by a [scenario](crate::support::scenario), which generates the
//! configuration; a test about the text of a configuration file writes the text itself. Nothing of
//! the caller's environment reaches the process but what finding programs needs, so that a
//! developer's `REDIS_URL` changes no result.

pub mod config_tree;
mod edit;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::{env, fs};

use rustix::process::Signal;
use tempfile::TempDir;

pub use self::config_tree::ConfigTree;
pub use self::edit::SaveMethod;
use crate::support::http::client::{HttpClient, HttpResponse};
use crate::support::metrics::ScrapedMetrics;
use crate::support::process::child::{ChildProcess, ProcessLogs};
use crate::support::process::clock::{AdjustableClock, ClockOffset};
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

const OMNIDAEMON_BINARY: &str = env!("CARGO_BIN_EXE_omnidaemon");
/// The environment that goes through.
const INHERITED_VARIABLES: [&str; 5] =
    ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];
const CONFIG_FILE_NAME: &str = "omnidaemon.yaml";

/// A running `omnidaemon serve`.
pub struct Omnidaemon {
    builder: ServerBuilder,
    process: ChildProcess,
    data_address: SocketAddr,
    admin_address: SocketAddr,
    /// The log line from which on an edit's echo counts.
    edit_log_mark: usize,
    save_count: usize,
}

/// One that is about to start.
pub struct ServerBuilder {
    dir: TempDir,
    yaml: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    config_map: bool,
    clock_offset: Option<ClockOffset>,
}

impl ServerBuilder {
    /// Replaces `<word>` in the config.
    ///
    /// # Panics
    /// When it is not in it.
    pub fn set_placeholder(mut self, word: &str, value: impl AsRef<str>) -> Self {
        let mark = format!("<{word}>");
        assert!(self.yaml.contains(&mark), "the test's config has no {mark}");
        self.yaml = self.yaml.replace(&mark, value.as_ref());
        self
    }

    /// Replaces `<upstream>` with the URL of one.
    pub fn with_upstream(self, upstream: &TestUpstream) -> Self {
        self.set_placeholder("upstream", upstream.url())
    }

    /// Replaces the whole config; `<dir>` in it is the server's directory.
    pub fn with_config_text(mut self, yaml: &str) -> Self {
        let dir = self.dir.path().to_str().expect("temporary paths are UTF-8");
        self.yaml = yaml.replace("<dir>", dir);
        self
    }

    /// Puts a file into its directory.
    pub fn with_file(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(name), text).expect("the file can be written");
        self
    }

    /// Sets an environment variable.
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts its wall clock off, and that of what it starts.
    pub fn with_clock(mut self, off: ClockOffset) -> Self {
        self.env.extend(off.environment_variables());
        self.clock_offset = Some(off);
        self
    }

    /// Puts its wall clock under one that the test sets, and that of what it starts.
    pub fn with_adjustable_clock(mut self, clock: &AdjustableClock) -> Self {
        self.env.extend(clock.environment_variables());
        self
    }

    /// Adds an argument to `serve --config FILE`.
    pub fn with_arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Lays the config out as a Kubernetes ConfigMap volume does.
    pub fn with_config_map(mut self) -> Self {
        self.config_map = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Omnidaemon {
        let omni = self.start_listening().await;
        let admin = omni.admin_client();
        wait_until(TEST_DEADLINE, "/readyz says 200", async || {
            admin.get("/readyz").await.status == 200
        })
        .await;
        omni
    }

    /// Starts it and waits until it listens, ready or not.
    pub async fn start_listening(self) -> Omnidaemon {
        if self.config_map {
            self.swap_config_link(0, &self.yaml);
            symlink(format!("..data/{CONFIG_FILE_NAME}"), self.config_path())
                .expect("the config can be linked");
        } else {
            fs::write(self.config_path(), &self.yaml).expect("the config can be written");
        }
        let (process, data, admin) = self.spawn_process().await;
        Omnidaemon {
            builder: self,
            process,
            data_address: data,
            admin_address: admin,
            edit_log_mark: 0,
            save_count: 0,
        }
    }

    async fn spawn_process(&self) -> (ChildProcess, SocketAddr, SocketAddr) {
        let mut command = Command::new(OMNIDAEMON_BINARY);
        command.arg("serve").arg("--config").arg(self.config_path()).args(&self.args);
        let mut process = ChildProcess::spawn("omnidaemon", self.prepare_environment(&mut command));
        let data = process
            .wait_for_log("the data plane's address", 0, |line| parse_listen_address(line, "data"))
            .await;
        let admin = process
            .wait_for_log("the admin plane's address", 0, |line| {
                parse_listen_address(line, "admin")
            })
            .await;
        if let Some(off) = self.clock_offset {
            off.assert_in_logs(&process.logs().lines());
        }
        (process, data, admin)
    }

    fn prepare_environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let kept = INHERITED_VARIABLES.iter().filter_map(|name| Some((name, env::var_os(name)?)));
        command.current_dir(self.dir.path()).env_clear().envs(kept).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)))
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("config").join(CONFIG_FILE_NAME)
    }

    /// Makes `..data` a link to a directory with the config, in one step.
    fn swap_config_link(&self, version: usize, yaml: &str) {
        let config = self.dir.path().join("config");
        let (versioned, link) = (format!("..{version}"), config.join("..data_tmp"));
        fs::create_dir(config.join(&versioned)).expect("a version has a directory of its own");
        fs::write(config.join(&versioned).join(CONFIG_FILE_NAME), yaml)
            .expect("the config can be written");
        symlink(&versioned, &link).expect("a version can be linked");
        fs::rename(&link, config.join("..data")).expect("a link can be renamed");
    }
}

impl Omnidaemon {
    /// Prepares one under this config, in which `<dir>` is its directory.
    pub fn with_config(yaml: &str) -> ServerBuilder {
        let dir = tempfile::Builder::new()
            .prefix("omnidaemon-it-")
            .tempdir()
            .expect("there is room for a directory");
        fs::create_dir(dir.path().join("config")).expect("a new directory is empty");
        let mut yaml =
            yaml.replace("<dir>", dir.path().to_str().expect("temporary paths are UTF-8"));
        for section in ["proxy", "admin"] {
            if !yaml.lines().any(|line| line.starts_with(&format!("{section}:"))) {
                yaml = format!("{section}: {{listen: 127.0.0.1:0}}\n{yaml}");
            }
        }
        ServerBuilder {
            dir,
            yaml,
            env: Vec::new(),
            args: Vec::new(),
            config_map: false,
            clock_offset: None,
        }
    }

    /// A URL on the data plane.
    pub fn data_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data_address)
    }

    /// A URL on the admin plane.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_address)
    }

    /// The data plane's `127.0.0.1:PORT`.
    pub fn data_address(&self) -> String {
        self.data_address.to_string()
    }

    /// Requests to the data plane.
    pub fn data_client(&self) -> HttpClient {
        HttpClient::new(&self.data_url(""))
    }

    /// Requests to the admin plane.
    pub fn admin_client(&self) -> HttpClient {
        HttpClient::new(&self.admin_url(""))
    }

    /// Its directory: `config/`, and what it writes.
    pub fn dir(&self) -> &Path {
        self.builder.dir.path()
    }

    /// What it logged.
    pub fn logs(&self) -> &ProcessLogs {
        self.process.logs()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    /// Runs another command of the binary, which finds this server.
    pub async fn run_cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(OMNIDAEMON_BINARY);
        self.builder
            .prepare_environment(&mut command)
            .env("OMNIDAEMON_ADMIN_URL", self.admin_url(""))
            .args(args);
        let output = tokio::process::Command::from(command).output().await;
        output.expect("the binary that serves can be run again")
    }

    /// Starts another command of the binary, which goes on beside this one under the same config.
    pub fn spawn_command(&self, name: &str, args: &[&str]) -> ChildProcess {
        let mut command = Command::new(OMNIDAEMON_BINARY);
        ChildProcess::spawn(
            name,
            self.builder
                .prepare_environment(&mut command)
                .args(args)
                .arg("--config")
                .arg(self.builder.config_path()),
        )
    }

    /// Scrapes `/metrics`.
    pub async fn scrape_metrics(&self) -> ScrapedMetrics {
        let answer: HttpResponse = self.admin_client().get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        ScrapedMetrics::parse(&answer.text())
    }

    /// One value of it: the sum of the series with these labels, which must be.
    pub async fn metric_value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.scrape_metrics().await.value(name, labels)
    }

    /// Waits until the proxy knows of a live consumer of a topic.
    pub async fn wait_until_topic_has_slots(&self, topic: &str) {
        wait_until(TEST_DEADLINE, "a live consumer of the topic", async || {
            self.metric_value("omnidaemon_topic_slots", &[("topic", topic)]).await > 0.0
        })
        .await;
    }

    /// Asks it to drain and end.
    pub fn send_sigterm(&mut self) {
        self.process.send_signal(Signal::TERM);
    }

    /// Asks it to read its config again; the log from here on tells.
    pub fn send_sighup(&mut self) {
        self.edit_log_mark = self.logs().len();
        self.process.send_signal(Signal::HUP);
    }

    /// Kills it as the kernel would.
    pub fn kill(&mut self) {
        self.process.send_signal(Signal::KILL);
    }

    /// Waits until it ended.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        self.process.wait_for_exit().await
    }

    /// Starts it once more, killing what still runs: the same directory and config, other ports.
    pub async fn restart(&mut self) {
        self.kill();
        self.wait_for_exit().await;
        (self.process, self.data_address, self.admin_address) = self.builder.spawn_process().await;
        self.edit_log_mark = 0;
    }
}

/// The address in a log line `… listening plane=data addr=127.0.0.1:1234`, as text or JSON.
pub fn parse_listen_address(line: &str, plane: &str) -> Option<SocketAddr> {
    let here = line.contains("listening") && log_field(line, "plane") == Some(plane);
    here.then(|| log_field(line, "addr"))??.parse().ok()
}

/// A field of a log line, quoted or not.
fn log_field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let quoted = line.split_once(&format!("\"{name}\":"));
    let (_, rest) = quoted.or_else(|| line.split_once(&format!(" {name}=")))?;
    rest.trim_start().trim_start_matches('"').split(['"', ' ', ',', '}']).next()
}

#[test]
fn bound_addresses_are_read_from_text_and_json_logs() {
    let addr = Some("127.0.0.1:1234".parse().expect("an address"));
    assert_eq!(
        parse_listen_address(
            "2026 INFO omnidaemon::app: listening plane=data addr=127.0.0.1:1234",
            "data"
        ),
        addr
    );
    assert_eq!(
        parse_listen_address("2026 INFO listening plane=\"data\" addr=\"127.0.0.1:1234\"", "data"),
        addr
    );
    let json = concat!(
        r#"{"fields":{"message":"listening","plane":"admin","addr":"127.0.0.1:1234"},"#,
        r#""target":"x"}"#
    );
    assert_eq!(
        (parse_listen_address(json, "admin"), parse_listen_address(json, "data")),
        (addr, None)
    );
}
