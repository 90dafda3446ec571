//! What the tests of the worker floor share: configurations by hand, a real server, a patient poll.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::handler::{Attempt, Handler};
use crate::cohort::Weight;
use crate::config::{
    Admin, Config, Deprecation, DeprecationMode, Durability, HandlerConfig, OnUnknown, OnWaitTimeout, PathPattern,
    Proxy, Results, Rollout, RolloutMode, Route, Store, StoreUrl, TopicConfig, Upstream, UpstreamUrl, Webhooks,
    Workers,
};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::store::{Lease, Queue};
use crate::task::{Answer, Failure, Task, TaskId, Topic, UnixMs};

pub(super) fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a topic")
}

pub(super) fn task(number: u128, name: &str, payload: &str) -> Task {
    let id = TaskId::new(UnixMs(1_700_000_000_000), number);
    Task::new(id, topic(name), payload.to_owned(), UnixMs(1_700_000_000_500))
}

pub(super) fn queue(name: &str) -> Queue {
    Queue { max_backlog: 1_000_000, ..Queue::with_defaults(topic(name), "omnidaemon") }
}

pub(super) fn lease(task: Task) -> Lease {
    let queue = queue(task.topic.as_str());
    Lease { task, attempt: 1, queue, entry: String::new() }
}

/// The first attempt of `task`, which may take a minute.
pub(super) fn attempt(task: Task) -> Attempt {
    Attempt::new(task, 1, Duration::from_mins(1), CancellationToken::new())
}

/// A configuration with these topics, no route, and two slots.
pub(super) fn config(topics: &[(&str, HandlerConfig)]) -> Config {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let entry = |(name, handler): &(&str, HandlerConfig)| {
        let queue = queue(name);
        let config = TopicConfig {
            handler: handler.clone(),
            timeout: Duration::from_mins(1),
            retries: 3,
            retry_delay: Duration::from_millis(20),
            agent: queue.agent,
            content: queue.content,
            max_backlog: queue.max_backlog,
            reclaim_idle: queue.reclaim_idle,
            start: queue.start,
        };
        (topic(name), config)
    };
    Config {
        proxy: Proxy {
            listen,
            threads: 1,
            max_body: 8 << 20,
            task_path: "/task".into(),
            trusted: Vec::new(),
            drain: Duration::from_secs(15),
            drain_delay: Duration::ZERO,
            expose_metrics: false,
            cors_origins: Vec::new(),
            public_url: None,
        },
        admin: Admin { listen, token: None, read_token: None, hosts: Vec::new() },
        upstream: Upstream {
            urls: vec![UpstreamUrl { tls: false, host: "127.0.0.1".into(), port: 9 }],
            connect_timeout: Duration::from_secs(5),
            timeout: None,
        },
        store: Store {
            url: StoreUrl::Sqlite("unused".into()),
            timeout: Duration::from_secs(10),
            durability: Durability::Default,
            partitions: 1,
        },
        routes: Vec::new(),
        topics: topics.iter().map(entry).collect::<BTreeMap<_, _>>(),
        workers: Workers { count: 2, concurrency: 1, drain: Duration::from_secs(30) },
        results: Results { ttl: Duration::from_hours(1), max_result: 1 << 20 },
        webhooks: Webhooks::default(),
    }
}

/// A route of `path` to a topic.
pub(super) fn route(path: &str, name: &str) -> Route {
    let segment = |text: &str| (!text.starts_with('{')).then(|| text.to_owned());
    Route {
        name: path.into(),
        path: PathPattern { text: path.into(), segments: path[1..].split('/').map(segment).collect() },
        methods: vec![http::Method::POST],
        topic: topic(name),
        wait: Duration::from_secs(10),
        on_wait_timeout: OnWaitTimeout::Accepted,
        on_unknown: OnUnknown::Sync,
        retry_canaried: false,
        drop_headers: Vec::new(),
        rollout: Rollout::new(path, Weight::FULL, RolloutMode::Manual),
        deprecation: Deprecation {
            mode: DeprecationMode::None,
            deprecated_at: None,
            sunset_at: None,
            successor: None,
            link: None,
            permanent: false,
        },
    }
}

pub(super) fn snapshot(generation: u64, config: Config) -> Snapshot {
    Snapshot::new(generation, Arc::new(config), &[], &Metrics::new(1))
}

/// Answers with the payload.
pub(super) struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        Ok(Answer::json(attempt.task.payload.clone()))
    }
}

/// Waits until `condition` is true; fails after half a minute.
pub(super) async fn until(condition: impl Fn() -> bool) {
    until_some(async || condition().then_some(())).await;
}

/// Waits until `probe` finds something; fails after half a minute.
pub(super) async fn until_some<T>(probe: impl AsyncFn() -> Option<T>) -> T {
    let patience = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), patience).await.expect("true within half a minute")
}

/// A request as a server got it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: Arc<http::request::Parts>,
    pub(super) body: Bytes,
}

/// A real HTTP server on a free port that notes what it gets and answers by `reply`; it ends with the runtime.
pub(super) struct Server {
    pub(super) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(super) async fn start<F>(reply: impl Fn(Seen) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answer = move |request: Request| {
            let (log, reply) = (Arc::clone(&log), reply.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body");
                let got = Seen { head: Arc::new(head), body };
                log.lock().unwrap_or_else(PoisonError::into_inner).push(got.clone());
                reply(got).await
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { port, seen }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn url(&self) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port: self.port }
    }
}

/// A port that nobody listens on.
pub(super) fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
