//! Why the process cannot run.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigProblems;
use crate::store::StoreError;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}{hint}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The config key or option that names the address.
        key: &'static str,
        /// The system's error.
        error: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// The configuration is valid, but cannot work on this machine.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// The admin plane would be open to the network.
    #[error(
        "--admin-listen {address} is not loopback, and there is no token: set admin.token (or \
         OMNIDAEMON_ADMIN_TOKEN), or listen on 127.0.0.1"
    )]
    UnprotectedAdmin {
        /// The address.
        address: SocketAddr,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread cannot be started, or a listener failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}
