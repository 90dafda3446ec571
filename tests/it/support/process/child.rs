//! A child process that a test owns.
//!
//! Its stdout and stderr are drained by threads from the start, so that it never blocks on a full
//! pipe; a test that fails prints them. Dropping a process kills it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::support::{TEST_DEADLINE, wait_for_some, wait_until};

/// A running process, or one that has ended.
pub struct ChildProcess {
    name: String,
    child: Child,
    logs: ProcessLogs,
}

/// The lines that a process wrote so far, of both streams, in the order they were read.
#[derive(Clone, Default)]
pub struct ProcessLogs(Arc<Mutex<Vec<String>>>);

impl ChildProcess {
    /// Starts `command`; `name` heads its logs.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let spawned =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child =
            spawned.unwrap_or_else(|error| panic!("{name} does not start ({error}): {command:?}"));
        let logs = ProcessLogs::default();
        logs.collect_from(child.stdout.take().expect("stdout is piped"));
        logs.collect_from(child.stderr.take().expect("stderr is piped"));
        Self { name: name.to_owned(), child, logs }
    }

    /// What it wrote so far.
    pub fn logs(&self) -> &ProcessLogs {
        &self.logs
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn send_signal(&mut self, signal: Signal) {
        // A child that was not waited for keeps its id, so this can't hit a stranger.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            kill_process(Pid::from_child(&self.child), signal).expect("a live child takes signals");
        }
    }

    /// Makes it stand still, as a host that hangs, and waits until it does: a signal is sent before
    /// it is followed. With SIGCONT it goes on.
    pub async fn freeze(&mut self) {
        self.send_signal(Signal::STOP);
        let id = WaitId::Pid(Pid::from_child(&self.child));
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let what = format!("{} stands still", self.name);
        // told once all of its threads do
        wait_until(TEST_DEADLINE, &what, async || {
            waitid(id.clone(), options).is_ok_and(|status| status.is_some())
        })
        .await;
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// How it ended; none while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not in good time.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let what = format!("{} exits", self.name);
        wait_for_some(TEST_DEADLINE, &what, async || {
            self.child.try_wait().expect("a child can be asked")
        })
        .await
    }

    /// Waits for what `find` sees in one of the log lines from number `from` on.
    ///
    /// # Panics
    /// When it doesn't come in good time, or the process ends without it.
    pub async fn wait_for_log<T>(
        &mut self,
        what: &str,
        from: usize,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        let what = format!("{} logs {what}", self.name);
        wait_for_some(TEST_DEADLINE, &what, async || {
            // Asked before the lines are read: nothing comes after this, so what is not there never
            // will be.
            let over = !self.is_running() && !self.logs.is_open();
            let found = self.logs.lines().iter().skip(from).find_map(|line| find(line));
            assert!(found.is_some() || !over, "it ended before: {what}");
            found
        })
        .await
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        if std::thread::panicking() {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            eprintln!("--- {} ({status})\n{}", self.name, self.logs.lines().join("\n"));
        }
    }
}

impl ProcessLogs {
    /// A copy of the lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them as one text.
    pub fn to_text(&self) -> String {
        self.lines().join("\n")
    }

    /// How many there are: a mark for [`ChildProcess::log`].
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether any line contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    /// Whether more may come: a reader still holds its end.
    pub fn is_open(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn collect_from(&self, stream: impl Read + Send + 'static) {
        let logs = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                logs.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }
}
