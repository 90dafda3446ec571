//! A server under test with everything around it, described by what the test is about.
//!
//! ```ignore
//! let scenario = scenario().percent(100).wait("3s").workers(4).start().await;
//! scenario.data_client().post("/invoke", &json!({"task": "t"})).await;
//! ```
//!
//! Unless the test says otherwise, the legacy endpoint is a FastAPI app of its own, the store is an
//! embedded one, and there are one route `invoke` (`POST /invoke` into topic `t`, 0 % asynchronous)
//! and one topic `t`, which the upstream handles. In any text of the configuration `<upstream>` is
//! the URL of the upstream, and `<dir>` the server's directory. The configuration is generated from
//! a tree ([`ConfigTree`]); a setting that would change nothing panics.

mod route;
mod topic;

use std::ops::{Deref, DerefMut};

use serde_json::{Value, json};

pub use self::route::{Route, route};
pub use self::topic::{Topic, topic};
use super::process::clock::ClockOffset;
use super::redis::server::RedisServer;
use super::server::{ConfigTree, ServerBuilder};
use super::stores::Store;
use super::{Omnidaemon, TestUpstream};

/// A running server, and the legacy endpoint that was started for it.
pub struct Scenario {
    server: Omnidaemon,
    upstream: Option<TestUpstream>,
}

/// A scenario that is about to start.
pub struct ScenarioBuilder {
    config: ConfigTree,
    server: ServerBuilder,
    /// Whether the test names the upstream; else one is started.
    has_upstream: bool,
    default_route: Option<Route>,
    default_topic: Option<Topic>,
}

/// Describes a server; see the head of this module for what it has by default.
pub fn scenario() -> ScenarioBuilder {
    let mut config = ConfigTree::empty();
    config.set("proxy.listen", "127.0.0.1:0");
    config.set("admin.listen", "127.0.0.1:0");
    config.set("upstream", json!({}));
    config.set("store.url", Store::Sqlite.url());
    ScenarioBuilder {
        config,
        server: Omnidaemon::with_config(""),
        has_upstream: false,
        default_route: Some(route("invoke")),
        default_topic: Some(topic("t")),
    }
}

impl ScenarioBuilder {
    /// Uses this store.
    pub fn store(self, store: &Store) -> Self {
        self.store_url(store.url())
    }

    /// Uses the store on this server.
    pub fn redis(self, server: &RedisServer) -> Self {
        self.store_url(server.url())
    }

    /// Uses the store at this URL; `<dir>` in it is the server's directory.
    pub fn store_url(mut self, url: impl Into<String>) -> Self {
        let url = Value::String(url.into());
        if url != Store::Sqlite.url() {
            self.config.set("store.url", url);
        }
        self
    }

    /// Uses this legacy endpoint, which the test owns.
    pub fn upstream(self, upstream: &TestUpstream) -> Self {
        self.upstream_url(upstream.url())
    }

    /// Uses the legacy endpoint at this URL.
    pub fn upstream_url(mut self, url: impl Into<String>) -> Self {
        self.config.set("upstream.url", url.into());
        self.has_upstream = true;
        self
    }

    /// Uses several servers as the legacy endpoint.
    pub fn upstreams(mut self, upstreams: &[&TestUpstream]) -> Self {
        let urls: Vec<String> = upstreams.iter().map(|upstream| upstream.url()).collect();
        self.config.set("upstream.urls", json!(urls));
        self.has_upstream = true;
        self
    }

    /// Names a port that refuses connections as the legacy endpoint.
    pub fn no_upstream(self) -> Self {
        self.upstream_url("http://127.0.0.1:9")
    }

    /// Adds a route; the first takes the place of the default one.
    pub fn route(mut self, route: Route) -> Self {
        self.default_route = None;
        let (name, settings) = route.into_parts();
        self.config.set_at(&["routes", &name], settings);
        self
    }

    /// Has no route at all.
    pub fn no_routes(mut self) -> Self {
        self.default_route = None;
        self.config.set("routes", json!({}));
        self
    }

    /// Adds a topic; the first takes the place of the default one.
    pub fn topic(mut self, topic: Topic) -> Self {
        self.default_topic = None;
        let (name, settings) = topic.into_parts();
        self.config.set_at(&["topics", &name], settings);
        self
    }

    /// How much of the default route goes onto the queue.
    pub fn percent(self, percent: u8) -> Self {
        self.change_default_route(|route| route.percent(percent))
    }

    /// How long the default route waits for a task.
    pub fn wait(self, duration: &str) -> Self {
        self.change_default_route(|route| route.wait(duration))
    }

    fn change_default_route(mut self, change: impl FnOnce(Route) -> Route) -> Self {
        let route = self.default_route.take().expect("a test with routes of its own sets theirs");
        self.default_route = Some(change(route));
        self
    }

    /// How many workers the server has; 0 is none here.
    pub fn workers(self, count: u32) -> Self {
        self.yaml("workers.count", count)
    }

    /// How many tasks a worker runs at once.
    pub fn concurrency(self, tasks: u32) -> Self {
        self.yaml("workers.concurrency", tasks)
    }

    /// Sets any value by its path, such as `results.ttl`.
    ///
    /// # Panics
    /// When the config has this value already.
    pub fn yaml(mut self, path: &str, value: impl Into<Value>) -> Self {
        for section in ["routes", "topics"] {
            if path.starts_with(&format!("{section}.")) {
                self = self.with_defaults_written();
            }
        }
        self.config.set(path, value);
        self
    }

    /// Sets an environment variable of the server.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.server = self.server.with_env(name, value);
        self
    }

    /// Puts a file into the server's directory.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.server = self.server.with_file(name, text);
        self
    }

    /// Puts the server's wall clock off.
    pub fn clock(mut self, offset: ClockOffset) -> Self {
        self.server = self.server.with_clock(offset);
        self
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(self) -> Scenario {
        let (server, upstream) = self.prepare().await;
        Scenario { server: server.start().await, upstream }
    }

    /// Starts the server and waits until it listens, ready or not.
    pub async fn start_listening(self) -> Scenario {
        let (server, upstream) = self.prepare().await;
        Scenario { server: server.start_listening().await, upstream }
    }

    /// Starts the server alone and waits until it is ready.
    ///
    /// # Panics
    /// When the test names no upstream.
    pub async fn start_server(self) -> Omnidaemon {
        assert!(self.has_upstream, "the upstream would end at once");
        self.prepare().await.0.start().await
    }

    /// Starts the server alone and waits until it listens, ready or not.
    ///
    /// # Panics
    /// When the test names no upstream.
    pub async fn start_server_listening(self) -> Omnidaemon {
        assert!(self.has_upstream, "the upstream would end at once");
        self.prepare().await.0.start_listening().await
    }

    /// The configuration file alone, for tests that start nothing or start it themselves.
    pub fn config_text(self) -> String {
        self.with_defaults_written().config.to_text()
    }

    async fn prepare(self) -> (ServerBuilder, Option<TestUpstream>) {
        let mut scenario = self.with_defaults_written();
        let mut started = None;
        if !scenario.has_upstream {
            let upstream = TestUpstream::start().await;
            scenario = scenario.upstream(&upstream);
            started = Some(upstream);
        }
        let mut text = scenario.config.to_text();
        if let Some(url) = scenario.config.text_at("upstream.url") {
            text = text.replace("<upstream>", url);
        }
        (scenario.server.with_config_text(&text), started)
    }

    fn with_defaults_written(mut self) -> Self {
        if let Some(route) = self.default_route.take() {
            self = self.route(route);
        }
        if let Some(topic) = self.default_topic.take() {
            self = self.topic(topic);
        }
        self
    }
}

impl Scenario {
    /// The legacy endpoint that was started with the server.
    ///
    /// # Panics
    /// When the test named one of its own.
    pub fn upstream(&self) -> &TestUpstream {
        self.upstream.as_ref().expect("the test has an upstream of its own")
    }

    /// The same, to stop and to restart it.
    pub fn upstream_mut(&mut self) -> &mut TestUpstream {
        self.upstream.as_mut().expect("the test has an upstream of its own")
    }
}

impl Deref for Scenario {
    type Target = Omnidaemon;

    fn deref(&self) -> &Omnidaemon {
        &self.server
    }
}

impl DerefMut for Scenario {
    fn deref_mut(&mut self) -> &mut Omnidaemon {
        &mut self.server
    }
}
