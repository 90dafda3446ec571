//! Fixtures for the tests of this module: configurations, tasks, a recording HTTP server, and
//! waiting for conditions.

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

use super::handler::{Handler, TaskAttempt};
use crate::cohort_hash::Weight;
use crate::config::{
    AdminConfig, Config, DeprecationConfig, DeprecationMode, HandlerConfig, PathPattern,
    ProxyConfig, ResultsConfig, RolloutConfig, RolloutMode, RouteConfig, SaturationAction,
    StoreConfig, StoreDurability, StoreUrl, TopicConfig, UnknownEnqueueAction, UpstreamConfig,
    UpstreamUrl, WaitTimeoutAction, WebhooksConfig, WorkersConfig,
};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::store::{Lease, TopicQueue};
use crate::task::{Task, TaskAnswer, TaskFailure, TaskId, Topic, UnixMs};

pub(super) fn test_topic(name: &str) -> Topic {
    Topic::parse(name).expect("a topic")
}

pub(super) fn test_task(number: u128, name: &str, payload: &str) -> Task {
    let id = TaskId::new(UnixMs(1_700_000_000_000), number);
    Task::new(id, test_topic(name), payload.to_owned(), UnixMs(1_700_000_000_500))
}

pub(super) fn test_queue(name: &str) -> TopicQueue {
    TopicQueue {
        max_backlog: 1_000_000,
        ..TopicQueue::with_default_settings(test_topic(name), "omnidaemon")
    }
}

pub(super) fn test_lease(task: Task) -> Lease {
    let queue = test_queue(task.topic.as_str());
    Lease { task, attempt: 1, queue, store_handle: String::new() }
}

/// The first attempt of `task`, with a timeout of one minute.
pub(super) fn test_attempt(task: Task) -> TaskAttempt {
    TaskAttempt::new(task, 1, Duration::from_mins(1), CancellationToken::new())
}

/// A configuration with these topics, without routes, and with two slots.
pub(super) fn test_config(topics: &[(&str, HandlerConfig)]) -> Config {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let entry = |(name, handler): &(&str, HandlerConfig)| {
        let queue = test_queue(name);
        let config = TopicConfig {
            handler: handler.clone(),
            timeout: Duration::from_mins(1),
            retries: 3,
            retry_delay: Duration::from_millis(20),
            concurrency: 1,
            external_slots: 1,
            agent: queue.agent,
            content_form: queue.content_form,
            max_backlog: queue.max_backlog,
            reclaim_idle: queue.reclaim_idle,
            group_start: queue.group_start,
        };
        (test_topic(name), config)
    };
    Config {
        proxy: ProxyConfig {
            listen,
            threads: 1,
            max_body_bytes: 8 << 20,
            task_path: "/task".into(),
            trusted_networks: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            expose_metrics: false,
            cors_origins: Vec::new(),
            public_url: None,
        },
        admin: AdminConfig { listen, token: None, read_token: None, allowed_hosts: Vec::new() },
        upstream: UpstreamConfig {
            urls: vec![UpstreamUrl { tls: false, host: "127.0.0.1".into(), port: 9 }],
            connect_timeout: Duration::from_secs(5),
            timeout: None,
        },
        store: StoreConfig {
            url: StoreUrl::Sqlite("unused".into()),
            timeout: Duration::from_secs(10),
            durability: StoreDurability::Default,
            partitions: 1,
        },
        routes: Vec::new(),
        topics: topics.iter().map(entry).collect::<BTreeMap<_, _>>(),
        workers: WorkersConfig {
            count: 2,
            concurrency: None,
            drain_timeout: Duration::from_secs(30),
        },
        results: ResultsConfig { ttl: Duration::from_hours(1), max_result_bytes: 1 << 20 },
        webhooks: WebhooksConfig::default(),
    }
}

/// A route that canaries `path` to the topic `name`.
pub(super) fn test_route(path: &str, name: &str) -> RouteConfig {
    let segment = |text: &str| (!text.starts_with('{')).then(|| text.to_owned());
    RouteConfig {
        name: path.into(),
        path: PathPattern {
            source_text: path.into(),
            segments: path[1..].split('/').map(segment).collect(),
        },
        methods: vec![http::Method::POST],
        topic: test_topic(name),
        further_topics: None,
        client_wait: Duration::from_secs(10),
        on_wait_timeout: WaitTimeoutAction::Accepted,
        max_start_delay: None,
        on_saturation: SaturationAction::ServeSync,
        on_unknown_enqueue: UnknownEnqueueAction::ServeSync,
        retry_canaried: false,
        idempotency_cookies: None,
        drop_headers: Vec::new(),
        rollout: RolloutConfig::new(path, Weight::FULL, RolloutMode::Manual),
        deprecation: DeprecationConfig {
            mode: DeprecationMode::None,
            deprecated_at: None,
            sunset_at: None,
            successor: None,
            link: None,
            permanent_redirect: false,
        },
    }
}

pub(super) fn test_snapshot(generation: u64, config: Config) -> Snapshot {
    Snapshot::new(generation, Arc::new(config), &[], &Metrics::new(1))
}

/// Answers with the payload.
pub(super) struct EchoHandler;

#[async_trait]
impl Handler for EchoHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        Ok(TaskAnswer::from_json(attempt.task.payload.clone()))
    }
}

/// Waits until `condition` is true; fails after half a minute.
pub(super) async fn wait_until(condition: impl Fn() -> bool) {
    wait_for_some(async || condition().then_some(())).await;
}

/// Waits until `probe` finds something; fails after half a minute.
pub(super) async fn wait_for_some<T>(probe: impl AsyncFn() -> Option<T>) -> T {
    let patience = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), patience)
        .await
        .expect("true within half a minute")
}

/// A request as the server received it.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRequest {
    pub(super) head: Arc<http::request::Parts>,
    pub(super) body: Bytes,
}

/// An HTTP server on a free port that records its requests and answers with `reply`; it ends with
/// the runtime.
pub(super) struct RecordingServer {
    pub(super) port: u16,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl RecordingServer {
    pub(super) async fn start<F>(
        reply: impl Fn(ReceivedRequest) -> F + Clone + Send + Sync + 'static,
    ) -> Self
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
                let got = ReceivedRequest { head: Arc::new(head), body };
                log.lock().unwrap_or_else(PoisonError::into_inner).push(got.clone());
                reply(got).await
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { port, received: seen }
    }

    pub(super) fn received_requests(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn url(&self) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port: self.port }
    }
}

/// A port without a listener.
pub(super) fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
