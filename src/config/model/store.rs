//! The section `store`: which store holds the tasks, and how durable an accepted task is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::model::secret::{Secret, mask_user_info};

/// `store:`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Which store. Restart-only.
    pub url: StoreUrl,
    /// How long a store call may take before the store counts as unreachable.
    pub timeout: Duration,
    /// What a 202 waits for beyond the store's own acknowledgement.
    pub durability: StoreDurability,
    /// Partitions of a topic on a Redis Cluster.
    pub partitions: u16,
}

/// `store.url`
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: one process, no other server.
    Sqlite(PathBuf),
    /// `redis://` or `rediss://`.
    Redis(Secret),
    /// `redis+sentinel://` or `rediss+sentinel://`.
    Sentinel(Secret),
    /// `redis+cluster://` or `rediss+cluster://`.
    Cluster(Secret),
}

impl StoreUrl {
    /// Keeps what the URL was read from.
    pub(crate) fn set_file_template(&mut self, source: String) {
        if let Self::Redis(url) | Self::Sentinel(url) | Self::Cluster(url) = self {
            url.set_file_template(source);
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreUrl {
    /// The URL with its user info masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) | Self::Sentinel(url) | Self::Cluster(url) => {
                f.write_str(&mask_user_info(url.expose()))
            }
        }
    }
}

/// `store.durability`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreDurability {
    /// As the store persists.
    Default,
    /// Redis: also WAIT for a replica, and WAITAOF where the server has it.
    WaitForReplica,
}
