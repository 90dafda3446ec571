//! The section `routes`: the paths whose calls are moved to the queue, each with its topic, its
//! rollout and its deprecation.

use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::model::rollout::RolloutConfig;
use crate::task::Topic;

/// One entry of `routes:`
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// The route's key in the file; the `route` label of metrics.
    pub name: String,
    /// The path of the requests that belong to the route.
    pub path: PathPattern,
    /// The methods of the requests that belong to the route.
    pub methods: Vec<Method>,
    /// The topic of the tasks that are made from canaried requests.
    pub topic: Topic,
    /// The further topics that an envelope may name. `None`: an envelope that is submitted to
    /// `<route>/async` may name any topic, and a legacy call only the route's own topic.
    pub further_topics: Option<Vec<Topic>>,
    /// How long a canaried request waits for the result of its task.
    pub client_wait: Duration,
    /// What happens after `client_wait`.
    pub on_wait_timeout: WaitTimeoutAction,
    /// The longest expected start at which a canaried request becomes a task; none: a tenth of the
    /// sync path's median.
    pub max_start_delay: Option<Duration>,
    /// What happens to a canaried request whose task is expected to start later.
    pub on_saturation: SaturationAction,
    /// What happens when the store fails before it confirms or refuses a task.
    pub on_unknown_enqueue: UnknownEnqueueAction,
    /// Whether the task of a canaried request may have more than one attempt.
    pub retry_canaried: bool,
    /// The cookies that identify a caller in the scope of an idempotency key; `None`: all cookies.
    pub idempotency_cookies: Option<Vec<String>>,
    /// Headers that are not captured in tasks.
    pub drop_headers: Vec<HeaderName>,
    /// The share of requests that goes async, and the way to it.
    pub rollout: RolloutConfig,
    /// How clients learn that the route is deprecated.
    pub deprecation: DeprecationConfig,
}

impl RouteConfig {
    /// Whether `topic` is the route's own or one of its further topics: a legacy call that names it
    /// is an envelope.
    #[must_use]
    pub fn has_topic(&self, topic: &str) -> bool {
        self.topic.as_str() == topic
            || self.further_topics.iter().flatten().any(|further| further.as_str() == topic)
    }

    /// Whether a task that is submitted may name `topic`.
    #[must_use]
    pub fn accepts_submission(&self, topic: &Topic) -> bool {
        self.further_topics.is_none() || self.has_topic(topic.as_str())
    }
}

/// A path of literal and `{named}` segments, such as `/agents/{agent}/invoke`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// The pattern as it is written in the file.
    pub source_text: String,
    /// The segments after the first slash: a literal text, or none for a `{named}` segment, which
    /// matches any one segment.
    pub segments: Vec<Option<String>>,
}

/// `on_wait_timeout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitTimeoutAction {
    /// The client gets 202 with a URL to poll.
    Accepted,
    /// The client gets 303 to a URL that waits for the legacy response and returns it.
    Redirect,
    /// The request waits until the task ends, as on the sync path.
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
    /// Serves the request on the sync path, and cancels the task when the store is back.
    ServeSync,
    /// Answers with 503.
    Refuse,
}

/// `deprecation:`
#[derive(Clone, Debug, PartialEq)]
pub struct DeprecationConfig {
    /// How requests to the deprecated route are answered.
    pub mode: DeprecationMode,
    /// The time since which the route is deprecated, for the `Deprecation` header (RFC 9745).
    pub deprecated_at: Option<jiff::Timestamp>,
    /// The time at which the route is switched off, for the `Sunset` header (RFC 8594).
    pub sunset_at: Option<jiff::Timestamp>,
    /// The path or URL to call instead, without a query.
    pub successor: Option<String>,
    /// A page about the deprecation, for the `Link` header.
    pub link: Option<String>,
    /// Whether mode `redirect` answers with 308 instead of 307.
    pub permanent_redirect: bool,
}

/// `deprecation.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeprecationMode {
    /// The route is not deprecated.
    None,
    /// Responses have header fields that announce the deprecation.
    Announce,
    /// Requests are redirected to the successor with 307 or 308.
    Redirect,
    /// Requests are answered with 410.
    Gone,
}

impl DeprecationMode {
    /// The name of the mode in the file, and the `mode` label of metrics.
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
