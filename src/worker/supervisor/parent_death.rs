//! Ends a worker process together with its supervisor.

use std::io;

/// Asks the kernel to send this process a SIGTERM when its parent dies. A worker process calls it
/// first, so that it does not outlive a supervisor that was killed. It works on Linux alone and
/// does nothing elsewhere.
///
/// # Errors
/// The error of the system call.
pub fn terminate_with_parent() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    Ok(())
}
