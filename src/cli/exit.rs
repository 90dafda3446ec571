//! How a command ends: its exit status, and what it says when it cannot do what was asked.
//!
//! The codes are an interface, for scripts; `omnidaemon --help` lists them. What an error says goes
//! to stderr, names the thing and says what to do.

use std::io;
use std::process::ExitCode;

use http::StatusCode;

use crate::app::AppError;
use crate::config::ConfigProblems;
use crate::operations::DeadLetterError;
use crate::store::StoreError;

/// The exit codes, as `--help` shows them.
pub(super) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done; for health: healthy; for task result: completed
  1    failed; for health: not healthy; for task result: failed or cancelled
  2    wrong arguments, or a configuration with mistakes; for rollout status: rolled back
  3    no such task, topic or route; for rollout status: paused
  4    the task has not ended yet
  5    no omnidaemon answers at the address
  6    some tasks of a bulk were queued, and some were not
  124  for rollout status --wait: the time was over
  130  interrupted twice";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CliExit {
    /// It did what was asked.
    Ok = 0,
    /// It, or what it asked about, failed.
    Failed = 1,
    /// The arguments or the configuration are wrong.
    Usage = 2,
    /// What it was asked about is not there.
    NotFound = 3,
    /// What it waited for has not ended yet.
    Unfinished = 4,
    /// There is no server to ask.
    Unreachable = 5,
    /// Some of it was done.
    Partial = 6,
    /// What it waited for did not come in time.
    TimedOut = 124,
    /// Ended by a second signal, before the drain was over.
    Interrupted = 130,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// An argument cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Nothing answers at the admin plane's address.
    #[error(
        "no answer from {address} ({reason}): is `omnidaemon serve` running? `--admin URL` (or \
            OMNIDAEMON_ADMIN_URL) \
         names another address"
    )]
    Unreachable {
        /// The URL that was tried.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// What answers there is something else.
    #[error("{address} answers, but is no omnidaemon admin plane: check --admin")]
    NotOmnidaemon {
        /// The URL that was tried.
        address: String,
    },
    /// The admin plane said no.
    #[error("{address} says: {detail}")]
    AdminRefused {
        /// The URL of the server.
        address: String,
        /// Its status.
        status: StatusCode,
        /// Its reason.
        detail: String,
    },
    /// The thing asked about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as things are; the text says what to do.
    #[error("{0}")]
    Failed(String),
    /// The store, asked without a server, failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process cannot run.
    #[error(transparent)]
    App(#[from] AppError),
    /// A file cannot be read or written.
    #[error("{action}: {error}")]
    File {
        /// What was tried, with the path.
        action: String,
        /// The system's reason.
        error: io::Error,
    },
    /// Anything else that the system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl Exit ===

impl CliExit {
    /// `rollout status` of a rollout that was rolled back. The codes of this command are its own: a
    /// script that runs it expects no others.
    pub(super) const ROLLED_BACK: Self = Self::Usage;
    /// `rollout status` of a rollout that is paused.
    pub(super) const PAUSED: Self = Self::NotFound;

    /// The number.
    pub(super) fn code(self) -> i32 {
        self as i32
    }
}

impl From<CliExit> for ExitCode {
    fn from(exit: CliExit) -> Self {
        Self::from(exit as u8)
    }
}

// === impl CliError ===

impl From<DeadLetterError> for CliError {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::NoSuchTopic(_) | DeadLetterError::NoSuchDeadLetter { .. } => {
                Self::NotFound(error.to_string())
            }
            DeadLetterError::TaskActive { .. }
            | DeadLetterError::NotRunnable { .. }
            | DeadLetterError::NotFailed { .. } => Self::Failed(error.to_string()),
            DeadLetterError::Store(error) => Self::Store(error),
        }
    }
}

impl CliError {
    /// The exit status that goes with it.
    pub(super) fn exit_status(&self) -> CliExit {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::App(AppError::Config(_)) => CliExit::Usage,
            Self::Unreachable { .. } | Self::NotOmnidaemon { .. } => CliExit::Unreachable,
            Self::AdminRefused { status, .. } if *status == StatusCode::NOT_FOUND => {
                CliExit::NotFound
            }
            Self::AdminRefused { status, .. } if *status == StatusCode::UNPROCESSABLE_ENTITY => {
                CliExit::Usage
            }
            Self::NotFound(_) => CliExit::NotFound,
            Self::AdminRefused { .. }
            | Self::Failed(_)
            | Self::Store(_)
            | Self::App(_)
            | Self::File { .. }
            | Self::Io(_) => CliExit::Failed,
        }
    }
}

/// Says on stderr what went wrong, and returns the process's exit status.
pub(super) fn report_outcome(ended: Result<CliExit, CliError>) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_status().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_codes_are_those_of_the_type() {
        let all = [
            CliExit::Ok,
            CliExit::Failed,
            CliExit::Usage,
            CliExit::NotFound,
            CliExit::Unfinished,
            CliExit::Unreachable,
            CliExit::Partial,
            CliExit::TimedOut,
            CliExit::Interrupted,
        ];
        let documented: Vec<i32> = EXIT_CODES_HELP
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(documented, all.map(CliExit::code));
    }

    #[test]
    fn what_the_server_does_not_know_is_not_there_and_what_it_cannot_read_is_a_wrong_argument() {
        let refused = |status| {
            CliError::AdminRefused { address: String::new(), status, detail: String::new() }
                .exit_status()
        };
        assert_eq!(refused(StatusCode::NOT_FOUND), CliExit::NotFound);
        assert_eq!(refused(StatusCode::UNPROCESSABLE_ENTITY), CliExit::Usage);
        assert_eq!(refused(StatusCode::UNAUTHORIZED), CliExit::Failed);
    }
}
