//! `GET config`: the configuration in force, without its secrets.

use serde::{Deserialize, Serialize};

use super::PlanDocument;
use crate::config::{Config, HandlerConfig, RouteConfig, TopicConfig};
use crate::task::Topic;

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigDocument {
    /// `proxy:`
    pub proxy: ProxySectionDocument,
    /// `admin:`
    pub admin: AdminSectionDocument,
    /// `upstream:`
    pub upstream: UpstreamSectionDocument,
    /// `store:`
    pub store: StoreSectionDocument,
    /// `routes:`
    pub routes: Vec<RouteConfigDocument>,
    /// `topics:`
    pub topics: Vec<TopicConfigDocument>,
    /// `workers:`
    pub workers: WorkersSectionDocument,
    /// `results:`
    pub results: ResultsSectionDocument,
    /// The configuration file; none for a configuration that was built in code.
    pub file: Option<String>,
    /// The number of the snapshot, raised by each change.
    pub generation: u64,
}

/// `proxy:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxySectionDocument {
    /// The address of the data port.
    pub listen: String,
    /// The largest body of a task, bytes.
    pub max_body: usize,
    /// The path below which tasks are served.
    pub task_path: String,
    /// The longest that a shutdown takes, seconds.
    pub drain_seconds: f64,
}

/// `admin:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminSectionDocument {
    /// The address of the admin port.
    pub listen: String,
    /// Whether there is an admin token.
    pub token: bool,
    /// Whether there is a read token.
    pub read_token: bool,
    /// Host names that are accepted beside the listener's own.
    pub hosts: Vec<String>,
}

/// `upstream:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamSectionDocument {
    /// The servers' URLs.
    pub urls: Vec<String>,
}

/// `store:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreSectionDocument {
    /// The URL, without its secrets.
    pub url: String,
    /// The longest that a call takes, seconds.
    pub timeout_seconds: f64,
}

/// One of `routes:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteConfigDocument {
    /// Its name.
    pub route: String,
    /// Its path, as written.
    pub path: String,
    /// Its methods.
    pub methods: Vec<String>,
    /// The topic of its tasks.
    pub topic: String,
    /// How long a canaried request waits for its result, seconds.
    pub wait_seconds: f64,
    /// Its rollout.
    pub rollout: PlanDocument,
    /// The URL of the Prometheus that its gates query, without its secrets.
    pub prometheus: Option<String>,
    /// Its deprecation.
    pub deprecation: DeprecationSectionDocument,
}

/// `deprecation:` of a route
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeprecationSectionDocument {
    /// `none`, `announce`, `redirect` or `gone`.
    pub mode: String,
    /// The URL that replaces the route.
    pub successor: Option<String>,
}

/// One of `topics:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicConfigDocument {
    /// Its name.
    pub topic: String,
    /// What runs its tasks, without arguments and queries.
    pub handler: String,
    /// The longest that an attempt takes, seconds.
    pub timeout_seconds: f64,
    /// Attempts after the first.
    pub retries: u32,
    /// Waiting tasks over which new ones are refused.
    pub max_backlog: u64,
}

/// `workers:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkersSectionDocument {
    /// Workers of the process.
    pub count: usize,
    /// The most tasks that each runs at a time, of all topics together, if that is limited.
    pub concurrency: Option<usize>,
}

/// `results:`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResultsSectionDocument {
    /// How long an ended task can be read, seconds.
    pub ttl_seconds: f64,
    /// The largest result that is kept, bytes.
    pub max_result: usize,
}

impl ConfigDocument {
    /// The document of a configuration that came from `file` and is in force as `generation`.
    #[must_use]
    pub fn new(config: &Config, file: Option<&str>, generation: u64) -> Self {
        Self {
            proxy: ProxySectionDocument {
                listen: config.proxy.listen.to_string(),
                max_body: config.proxy.max_body_bytes,
                task_path: config.proxy.task_path.clone(),
                drain_seconds: config.proxy.drain_timeout.as_secs_f64(),
            },
            admin: AdminSectionDocument {
                listen: config.admin.listen.to_string(),
                token: config.admin.token.is_some(),
                read_token: config.admin.read_token.is_some(),
                hosts: config.admin.allowed_hosts.clone(),
            },
            upstream: UpstreamSectionDocument {
                urls: config.upstream.urls.iter().map(ToString::to_string).collect(),
            },
            store: StoreSectionDocument {
                url: config.store.url.to_string(),
                timeout_seconds: config.store.timeout.as_secs_f64(),
            },
            routes: config.routes.iter().map(RouteConfigDocument::from).collect(),
            topics: config.topics.iter().map(TopicConfigDocument::from).collect(),
            workers: WorkersSectionDocument {
                count: config.workers.count,
                concurrency: config.workers.concurrency,
            },
            results: ResultsSectionDocument {
                ttl_seconds: config.results.ttl.as_secs_f64(),
                max_result: config.results.max_result_bytes,
            },
            file: file.map(str::to_owned),
            generation,
        }
    }
}

impl From<&RouteConfig> for RouteConfigDocument {
    fn from(route: &RouteConfig) -> Self {
        let prometheus = route.rollout.prometheus.as_ref();
        Self {
            route: route.name.clone(),
            path: route.path.source_text.clone(),
            methods: route.methods.iter().map(ToString::to_string).collect(),
            topic: route.topic.to_string(),
            wait_seconds: route.client_wait.as_secs_f64(),
            rollout: PlanDocument::from(&route.rollout),
            prometheus: prometheus.map(|prometheus| prometheus.url.masked_url()),
            deprecation: DeprecationSectionDocument {
                mode: route.deprecation.mode.as_str().to_owned(),
                successor: route.deprecation.successor.clone(),
            },
        }
    }
}

impl From<(&Topic, &TopicConfig)> for TopicConfigDocument {
    fn from((topic, config): (&Topic, &TopicConfig)) -> Self {
        Self {
            topic: topic.to_string(),
            handler: describe_handler(&config.handler),
            timeout_seconds: config.timeout.as_secs_f64(),
            retries: config.retries,
            max_backlog: config.max_backlog,
        }
    }
}

/// The handler without arguments and queries, which may hold keys.
fn describe_handler(handler: &HandlerConfig) -> String {
    match handler {
        HandlerConfig::Upstream => "upstream".to_owned(),
        HandlerConfig::Http(url) => {
            format!("http {}", url.split(['?', '#']).next().unwrap_or_default())
        }
        HandlerConfig::Command(words) => {
            format!("command {}", words.first().map_or("", String::as_str))
        }
        HandlerConfig::External => "external".to_owned(),
    }
}
