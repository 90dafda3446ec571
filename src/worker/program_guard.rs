//! The guard of a program: a process between a worker and the program of a `command` handler.
//!
//! The guard starts the program, which inherits its stdin, stdout and stderr, and exits as the
//! program did. When the worker dies, also by SIGKILL, the guard kills the program and all
//! processes that came of it. On Linux the kernel tells the guard of the worker's death, and makes
//! the guard the parent of all processes that the program leaves, so that they are found and
//! reaped; elsewhere the guard looks for its parent four times a second and kills its process
//! group. The guard and the program are in one process group, which the guard leads: a SIGTERM to
//! the group is for the program, and a SIGINT to the guard kills everything at once.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process,
    kill_process_group, setrlimit, wait,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// The first argument of a process that is to be a guard; the worker's process id and the command
/// line of the program follow.
const GUARD_ARGUMENT: &str = "__program-guard";
/// The first argument of a guard whose program was ended by a signal, and which is to end in the
/// same way; the number of the signal follows.
const END_BY_SIGNAL_ARGUMENT: &str = "__end-by-signal";
/// The exit status of a guard whose program could not be started.
const NOT_STARTED_EXIT: u8 = 126;
/// How often a guard looks for its parent, beside the signal of the kernel.
const PARENT_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The longest time that a guard tries to kill the processes of its program.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks at the processes that are left of a program.
const KILL_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How the guard of a program is started: by an executable whose `main` calls [`run_if_guard`].
#[derive(Clone, Debug)]
pub struct GuardCommand {
    executable: PathBuf,
}

/// Why a guard stops waiting for its program.
enum GuardEnd {
    /// The program has exited.
    Exited(WaitStatus),
    /// The program is not wanted any more: its worker has died, or asks for the end.
    Unwanted,
}

// === impl GuardCommand ===

impl GuardCommand {
    /// The executable of this process. On Linux it can be started again after its file was
    /// replaced.
    ///
    /// # Errors
    /// If the path of the executable is not known.
    pub fn from_current_executable() -> io::Result<Self> {
        Ok(Self { executable: find_executable()? })
    }

    /// The command that starts the guard of a program, with this process as the worker.
    pub(super) fn build(&self, command_line: &[String]) -> Command {
        let worker = std::process::id().to_string();
        let mut command = Command::new(&self.executable);
        command.arg0("omnidaemon").args([GUARD_ARGUMENT, &worker]).args(command_line);
        command
    }
}

fn find_executable() -> io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { Ok(link) } else { std::env::current_exe() }
}

/// Runs the guard of a program, if the arguments of this process ask for it, and returns its exit
/// status. A `main` calls it before it starts threads.
#[must_use]
pub fn run_if_guard() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let mode = args.next()?;
    if mode != GUARD_ARGUMENT && mode != END_BY_SIGNAL_ARGUMENT {
        return None;
    }
    let number: Option<i32> = args.next().and_then(|number| number.to_str()?.parse().ok());
    if mode == END_BY_SIGNAL_ARGUMENT {
        return Some(end_by_signal(number.unwrap_or_default()));
    }
    let command_line: Vec<OsString> = args.collect();
    let worker = number.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no worker"));
    let result = worker.and_then(|worker| guard_program(worker, &command_line));
    Some(result.unwrap_or_else(|error| {
        let program = command_line.first().map(|program| program.to_string_lossy());
        eprintln!("{} could not be started: {error}", program.unwrap_or_default());
        ExitCode::from(NOT_STARTED_EXIT)
    }))
}

/// Starts the program, waits for its end and exits as it did, unless `worker` dies before.
fn guard_program(worker: Pid, command_line: &[OsString]) -> io::Result<ExitCode> {
    let (program, arguments) =
        command_line.split_first().ok_or_else(|| io::Error::other("no program is named"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(async {
        // The signals are caught before they are asked for.
        let watch = ProgramWatch::new(worker)?;
        follow_parent_and_children()?;
        if !watch.is_worker_alive() {
            return Ok(GuardEnd::Unwanted);
        }
        let child = Command::new(program).args(arguments).spawn()?;
        Ok::<_, io::Error>(watch.wait_for_end(Pid::from_child(&child)).await)
    })?;
    kill_descendants();
    match end {
        GuardEnd::Exited(status) => exit_as(status),
        GuardEnd::Unwanted => {
            // Includes this process.
            kill_process_group(getpid(), Signal::KILL)?;
            Ok(ExitCode::from(NOT_STARTED_EXIT))
        }
    }
}

/// Asks the kernel for a SIGTERM when the worker dies, and to be the parent of the orphans among
/// the descendants.
fn follow_parent_and_children() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        rustix::process::set_child_subreaper(Some(getpid()))?;
    }
    Ok(())
}

/// What a guard listens to.
struct ProgramWatch {
    worker: Pid,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    child_ended: tokio::signal::unix::Signal,
}

// === impl ProgramWatch ===

impl ProgramWatch {
    fn new(worker: Pid) -> io::Result<Self> {
        Ok(Self {
            worker,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child_ended: signal(SignalKind::child())?,
        })
    }

    fn is_worker_alive(&self) -> bool {
        getppid() == Some(self.worker)
    }

    /// Reaps all children until the program is one of them, the worker has died or asks for the
    /// end.
    async fn wait_for_end(mut self, program: Pid) -> GuardEnd {
        let mut parent_poll = interval(PARENT_POLL_INTERVAL);
        parent_poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = self.child_ended.recv() => {
                    if let Some(status) = reap_children(Some(program)) {
                        return GuardEnd::Exited(status);
                    }
                }
                _ = self.interrupt.recv() => return GuardEnd::Unwanted,
                // The program got this signal too. It also tells of the end of the worker's thread
                // that started the guard, which is mostly that of the worker.
                _ = self.terminate.recv() => {}
                _ = parent_poll.tick() => {}
            }
            if !self.is_worker_alive() {
                return GuardEnd::Unwanted;
            }
        }
    }
}

/// Reaps the children that have ended; the status of `wanted`, if it is one of them.
fn reap_children(wanted: Option<Pid>) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == wanted {
            found = Some(status);
        }
    }
    found
}

/// Kills and reaps all descendants: the children of a child that is killed become children of this
/// process. Does nothing where the system does not list children.
fn kill_descendants() {
    let give_up_at = Instant::now() + KILL_TIMEOUT;
    while Instant::now() < give_up_at {
        let killed = list_children().into_iter().filter(|&pid| {
            kill_process(pid, Signal::KILL).is_ok() // not of a process of another user
        });
        if killed.count() == 0 {
            return;
        }
        reap_children(None);
        std::thread::sleep(KILL_POLL_INTERVAL);
    }
}

/// The children of this process, ended ones included, as Linux lists them.
fn list_children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        let parse = |word: &str| word.parse().ok().and_then(Pid::from_raw);
        list.split_whitespace().filter_map(parse).collect::<Vec<_>>()
    });
    pids.collect()
}

/// Exits with the status of the program. If a signal ended the program, starts this executable
/// anew, since only a process without handlers of signals can end by each of them.
fn exit_as(status: WaitStatus) -> io::Result<ExitCode> {
    if let Some(signal) = status.terminating_signal() {
        let error = Command::new(find_executable()?)
            .args([END_BY_SIGNAL_ARGUMENT, &signal.to_string()])
            .exec();
        return Err(error);
    }
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(u8::MAX)))
}

/// Ends this process by a signal, without a core dump of its own.
fn end_by_signal(number: i32) -> ExitCode {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Some(signal) = Signal::from_named_raw(number) {
        // Rust's handler of SIGSEGV and SIGBUS removes itself at the first one.
        for _ in 0..2 {
            let _ = kill_process(getpid(), signal);
        }
    }
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}
