//! The section `routes`: the calls that are moved, where they go and how they are deprecated.

use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::model::rollout::RolloutConfig;
use crate::task::Topic;

/// One entry of `routes:`
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// Its key in the file; the `route` label.
    pub name: String,
    /// The path it answers for.
    pub path: PathPattern,
    /// The methods it answers for.
    pub methods: Vec<Method>,
    /// The topic of its tasks.
    pub topic: Topic,
    /// How long a canaried request waits for its result.
    pub client_wait: Duration,
    /// What happens then.
    pub on_wait_timeout: WaitTimeoutAction,
    /// The longest expected start at which a canaried request becomes a task; none: a tenth of the
    /// sync path's median.
    pub max_start_delay: Option<Duration>,
    /// What happens to a canaried request whose task is expected to start later.
    pub on_saturation: SaturationAction,
    /// What happens when the store died before it said whether the task is durable.
    pub on_unknown_enqueue: UnknownEnqueueAction,
    /// Whether a canaried request may be tried more than once.
    pub retry_canaried: bool,
    /// Headers that are not captured.
    pub drop_headers: Vec<HeaderName>,
    /// Who goes async.
    pub rollout: RolloutConfig,
    /// How clients are told to move on.
    pub deprecation: DeprecationConfig,
}

/// A path of literal and `{named}` segments, such as `/agents/{agent}/invoke`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// As written.
    pub source_text: String,
    /// The segments after the first slash; none is a `{named}` one, which any one segment matches.
    pub segments: Vec<Option<String>>,
}

/// `on_wait_timeout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitTimeoutAction {
    /// 202 with a poll URL.
    Accepted,
    /// Waits on, as the sync path would.
    KeepWaiting,
}

/// `saturation`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaturationAction {
    /// The request is served by the sync path.
    ServeSync,
    /// The task is queued and starts later.
    Queue,
}

/// `on_unknown`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEnqueueAction {
    /// Serves the request sync and cancels the task when the store is back.
    ServeSync,
    /// 503.
    Refuse,
}

/// `deprecation:`
#[derive(Clone, Debug, PartialEq)]
pub struct DeprecationConfig {
    /// What legacy clients get.
    pub mode: DeprecationMode,
    /// Since when, for the `Deprecation` header (RFC 9745).
    pub deprecated_at: Option<jiff::Timestamp>,
    /// When it ends, for the `Sunset` header (RFC 8594).
    pub sunset_at: Option<jiff::Timestamp>,
    /// Where to go instead, a path or URL without the query.
    pub successor: Option<String>,
    /// The page that explains it.
    pub link: Option<String>,
    /// Whether `redirect` is 308 rather than 307.
    pub permanent_redirect: bool,
}

/// `deprecation.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeprecationMode {
    /// Nothing.
    None,
    /// Headers on the answers.
    Announce,
    /// 307 or 308 to the successor.
    Redirect,
    /// 410.
    Gone,
}

impl DeprecationMode {
    /// The word in the file; the `mode` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Announce => "announce",
            Self::Redirect => "redirect",
            Self::Gone => "gone",
        }
    }
}
