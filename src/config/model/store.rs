//! The section `store`: which store holds the tasks, and how durable an accepted task is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::model::secret::{Secret, mask_user_info};

/// `store:`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// The store that is used. Needs a restart to change.
    pub url: StoreUrl,
    /// How long a store call may take before the store counts as unreachable. Needs a restart to
    /// change.
    pub timeout: Duration,
    /// What a task's acceptance waits for beyond the store's own acknowledgement. Needs a restart
    /// to change.
    pub durability: StoreDurability,
    /// The number of partitions on a Redis Cluster. Needs a restart to change.
    pub partitions: u16,
}

/// `store.url`
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: a file that one process uses.
    Sqlite(PathBuf),
    /// `redis://` or `rediss://`: one Redis server.
    Redis(Secret),
    /// `redis+sentinel://` or `rediss+sentinel://`: a master that Sentinels name.
    Sentinel(Secret),
    /// `redis+cluster://` or `rediss+cluster://`: a Redis Cluster.
    Cluster(Secret),
}

impl StoreUrl {
    /// Sets the text of the configuration with its `${file:…}` references.
    pub(crate) fn set_file_template(&mut self, template: String) {
        if let Self::Redis(url) | Self::Sentinel(url) | Self::Cluster(url) = self {
            url.set_file_template(template);
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
    /// The store's acknowledgement is enough.
    Default,
    /// On Redis, also WAIT for a replica, and WAITAOF where the server supports it.
    WaitForReplica,
}
