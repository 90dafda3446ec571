//! The first process of a container (process 1). The kernel gives it all orphans of the container,
//! and it must reap them. The program then starts itself once more as its child, passes signals on
//! to that child, reaps whatever ends, and exits as the child did.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Runs this program as a child if this is process 1; `None` if it is not.
pub(super) fn run_if_first_process() -> Option<io::Result<ExitCode>> {
    getpid().is_init().then(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run_as_init())
    })
}

async fn run_as_init() -> io::Result<ExitCode> {
    let mut child_ended = signal(SignalKind::child())?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hang_up, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    // In a group of its own, it gets the Ctrl-C of a terminal once, from this process.
    let mut args = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(args.next().unwrap_or_default()).args(args).process_group(0);
    let program = Pid::from_child(&command.spawn()?);
    loop {
        let signal = tokio::select! {
            _ = child_ended.recv() => {
                if let Some(status) = reap_children(program) {
                    return Ok(exit_code_of(status));
                }
                continue;
            }
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hang_up.recv() => Signal::HUP,
            _ = quit.recv() => Signal::QUIT,
        };
        let _ = kill_process(program, signal); // an error means that it has just ended
    }
}

/// Reaps the processes that have ended; the status of `program`, if it is one of them.
fn reap_children(program: Pid) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            found = Some(status);
        }
    }
    found
}

/// The exit status of the child; 128 and the number of the signal that ended it, as of a shell.
fn exit_code_of(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
