//! How a command ends: its exit status, and the error when it fails.
//!
//! Scripts depend on the exit codes; `omnidaemon --help` lists them, and a test compares the list
//! with [`CliExit`]. An error is printed on stderr; its text names the object and says what to do.

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
  6    for task publish --bulk: some tasks were queued, others were not
  124  for rollout status --wait: the timeout elapsed
  130  a second interrupt ended the process before its shutdown was complete";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CliExit {
    /// The command succeeded.
    Ok = 0,
    /// The command failed, or the task or installation that it shows has failed.
    Failed = 1,
    /// The arguments or the configuration are invalid.
    Usage = 2,
    /// The task, topic or route does not exist.
    NotFound = 3,
    /// The task has not ended yet.
    Unfinished = 4,
    /// No server answers.
    Unreachable = 5,
    /// The command succeeded for some of its tasks only.
    Partial = 6,
    /// The goal was not reached before the timeout.
    TimedOut = 124,
    /// A second interrupt ended the process during its drain.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// An argument is invalid.
    #[error("{0}")]
    Usage(String),
    /// No server answers at the address of the admin API.
    #[error(
        "no answer from {address} ({reason}): is `omnidaemon serve` running? `--admin URL` (or \
            OMNIDAEMON_ADMIN_URL) \
         names another address"
    )]
    Unreachable {
        /// The URL that was tried.
        address: String,
        /// The reason that the operating system gave, or a timeout.
        reason: String,
    },
    /// The server that answers is no omnidaemon.
    #[error("{address} answers, but is no omnidaemon admin plane: check --admin")]
    NotOmnidaemon {
        /// The URL that was tried.
        address: String,
    },
    /// The admin API refused the request.
    #[error("{address} says: {detail}")]
    AdminRefused {
        /// The URL of the server.
        address: String,
        /// The status of the response.
        status: StatusCode,
        /// The detail of the problem document.
        detail: String,
    },
    /// The task, topic or route does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The command cannot be carried out in the present state; the text says what to do.
    #[error("{0}")]
    Failed(String),
    /// The store failed, which the command used without a server.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process cannot start or run.
    #[error(transparent)]
    App(#[from] AppError),
    /// A file cannot be read or written, or an address cannot be bound.
    #[error("{action}: {error}")]
    File {
        /// What failed, with the path or address, such as `cannot write PATH`.
        action: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Another error of the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl CliExit ===

impl CliExit {
    /// The status of `rollout status` for a rollout that was rolled back. In that command the codes
    /// 2 and 3 have this meaning of their own.
    pub(super) const ROLLED_BACK: Self = Self::Usage;
    /// The status of `rollout status` for a rollout that is paused.
    pub(super) const PAUSED: Self = Self::NotFound;

    /// The exit code of the process.
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
    /// The exit status of a command that ends with this error.
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

/// Prints an error on stderr, and returns the exit status of the process.
pub(super) fn report_outcome(outcome: Result<CliExit, CliError>) -> ExitCode {
    match outcome {
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
    fn status_404_is_not_found_and_422_is_a_wrong_argument() {
        let refused = |status| {
            CliError::AdminRefused { address: String::new(), status, detail: String::new() }
                .exit_status()
        };
        assert_eq!(refused(StatusCode::NOT_FOUND), CliExit::NotFound);
        assert_eq!(refused(StatusCode::UNPROCESSABLE_ENTITY), CliExit::Usage);
        assert_eq!(refused(StatusCode::UNAUTHORIZED), CliExit::Failed);
    }
}
