//! What the operator means: a checked, complete configuration, without an `Option` that cannot be
//! none.
//!
//! A file is read in stages: text → located tree (`yaml/`) → expanded values and overrides
//! (`expand.rs`, `overrides.rs`) → this (`meaning/`); `load.rs` runs them. Every stage adds to one
//! list of problems, so that a file's mistakes are all reported at once, each with line, field and
//! what to write instead. The names and defaults here are those of `config/omnidaemon.yaml`.
//! `watch.rs` tells when to read again, `own.rs` whether an upstream's name is this process,
//! `windows.rs` when a weight may be raised, `deadline.rs` how long a task may take, `shadow.rs`
//! what is copied.

mod deadline;
mod expand;
mod gate_type;
mod load;
mod meaning;
mod overrides;
mod own;
mod plan_fields;
mod problem;
mod rollout;
mod shadow;
mod watch;
mod webhooks;
mod windows;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method};

pub use self::deadline::{MAX_BACKOFF, max_task_duration, retry_backoff};
pub use self::expand::EnvVars;
pub use self::gate_type::GateType;
pub use self::load::{
    LoadedConfig, find_restart_only_changes, load_file, load_for_upstream, render_init_file,
};
pub use self::own::find_self_upstreams;
pub use self::plan_fields::{GatesDigest, PlanFieldHashes, plan_fields};
pub use self::problem::{ConfigProblem, ConfigProblems};
pub use self::rollout::{
    BaselineMode, BreakerConfig, EmptyResultPolicy, GateConfig, GateFailureAction, GateKind,
    LatencyMeasure, MinSamples, NotificationConfig, NotificationTrigger, PinConfig,
    PrometheusConfig, RatioLimits, RolloutConfig, RolloutMode, SHADOW_MISMATCH_GATE, StepConfig,
    StickyKey, default_gates, min_samples_to_certify,
};
pub use self::shadow::ShadowConfig;
pub use self::watch::watch_for_changes;
pub use self::webhooks::{AllowedWebhookHost, WebhooksConfig, is_public_address};
pub use self::windows::{PromotionWindow, is_promotion_allowed, next_promotion_opening};
use crate::task::Topic;

/// A text that is not shown: passwords, tokens. Two of the same source are equal, whatever its
/// files say by now.
#[derive(Clone)]
pub struct Secret {
    text: String,
    /// The text as it was written, where it refers to files.
    file_template: Option<String>,
}

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file_template: None }
    }

    /// The secret itself; never log what this returns.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// A URL with its user info masked.
    #[must_use]
    pub fn masked_url(&self) -> String {
        mask_user_info(&self.text)
    }

    /// The secret with its `${file:…}` references read anew, for what has rotated since.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn read_current(&self) -> Result<String, String> {
        self.file_template
            .as_deref()
            .map_or_else(|| Ok(self.text.clone()), expand::expand_file_references)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (&self.file_template, &other.file_template) {
            (Some(one), Some(other)) => one == other,
            _ => self.text == other.text,
        }
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The data plane.
    pub proxy: ProxyConfig,
    /// The admin plane.
    pub admin: AdminConfig,
    /// The legacy endpoint.
    pub upstream: UpstreamConfig,
    /// Where tasks and rollout state live.
    pub store: StoreConfig,
    /// Routes in the order of the file; the first match wins.
    pub routes: Vec<RouteConfig>,
    /// Topics by name.
    pub topics: BTreeMap<Topic, TopicConfig>,
    /// The embedded workers, and the default of `omnidaemon worker`.
    pub workers: WorkersConfig,
    /// How results are kept.
    pub results: ResultsConfig,
    /// Who may be told of a task's end.
    pub webhooks: WebhooksConfig,
}

/// `proxy:`
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// The data port. Restart-only.
    pub listen: SocketAddr,
    /// Data-plane threads; 0 is one per core. Restart-only.
    pub threads: usize,
    /// Largest body of a task, bytes.
    pub max_body_bytes: usize,
    /// Where `/task/<id>` is served, without a slash at the end.
    pub task_path: String,
    /// Peers whose `X-Forwarded-*` and `x-omnidaemon-path` count; empty is nobody.
    pub trusted_networks: Vec<Cidr>,
    /// The longest a shutdown takes.
    pub drain_timeout: Duration,
    /// How long `/readyz` says 503 before the proxy stops accepting.
    pub drain_delay: Duration,
    /// Whether `/metrics` is also served on the data port (`expose: [metrics]`).
    pub expose_metrics: bool,
    /// Origins that browsers may call the own paths from (`cors: {origins: […]}`); `*` is any.
    pub cors_origins: Vec<String>,
    /// Where handlers reach this proxy, to say how far they have come; none tells them no address.
    pub public_url: Option<UpstreamUrl>,
}

/// A network, such as `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address.
    pub network_address: IpAddr,
    /// Leading bits that count.
    pub prefix_length: u8,
}

impl Cidr {
    /// Whether `peer` is in the network; an IPv4-mapped IPv6 peer counts as IPv4.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.network_address, peer.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_length.min(32));
                shift == 32 || u32::from(net) >> shift == u32::from(ip) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_length.min(128));
                shift == 128 || u128::from(net) >> shift == u128::from(ip) >> shift
            }
            _ => false,
        }
    }
}

/// `admin:`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// The admin port. Restart-only.
    pub listen: SocketAddr,
    /// The bearer token of `/admin/v1`; without one the listener must be loopback.
    pub token: Option<Secret>,
    /// A bearer token that may look, and change nothing.
    pub read_token: Option<Secret>,
    /// Host names accepted beside the listener's own.
    pub allowed_hosts: Vec<String>,
}

/// `upstream:`
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// One or several servers, tried in turn.
    pub urls: Vec<UpstreamUrl>,
    /// The longest a connect may take.
    pub connect_timeout: Duration,
    /// The longest until the first byte of an answer; none waits.
    pub timeout: Option<Duration>,
}

/// The base of an HTTP server: scheme, host and port, no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl UpstreamUrl {
    /// `host` or `host:port`, as it goes into a Host header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

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
    fn set_file_template(&mut self, source: String) {
        if let Self::Redis(url) | Self::Sentinel(url) | Self::Cluster(url) = self {
            url.file_template = Some(source);
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

/// A URL with what stands between `//` and the last `@` of the authority masked.
fn mask_user_info(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => url.to_owned(),
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
    /// Since when, for the `DeprecationConfig` header (RFC 9745).
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

/// One entry of `topics:`
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// What runs its tasks.
    pub handler: HandlerConfig,
    /// The longest one attempt may take.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// The base of the backoff.
    pub retry_delay: Duration,
    /// The consumer group's name on Redis.
    pub agent: String,
    /// How `content` is written on Redis.
    pub content_form: ContentForm,
    /// Waiting tasks over which new ones are refused.
    pub max_backlog: u64,
    /// The `reclaim_idle_ms` of Python agents in the same group: before it, a task that one of
    /// them runs is its own.
    pub reclaim_idle: Duration,
    /// Where the consumer group begins on Redis.
    pub group_start: GroupStartPosition,
}

/// `handler:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerConfig {
    /// Replays the captured request to the legacy upstream.
    Upstream,
    /// POSTs the payload to a URL.
    Http(String),
    /// Runs a program: task on stdin, result on stdout. Never empty.
    Command(Vec<String>),
    /// Left to other consumers.
    External,
}

/// `content:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentForm {
    /// The payload as a JSON string, which the Genesis bridge expects.
    String,
    /// The payload as it is.
    Object,
}

/// `start:`: where a consumer group begins in a stream that others have read before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStartPosition {
    /// At the first entry: nothing is skipped.
    FirstEntry,
    /// After what was there when the group was first made: others have done that.
    NewEntries,
}

/// `workers:`
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersConfig {
    /// Workers; 0 runs none in this process.
    pub count: usize,
    /// Tasks that each runs at a time.
    pub concurrency: usize,
    /// How long running tasks may go on at shutdown.
    pub drain_timeout: Duration,
}

/// `results:`
#[derive(Clone, Debug, PartialEq)]
pub struct ResultsConfig {
    /// How long a finished task can be read.
    pub ttl: Duration,
    /// The largest result that is kept, bytes.
    pub max_result_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_store_urls_are_masked() {
        let url = StoreUrl::Redis(Secret::new("redis://u:p@ss@h:6379/0"));
        assert_eq!(format!("{url} {url:?}"), "redis://***@h:6379/0 redis://***@h:6379/0");
    }

    #[test]
    fn networks_contain_their_addresses_and_no_others() {
        let ten = Cidr { network_address: "10.0.0.0".parse().expect("ip"), prefix_length: 8 };
        assert!(
            ten.contains("10.9.9.9".parse().expect("ip"))
                && ten.contains("::ffff:10.1.1.1".parse().expect("ip"))
        );
        assert!(
            !ten.contains("11.0.0.1".parse().expect("ip"))
                && !ten.contains("::1".parse().expect("ip"))
        );
        assert!(
            Cidr { network_address: "0.0.0.0".parse().expect("ip"), prefix_length: 0 }
                .contains("1.2.3.4".parse().expect("ip"))
        );
    }
}
