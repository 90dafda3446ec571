//! Whom a command asks: the running server; or, where none answers and the store is a Redis, that
//! Redis.
//!
//! Both answer with the same documents. The embedded store is one process's: nobody reads it beside
//! a server.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::{Value, json};

use super::client::{AdminClient, load_usable_config};
use super::exit::CliError;
use super::global::GlobalArgs;
use crate::admin::{
    check_workers, discard_dead_letter, list_dead_letters, render_advice, render_bulk_item,
    render_task_details, render_task_page, render_topic, render_worker, reprocess_dead_letter,
};
use crate::config::{Config, StoreUrl};
use crate::route::{TaskRequestError, build_task, parse_body};
use crate::store::{self, CancelResult, StoreError, TaskListRequest, TaskStore, TopicQueue};
use crate::task::{TaskId, TaskStatus, UnixMs};

/// Tasks of a bulk that are on their way to the store at a time.
const MAX_CONCURRENT_PUBLISHES: usize = 64;

/// Who answers.
#[allow(clippy::large_enum_variant, reason = "a command has one")]
pub(super) enum CommandBackend {
    /// A server's admin plane.
    Server(AdminClient),
    /// The store, without a server.
    Store(DirectStore),
}

/// A store that several processes share, and how the configuration says to use it.
pub(super) struct DirectStore {
    store: Arc<dyn TaskStore>,
    config: Config,
}

// === impl Source ===

impl CommandBackend {
    /// The server, where it answers; else the store, where it is shared, and then stderr says so.
    pub(super) async fn connect(global: &GlobalArgs) -> Result<Self, CliError> {
        let client = AdminClient::new(global)?;
        match client.check_reachable().await {
            Ok(()) => Ok(Self::Server(client)),
            Err(unreachable) => match DirectStore::open(global)? {
                Some(direct) => {
                    eprintln!("{unreachable}; asking {} instead", direct.config.store.url);
                    Ok(Self::Store(direct))
                }
                None => Err(unreachable),
            },
        }
    }

    /// How everything stands: the document of `GET /admin/v1/status`.
    pub(super) async fn fetch_status(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("status").await,
            Self::Store(direct) => direct.fetch_status().await,
        }
    }

    /// The worker processes: the document of `GET /admin/v1/workers`.
    pub(super) async fn fetch_workers(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("workers").await,
            Self::Store(direct) => direct.fetch_workers().await,
        }
    }

    /// A task: the document of `GET /admin/v1/tasks/{id}`.
    pub(super) async fn fetch_task(&self, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get(&format!("tasks/{id}")).await,
            Self::Store(direct) => direct.fetch_task(id).await,
        }
    }

    /// Publishes an envelope for `topic`: the document of `POST /admin/v1/tasks`.
    pub(super) async fn publish(&self, topic: &str, envelope: Bytes) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => match client.post("tasks", envelope).await {
                // One status says that the envelope is wrong, whatever of it: the topic may not be
                // there.
                Err(CliError::AdminRefused {
                    status: StatusCode::UNPROCESSABLE_ENTITY,
                    detail,
                    ..
                }) if !contains_topic(&client.get("topics").await?, topic) => {
                    Err(CliError::NotFound(detail))
                }
                answer => answer,
            },
            Self::Store(direct) => direct.publish(&envelope).await,
        }
    }

    /// Publishes many envelopes: what became of each, in their order, as in `POST /admin/v1/tasks`.
    pub(super) async fn publish_all(&self, envelopes: Vec<Bytes>) -> Result<Vec<Value>, CliError> {
        match self {
            Self::Server(client) => {
                let mut body = b"{\"tasks\":[".to_vec();
                body.extend_from_slice(&envelopes.join(&b","[..]));
                body.extend_from_slice(b"]}");
                let mut answer = client.post("tasks", body.into()).await?;
                Ok(answer["tasks"].as_array_mut().map(std::mem::take).unwrap_or_default())
            }
            Self::Store(direct) => {
                let each = envelopes.iter().map(async |envelope| {
                    render_bulk_item(
                        direct.publish(envelope).await.map_err(|error| error.to_string()),
                    )
                });
                Ok(stream::iter(each).buffered(MAX_CONCURRENT_PUBLISHES).collect().await)
            }
        }
    }

    /// A page of the tasks: the document of `GET /admin/v1/tasks`.
    pub(super) async fn list_tasks(&self, listing: &TaskListRequest) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get(&format!("tasks?{}", listing_query(listing))).await,
            Self::Store(direct) => direct.list_tasks(listing).await,
        }
    }

    /// Cancels a task: the document of `POST /admin/v1/tasks/{id}/cancel`.
    pub(super) async fn cancel(&self, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.post(&format!("tasks/{id}/cancel"), Bytes::new()).await,
            Self::Store(direct) => direct.cancel(id).await,
        }
    }

    /// The queues and how they stand: the document of `GET /admin/v1/topics`.
    pub(super) async fn fetch_topics(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("topics").await,
            Self::Store(direct) => Ok(direct.fetch_status().await?["topics"].take()),
        }
    }

    /// A topic's dead letters: the document of `GET /admin/v1/dead-letters`.
    pub(super) async fn list_dead_letters(
        &self,
        topic: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => {
                let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
                client.get(&format!("dead-letters?topic={topic}&limit={limit}{before}")).await
            }
            Self::Store(direct) => {
                Ok(list_dead_letters(&*direct.store, &direct.config, topic, before, limit)
                    .await??)
            }
        }
    }

    /// Queues a failed task again: the document of `POST /admin/v1/dead-letters/{id}/reprocess`.
    pub(super) async fn reprocess_dead_letter(
        &self,
        topic: Option<&str>,
        id: &TaskId,
    ) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => {
                client
                    .post(
                        &format!("dead-letters/{id}/reprocess{}", topic_query(topic)),
                        Bytes::new(),
                    )
                    .await
            }
            Self::Store(direct) => {
                Ok(reprocess_dead_letter(&*direct.store, &direct.config, topic, id.as_str())
                    .await??)
            }
        }
    }

    /// Deletes a dead letter: the document of `DELETE /admin/v1/dead-letters/{id}`.
    pub(super) async fn discard_dead_letter(
        &self,
        topic: Option<&str>,
        id: &TaskId,
    ) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => {
                client.delete(&format!("dead-letters/{id}{}", topic_query(topic))).await
            }
            Self::Store(direct) => {
                Ok(discard_dead_letter(&*direct.store, &direct.config, topic, id.as_str())
                    .await??)
            }
        }
    }
}

// === impl Direct ===

impl DirectStore {
    /// None where the configuration cannot be used, or its store is not a shared one.
    fn open(global: &GlobalArgs) -> Result<Option<Self>, CliError> {
        let Some(config) = load_usable_config(global).map(|loaded| loaded.config) else {
            return Ok(None);
        };
        if matches!(config.store.url, StoreUrl::Sqlite(_)) {
            return Ok(None);
        }
        Ok(Some(Self { store: store::open(&config.store)?, config }))
    }

    async fn fetch_status(&self) -> Result<Value, CliError> {
        let queues: Vec<TopicQueue> = self
            .config
            .topics
            .iter()
            .map(|(topic, config)| TopicQueue::new(topic, config))
            .collect();
        let depths = self.store.load_queue_depths(&queues).await?;
        let beats = self.store.list_heartbeats().await?;
        let advice = self.store.check_server_settings().await?;
        let active: u32 = beats.iter().map(|beat| beat.active_slots).sum();
        let workers = check_workers(&self.config, &beats);
        let oldest = beats.iter().map(|beat| beat.started_at).min();
        Ok(json!({
            "status": if workers.is_none() { "healthy" } else { "degraded" },
            "checks": {"store": "ok", "workers": workers.unwrap_or("ok")},
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.config.store.url.to_string(),
            "store_advice": advice.iter().map(render_advice).collect::<Vec<_>>(),
            "uptime_seconds": oldest.map(|started| unix_now().since(started).as_secs()),
            "active_workers": active,
            "busy_workers": beats.iter().map(|beat| beat.busy_slots).sum::<u32>(),
            "queue_depth": depths.iter().map(|depth| depth.queued).sum::<u64>(),
            "topics": queues.iter().zip(&depths).map(|(queue, depth)| render_topic(queue, depth)).collect::<Vec<_>>(),
            "rollouts": [],
        }))
    }

    async fn fetch_workers(&self) -> Result<Value, CliError> {
        let beats = self.store.list_heartbeats().await?;
        Ok(beats.iter().map(render_worker).collect())
    }

    async fn fetch_task(&self, id: &TaskId) -> Result<Value, CliError> {
        let life = self.store.load_task_details(id).await?.ok_or_else(|| unknown_task_error(id))?;
        Ok(render_task_details(&life, &self.store.list_deliveries(id).await?))
    }

    async fn publish(&self, envelope: &Bytes) -> Result<Value, CliError> {
        let parsed = parse_body(envelope).map_err(|error| CliError::Usage(error.to_string()))?;
        let created = unix_now();
        let id = TaskId::new(created, rand::random());
        let (task, known) =
            build_task(parsed, None, &self.config, id, created).map_err(|bad| match bad {
                TaskRequestError::UnknownTopic(_) => CliError::NotFound(bad.to_string()),
                bad => CliError::Usage(bad.to_string()),
            })?;
        let queued = self.store.enqueue(&task, &TopicQueue::new(&task.topic, known)).await;
        if let Err(StoreError::OutcomeUnknown(_)) = &queued {
            // said to have failed, so it must not run
            let _ = self.store.cancel(&task.id, self.config.results.ttl).await;
        }
        queued?;
        let poll = format!("{}/{}", self.config.proxy.task_path, task.id);
        Ok(
            json!({"task_id": task.id.as_str(), "status": TaskStatus::Queued.as_str(), "poll_url": poll}),
        )
    }

    async fn list_tasks(&self, listing: &TaskListRequest) -> Result<Value, CliError> {
        let queues: Vec<TopicQueue> = self
            .config
            .topics
            .iter()
            .map(|(topic, config)| TopicQueue::new(topic, config))
            .collect();
        Ok(render_task_page(&self.store.list_tasks(&queues, listing).await?))
    }

    async fn cancel(&self, id: &TaskId) -> Result<Value, CliError> {
        match self.store.cancel(id, self.config.results.ttl).await? {
            CancelResult::Cancelled | CancelResult::WasRunning => {
                Ok(json!({"task_id": id.as_str(), "status": TaskStatus::Cancelled.as_str()}))
            }
            CancelResult::AlreadyEnded(status) => {
                Err(CliError::Failed(format!("the task has already ended as {}", status.as_str())))
            }
            CancelResult::NoSuchTask => Err(unknown_task_error(id)),
        }
    }
}

/// What asks for a listing; nothing in it needs to be escaped.
fn listing_query(listing: &TaskListRequest) -> String {
    let given = [
        ("topic", listing.topic.as_ref().map(ToString::to_string)),
        ("status", listing.status.map(|status| status.as_str().to_owned())),
        ("limit", Some(listing.limit.to_string())),
        ("after", listing.after_cursor.clone()),
    ];
    let pairs = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    pairs.collect::<Vec<_>>().join("&")
}

fn unknown_task_error(id: &TaskId) -> CliError {
    CliError::NotFound(format!("there is no task {id}, or it has expired"))
}

/// The query of a call that may name a topic.
fn topic_query(topic: Option<&str>) -> String {
    topic.map(|topic| format!("?topic={topic}")).unwrap_or_default()
}

fn contains_topic(topics: &Value, topic: &str) -> bool {
    topics.as_array().is_some_and(|topics| topics.iter().any(|known| known["topic"] == topic))
}

fn unix_now() -> UnixMs {
    jiff::Timestamp::now().into()
}
