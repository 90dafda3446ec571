//! `omnidaemon serve`, the real binary, in a directory of its own and on free ports.
//!
//! The config is YAML with `<words>` that the test fills in; a `proxy` or `admin` section that it does not
//! write is one that listens on a free port. Nothing of the caller's environment reaches the process but
//! what finding programs needs, so that a developer's `REDIS_URL` changes no result.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::{env, fs};

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::{Answer, Client};
use super::clock::Off;
use super::metrics::Metrics;
use super::process::{Logs, Process};
use super::{PATIENCE, Upstream, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_omnidaemon");
/// The environment that goes through.
const KEPT: [&str; 5] = ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];
/// What the log says after a reload.
const APPLIED: &str = "config applied";
const REFUSED: &str = "config refused";
const FILE: &str = "omnidaemon.yaml";

/// A running `omnidaemon serve`.
pub struct Omnidaemon {
    launch: Launch,
    process: Process,
    data: SocketAddr,
    admin: SocketAddr,
    /// The log line from which on an edit's echo counts.
    edited: usize,
    saves: usize,
}

/// One that is about to start.
pub struct Launch {
    dir: TempDir,
    yaml: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    config_map: bool,
    off: Option<Off>,
}

/// How an edit reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// Truncates and writes, as a shell's `>` and some editors do.
    InPlace,
    /// Writes beside it and renames over it, as most editors and `sed -i` do.
    Rename,
    /// Swaps the directory that the file is a link into, as Kubernetes does; needs [`Launch::config_map`].
    SymlinkSwap,
}

impl Launch {
    /// Replaces `<word>` in the config.
    ///
    /// # Panics
    /// When it is not in it.
    pub fn set(mut self, word: &str, value: impl AsRef<str>) -> Self {
        let mark = format!("<{word}>");
        assert!(self.yaml.contains(&mark), "the test's config has no {mark}");
        self.yaml = self.yaml.replace(&mark, value.as_ref());
        self
    }

    /// Replaces `<upstream>` with the URL of one.
    pub fn upstream(self, upstream: &Upstream) -> Self {
        self.set("upstream", upstream.url())
    }

    /// Puts a file into its directory.
    pub fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(name), text).expect("the file can be written");
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts its wall clock off, and that of what it starts.
    pub fn clock(mut self, off: Off) -> Self {
        self.env.extend(off.environment());
        self.off = Some(off);
        self
    }

    /// Adds an argument to `serve --config FILE`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Lays the config out as a Kubernetes ConfigMap volume does.
    pub fn config_map(mut self) -> Self {
        self.config_map = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Omnidaemon {
        let omni = self.launch().await;
        let admin = omni.admin_client();
        eventually(PATIENCE, "/readyz says 200", async || admin.get("/readyz").await.status == 200).await;
        omni
    }

    /// Starts it and waits until it listens, ready or not.
    pub async fn launch(self) -> Omnidaemon {
        if self.config_map {
            self.swap(0, &self.yaml);
            symlink(format!("..data/{FILE}"), self.config()).expect("the config can be linked");
        } else {
            fs::write(self.config(), &self.yaml).expect("the config can be written");
        }
        let (process, data, admin) = self.spawn().await;
        Omnidaemon { launch: self, process, data, admin, edited: 0, saves: 0 }
    }

    async fn spawn(&self) -> (Process, SocketAddr, SocketAddr) {
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(self.config()).args(&self.args);
        let mut process = Process::spawn("omnidaemon", self.environment(&mut command));
        let data = process.log("the data plane's address", 0, |line| bound(line, "data")).await;
        let admin = process.log("the admin plane's address", 0, |line| bound(line, "admin")).await;
        if let Some(off) = self.off {
            off.assert_shows_in(&process.logs().lines());
        }
        (process, data, admin)
    }

    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let kept = KEPT.iter().filter_map(|name| Some((name, env::var_os(name)?)));
        command.current_dir(self.dir.path()).env_clear().envs(kept).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)))
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config").join(FILE)
    }

    /// Makes `..data` a link to a directory with the config, in one step.
    fn swap(&self, version: usize, yaml: &str) {
        let config = self.dir.path().join("config");
        let (versioned, link) = (format!("..{version}"), config.join("..data_tmp"));
        fs::create_dir(config.join(&versioned)).expect("a version has a directory of its own");
        fs::write(config.join(&versioned).join(FILE), yaml).expect("the config can be written");
        symlink(&versioned, &link).expect("a version can be linked");
        fs::rename(&link, config.join("..data")).expect("a link can be renamed");
    }
}

impl Omnidaemon {
    /// Prepares one under this config, in which `<dir>` is its directory.
    pub fn with_config(yaml: &str) -> Launch {
        let dir = tempfile::Builder::new().prefix("omnidaemon-it-").tempdir().expect("there is room for a directory");
        fs::create_dir(dir.path().join("config")).expect("a new directory is empty");
        let mut yaml = yaml.replace("<dir>", dir.path().to_str().expect("temporary paths are UTF-8"));
        for section in ["proxy", "admin"] {
            if !yaml.lines().any(|line| line.starts_with(&format!("{section}:"))) {
                yaml = format!("{section}: {{listen: 127.0.0.1:0}}\n{yaml}");
            }
        }
        Launch { dir, yaml, env: Vec::new(), args: Vec::new(), config_map: false, off: None }
    }

    /// A URL on the data plane.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data)
    }

    /// A URL on the admin plane.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The data plane's `127.0.0.1:PORT`.
    pub fn addr(&self) -> String {
        self.data.to_string()
    }

    /// Requests to the data plane.
    pub fn client(&self) -> Client {
        Client::new(&self.url(""))
    }

    /// Requests to the admin plane.
    pub fn admin_client(&self) -> Client {
        Client::new(&self.admin(""))
    }

    /// Its directory: `config/`, and what it writes.
    pub fn dir(&self) -> &Path {
        self.launch.dir.path()
    }

    /// What it logged.
    pub fn logs(&self) -> &Logs {
        self.process.logs()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs another command of the binary, which finds this server.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        self.launch.environment(&mut command).env("OMNIDAEMON_ADMIN_URL", self.admin("")).args(args);
        let output = tokio::process::Command::from(command).output().await;
        output.expect("the binary that serves can be run again")
    }

    /// Starts another command of the binary, which goes on beside this one under the same config.
    pub fn beside(&self, name: &str, args: &[&str]) -> Process {
        let mut command = Command::new(BINARY);
        Process::spawn(name, self.launch.environment(&mut command).args(args).arg("--config").arg(self.launch.config()))
    }

    /// Scrapes `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        let answer: Answer = self.admin_client().get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// One value of it: the sum of the series with these labels, which must be.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.value(name, labels)
    }

    /// Edits the config and saves it in place.
    ///
    /// # Panics
    /// When the edit changes nothing.
    pub fn edit_config(&mut self, edit: impl FnOnce(&str) -> String) {
        self.edit_config_by(Save::InPlace, edit);
    }

    /// Edits the config and saves it in a given way.
    ///
    /// # Panics
    /// When the edit changes nothing.
    pub fn edit_config_by(&mut self, save: Save, edit: impl FnOnce(&str) -> String) {
        let config = self.launch.config();
        let old = fs::read_to_string(&config).expect("the config can be read");
        let new = edit(&old);
        assert_ne!(old, new, "the edit changes nothing");
        self.edited = self.logs().len();
        self.saves += 1;
        assert_eq!(save == Save::SymlinkSwap, self.launch.config_map, "links are swapped where there are links");
        match save {
            Save::InPlace => fs::write(&config, new).expect("the config can be written"),
            Save::Rename => {
                let beside = config.with_extension("yaml.new");
                fs::write(&beside, new).expect("the config can be written");
                fs::rename(&beside, &config).expect("the config can be replaced");
            }
            Save::SymlinkSwap => self.launch.swap(self.saves, &new),
        }
    }

    /// Waits until the last edit rules.
    ///
    /// # Panics
    /// When it doesn't in good time; the log shows why.
    pub async fn wait_until_config_applied(&mut self) {
        self.process.log(APPLIED, self.edited, |line| line.contains(APPLIED).then_some(())).await;
    }

    /// Waits until the last edit is refused, and returns the log line that says so.
    ///
    /// # Panics
    /// When it isn't in good time.
    pub async fn wait_until_config_refused(&mut self) -> String {
        self.process.log(REFUSED, self.edited, |line| line.contains(REFUSED).then(|| line.to_owned())).await
    }

    /// Asks it to drain and end.
    pub fn sigterm(&mut self) {
        self.process.signal(Signal::TERM);
    }

    /// Asks it to read its config again; the log from here on tells.
    pub fn sighup(&mut self) {
        self.edited = self.logs().len();
        self.process.signal(Signal::HUP);
    }

    /// Kills it as the kernel would.
    pub fn kill9(&mut self) {
        self.process.signal(Signal::KILL);
    }

    /// Waits until it ended.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait_exit().await
    }

    /// Starts it once more, killing what still runs: the same directory and config, other ports.
    pub async fn restart(&mut self) {
        self.kill9();
        self.wait_exit().await;
        (self.process, self.data, self.admin) = self.launch.spawn().await;
        self.edited = 0;
    }
}

/// The address in a log line `… listening plane=data addr=127.0.0.1:1234`, as text or JSON.
pub fn bound(line: &str, plane: &str) -> Option<SocketAddr> {
    let here = line.contains("listening") && field(line, "plane") == Some(plane);
    here.then(|| field(line, "addr"))??.parse().ok()
}

/// A field of a log line, quoted or not.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let quoted = line.split_once(&format!("\"{name}\":"));
    let (_, rest) = quoted.or_else(|| line.split_once(&format!(" {name}=")))?;
    rest.trim_start().trim_start_matches('"').split(['"', ' ', ',', '}']).next()
}

#[test]
fn bound_addresses_are_read_from_text_and_json_logs() {
    let addr = Some("127.0.0.1:1234".parse().expect("an address"));
    assert_eq!(bound("2026 INFO omnidaemon::app: listening plane=data addr=127.0.0.1:1234", "data"), addr);
    assert_eq!(bound("2026 INFO listening plane=\"data\" addr=\"127.0.0.1:1234\"", "data"), addr);
    let json = r#"{"fields":{"message":"listening","plane":"admin","addr":"127.0.0.1:1234"},"target":"x"}"#;
    assert_eq!((bound(json, "admin"), bound(json, "data")), (addr, None));
}
