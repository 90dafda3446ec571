//! Whom a command asks: the running server; or, where none answers and the store is a Redis, that Redis.
//!
//! Both answer with the same documents. The embedded store is one process's: nobody reads it beside a server.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::client::{Client, configuration};
use super::exit::CliError;
use super::global::Global;
use crate::admin::{task_view, topic_view, worker_view, workers_check};
use crate::config::{Config, StoreUrl};
use crate::route::parse_body;
use crate::store::{self, Cancelled, Queue, TaskStore};
use crate::task::{Status, Task, TaskId, UnixMs};

/// Who answers.
#[allow(clippy::large_enum_variant, reason = "a command has one")]
pub(super) enum Source {
    /// A server's admin plane.
    Server(Client),
    /// The store, without a server.
    Store(Direct),
}

/// A store that several processes share, and how the configuration says to use it.
pub(super) struct Direct {
    store: Arc<dyn TaskStore>,
    config: Config,
}

// === impl Source ===

impl Source {
    /// The server, where it answers; else the store, where it is shared, and then stderr says so.
    pub(super) async fn find(global: &Global) -> Result<Self, CliError> {
        let client = Client::new(global)?;
        match client.find().await {
            Ok(()) => Ok(Self::Server(client)),
            Err(unreachable) => match Direct::open(global)? {
                Some(direct) => {
                    eprintln!("{unreachable}; asking {} instead", direct.config.store.url);
                    Ok(Self::Store(direct))
                }
                None => Err(unreachable),
            },
        }
    }

    /// How everything stands: the document of `GET /admin/v1/status`.
    pub(super) async fn status(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("status").await,
            Self::Store(direct) => direct.status().await,
        }
    }

    /// The worker processes: the document of `GET /admin/v1/workers`.
    pub(super) async fn workers(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("workers").await,
            Self::Store(direct) => direct.workers().await,
        }
    }

    /// A task: the document of `GET /admin/v1/tasks/{id}`.
    pub(super) async fn task(&self, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get(&format!("tasks/{id}")).await,
            Self::Store(direct) => direct.task(id).await,
        }
    }

    /// Publishes an envelope for `topic`: the document of `POST /admin/v1/tasks`.
    pub(super) async fn publish(&self, topic: &str, envelope: Bytes) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => match client.post("tasks", envelope).await {
                // One status says that the envelope is wrong, whatever of it: the topic may not be there.
                Err(CliError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, detail, .. })
                    if !has_topic(&client.get("topics").await?, topic) =>
                {
                    Err(CliError::NotFound(detail))
                }
                answer => answer,
            },
            Self::Store(direct) => direct.publish(&envelope).await,
        }
    }

    /// Cancels a task: the document of `POST /admin/v1/tasks/{id}/cancel`.
    pub(super) async fn cancel(&self, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.post(&format!("tasks/{id}/cancel"), Bytes::new()).await,
            Self::Store(direct) => direct.cancel(id).await,
        }
    }
}

// === impl Direct ===

impl Direct {
    /// None where the configuration cannot be used, or its store is not a shared one.
    fn open(global: &Global) -> Result<Option<Self>, CliError> {
        let Some(config) = configuration(global).map(|loaded| loaded.config) else { return Ok(None) };
        if matches!(config.store.url, StoreUrl::Sqlite(_)) {
            return Ok(None);
        }
        Ok(Some(Self { store: store::open(&config.store)?, config }))
    }

    async fn status(&self) -> Result<Value, CliError> {
        let queues: Vec<Queue> = self.config.topics.iter().map(|(topic, config)| Queue::new(topic, config)).collect();
        let depths = self.store.depths(&queues).await?;
        let beats = self.store.heartbeats().await?;
        let active: u32 = beats.iter().map(|beat| beat.active).sum();
        let workers = workers_check(&self.config, &beats);
        let oldest = beats.iter().map(|beat| beat.started).min();
        Ok(json!({
            "status": if workers.is_none() { "healthy" } else { "degraded" },
            "checks": {"store": "ok", "workers": workers.unwrap_or("ok")},
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.config.store.url.to_string(),
            "uptime_seconds": oldest.map(|started| now().since(started).as_secs()),
            "active_workers": active,
            "busy_workers": beats.iter().map(|beat| beat.busy).sum::<u32>(),
            "queue_depth": depths.iter().map(|depth| depth.queued).sum::<u64>(),
            "topics": queues.iter().zip(&depths).map(|(queue, depth)| topic_view(queue, depth)).collect::<Vec<_>>(),
            "rollouts": [],
        }))
    }

    async fn workers(&self) -> Result<Value, CliError> {
        let beats = self.store.heartbeats().await?;
        Ok(beats.iter().map(worker_view).collect())
    }

    async fn task(&self, id: &TaskId) -> Result<Value, CliError> {
        let record = self.store.get(id).await?;
        let record = record.ok_or_else(|| no_such_task(id))?;
        Ok(task_view(&record))
    }

    async fn publish(&self, envelope: &Bytes) -> Result<Value, CliError> {
        let parsed = parse_body(envelope).map_err(|error| CliError::Usage(error.to_string()))?;
        let topic = parsed.topic.ok_or_else(|| CliError::Usage("a task needs a topic: --topic NAME".into()))?;
        let no_topic = || CliError::NotFound(format!("there is no topic {topic} in the configuration"));
        let known = self.config.topics.get(&topic).ok_or_else(no_topic)?;
        let created = now();
        let task = Task {
            correlation_id: parsed.correlation_id,
            retries: known.retries,
            ..Task::new(TaskId::new(created, rand::random()), topic.clone(), parsed.payload, created)
        };
        self.store.enqueue(&task, &Queue::new(&topic, known)).await?;
        let poll = format!("{}/{}", self.config.proxy.task_path, task.id);
        Ok(json!({"task_id": task.id.as_str(), "status": Status::Queued.as_str(), "poll_url": poll}))
    }

    async fn cancel(&self, id: &TaskId) -> Result<Value, CliError> {
        match self.store.cancel(id, self.config.results.ttl).await? {
            Cancelled::Done | Cancelled::Running => {
                Ok(json!({"task_id": id.as_str(), "status": Status::Cancelled.as_str()}))
            }
            Cancelled::Ended(status) => {
                Err(CliError::Failed(format!("the task has already ended as {}", status.as_str())))
            }
            Cancelled::Unknown => Err(no_such_task(id)),
        }
    }
}

fn no_such_task(id: &TaskId) -> CliError {
    CliError::NotFound(format!("there is no task {id}, or it has expired"))
}

fn has_topic(topics: &Value, topic: &str) -> bool {
    topics.as_array().is_some_and(|topics| topics.iter().any(|known| known["topic"] == topic))
}

fn now() -> UnixMs {
    jiff::Timestamp::now().into()
}
