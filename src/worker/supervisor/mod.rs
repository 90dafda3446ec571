//! Supervises worker processes, each `<program> runner --name worker-N`. Without a fixed number it
//! follows the configuration: missing workers are started at once, and surplus ones, those with the
//! highest numbers, are drained.
//!
//! A worker that ends without being stopped is counted as crashed and restarted. The first restart
//! is immediate; after further quick deaths in a row, each within [`STABLE_AFTER`], the delay is
//! 0.1 s and doubles up to 30 s. At shutdown each worker gets SIGTERM, and SIGKILL after `drain`.
//! Each worker leads a process group of its own, so that Ctrl-C in a terminal signals only the
//! supervisor, which then stops the workers.

mod parent_death;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::parent_death::terminate_with_parent;
use crate::backoff::BackoffPolicy;
use crate::metrics::Metrics;

/// A worker that ran this long resets the count of quick deaths.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// The delays before a worker is restarted, from its second quick death in a row on.
const RESTART_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(30));
/// The interval between reads of the configured number.
const WORKER_COUNT_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A supervisor of worker processes.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// The number of processes; none to follow the configuration.
    pub fixed_count: Option<usize>,
    /// The program, usually the current executable.
    pub program: PathBuf,
    /// The arguments after `runner --name worker-N`.
    pub args: Vec<String>,
    /// How long a process may take to end after SIGTERM.
    pub drain: Duration,
}

// === impl Supervisor ===

impl Supervisor {
    /// Supervises worker processes until `shutdown`, and returns when all of them have ended.
    /// `configured` returns the currently configured number of processes.
    pub async fn run(
        self,
        configured: impl Fn() -> usize,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) {
        let (supervisor, mut running) = (Arc::new(self), JoinSet::new());
        // One token per wanted worker; cancelling a token drains its worker.
        let mut stop_tokens: Vec<CancellationToken> = Vec::new();
        while !shutdown.is_cancelled() {
            let wanted = supervisor.fixed_count.unwrap_or_else(&configured);
            stop_tokens.drain(wanted.min(stop_tokens.len())..).for_each(|surplus| surplus.cancel());
            while stop_tokens.len() < wanted {
                let name = format!("worker-{}", stop_tokens.len() + 1);
                let stop = shutdown.child_token();
                stop_tokens.push(stop.clone());
                let (supervisor, metrics) = (Arc::clone(&supervisor), Arc::clone(&metrics));
                running.spawn(async move { supervisor.run_worker(&name, &metrics, &stop).await });
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(joined) = running.join_next() => report_panic(joined),
                () = sleep(WORKER_COUNT_POLL_INTERVAL), if supervisor.fixed_count.is_none() => {}
            }
        }
        while let Some(joined) = running.join_next().await {
            report_panic(joined);
        }
    }

    /// Runs one worker, and restarts it when it dies, until `shutdown`.
    async fn run_worker(&self, name: &str, metrics: &Metrics, shutdown: &CancellationToken) {
        let mut quick_deaths = 0;
        while !shutdown.is_cancelled() {
            let started_at = Instant::now();
            match self.spawn_worker(name) {
                Ok(mut child) => tokio::select! {
                    status = child.wait() => {
                        tracing::error!(
                            worker = name, ?status,
                            "worker died without being stopped"
                        );
                    }
                    () = shutdown.cancelled() => return self.stop_worker(name, child).await,
                },
                Err(error) => {
                    let program = &self.program;
                    tracing::error!(worker = name, ?program, %error, "worker not started");
                }
            }
            metrics.workers_crashed.inc();
            quick_deaths = if started_at.elapsed() < STABLE_AFTER { quick_deaths + 1 } else { 1 };
            let _ = shutdown.run_until_cancelled(sleep(restart_delay(quick_deaths))).await;
        }
    }

    fn spawn_worker(&self, name: &str) -> io::Result<Child> {
        let child = Command::new(&self.program)
            .args(["runner", "--name", name])
            .args(&self.args)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        tracing::info!(worker = name, pid = child.id(), "worker started");
        Ok(child)
    }

    async fn stop_worker(&self, name: &str, mut child: Child) {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // an error means that the process has just ended
            let _ = kill_process(pid, Signal::TERM);
        }
        if let Ok(status) = timeout(self.drain, child.wait()).await {
            tracing::info!(worker = name, ?status, "worker ended");
            return;
        }
        let drain = &self.drain;
        tracing::warn!(
            worker = name,
            ?drain,
            "worker did not end within the drain time: it is killed"
        );
        if let Err(error) = child.kill().await {
            tracing::error!(worker = name, %error, "worker could not be killed");
        }
    }
}

fn report_panic(joined: Result<(), JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "the supervision of a worker panicked");
    }
}

/// The delay before a worker is restarted after its quick death number `quick_deaths` in a row,
/// from 1.
fn restart_delay(quick_deaths: u32) -> Duration {
    match quick_deaths {
        0 | 1 => Duration::ZERO,
        n => RESTART_BACKOFF.delay_for(n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::wait_until;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A supervisor of a shell script that logs `<name> <pid>` to `dir/log` and then runs `body`.
    fn script_supervisor(dir: &Path, count: usize, drain: Duration, body: &str) -> Supervisor {
        let program = dir.join("omnidaemon");
        let script = format!("#!/bin/sh\necho \"$3 $$ $*\" >> {0}/log\n{body}\n", dir.display());
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("executable");
        Supervisor {
            fixed_count: Some(count),
            program,
            args: vec!["--config".into(), "x.yaml".into()],
            drain,
        }
    }

    fn read_started_lines(dir: &Path) -> Vec<String> {
        std::fs::read_to_string(dir.join("log"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn parse_pid(line: &str) -> Pid {
        let pid = line.split(' ').nth(1).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.expect("a pid on the line")
    }

    fn is_process_alive(line: &str) -> bool {
        rustix::process::test_kill_process(parse_pid(line)).is_ok()
    }

    #[tokio::test]
    async fn a_killed_worker_is_replaced_and_counted_and_all_end_at_shutdown() {
        let dir = tempfile::tempdir().expect("a directory");
        let (metrics, shutdown) = (Arc::new(Metrics::new(1)), CancellationToken::new());
        let supervisor =
            script_supervisor(dir.path(), 2, Duration::from_secs(20), "exec sleep 600");
        let running = tokio::spawn(supervisor.run(|| 0, Arc::clone(&metrics), shutdown.clone()));
        wait_until(|| read_started_lines(dir.path()).len() == 2).await;
        let victim = read_started_lines(dir.path())
            .into_iter()
            .find(|line| line.starts_with("worker-1 "))
            .expect("worker-1");
        assert!(victim.ends_with("runner --name worker-1 --config x.yaml"), "{victim}");
        kill_process(parse_pid(&victim), Signal::KILL).expect("killed");
        wait_until(|| {
            read_started_lines(dir.path())
                .iter()
                .filter(|line| line.starts_with("worker-1 "))
                .count()
                == 2
        })
        .await;
        assert_eq!(metrics.workers_crashed.get(), 1);
        shutdown.cancel();
        running.await.expect("joined");
        assert!(!read_started_lines(dir.path()).iter().any(|line| is_process_alive(line)));
        assert_eq!(
            metrics.workers_crashed.get(),
            1,
            "a worker stopped at shutdown is not counted as crashed"
        );
    }

    #[tokio::test]
    async fn a_worker_that_ignores_sigterm_is_killed_after_its_drain_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let shutdown = CancellationToken::new();
        let body = "trap '' TERM; touch $(dirname $0)/ready; while :; do sleep 0.1; done";
        let supervisor = script_supervisor(dir.path(), 1, Duration::from_millis(300), body);
        let running =
            tokio::spawn(supervisor.run(|| 0, Arc::new(Metrics::new(1)), shutdown.clone()));
        wait_until(|| dir.path().join("ready").exists()).await;
        shutdown.cancel();
        running.await.expect("joined");
        assert!(!is_process_alive(&read_started_lines(dir.path())[0]));
    }

    #[tokio::test]
    async fn without_a_fixed_number_the_supervisor_follows_the_configured_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (metrics, shutdown) = (Arc::new(Metrics::new(1)), CancellationToken::new());
        let supervisor = Supervisor {
            fixed_count: None,
            ..script_supervisor(dir.path(), 0, Duration::from_secs(20), "exec sleep 600")
        };
        let wanted = Arc::new(AtomicUsize::new(1));
        let configured = {
            let wanted = Arc::clone(&wanted);
            move || wanted.load(Ordering::Relaxed)
        };
        let running =
            tokio::spawn(supervisor.run(configured, Arc::clone(&metrics), shutdown.clone()));
        wait_until(|| read_started_lines(dir.path()).len() == 1).await;
        wanted.store(3, Ordering::Relaxed);
        wait_until(|| read_started_lines(dir.path()).len() == 3).await;
        wanted.store(1, Ordering::Relaxed);
        wait_until(|| {
            read_started_lines(dir.path()).iter().filter(|line| is_process_alive(line)).count() == 1
        })
        .await;
        let left = read_started_lines(dir.path())
            .into_iter()
            .find(|line| is_process_alive(line))
            .expect("one is left");
        assert!(left.starts_with("worker-1 "), "{left}");
        assert_eq!(metrics.workers_crashed.get(), 0, "a drained worker is not counted as crashed");
        shutdown.cancel();
        running.await.expect("joined");
    }

    #[test]
    fn five_quick_deaths_are_replaced_within_two_seconds_and_a_crash_loop_slows_down() {
        let pauses: Vec<_> = (1..=12).map(|deaths| restart_delay(deaths).as_millis()).collect();
        assert_eq!(
            pauses,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
    }
}
