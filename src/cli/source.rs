//! Whom a command asks: the running server; or, where none answers and the store is a Redis, that Redis.
//!
//! Both answer with the same documents. The embedded store is one process's: nobody reads it beside a server.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::{Value, json};

use super::client::{Client, configuration};
use super::exit::CliError;
use super::global::Global;
use crate::admin::{
    advice_view, discarded, fate_view, life_view, listed, page_view, reprocessed, topic_view, worker_view,
    workers_check,
};
use crate::config::{Config, StoreUrl};
use crate::route::{BadOrder, order, parse_body};
use crate::store::{self, Cancelled, Listing, Queue, StoreError, TaskStore};
use crate::task::{Status, TaskId, UnixMs};

/// Tasks of a bulk that are on their way to the store at a time.
const AT_ONCE: usize = 64;

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
                let each = envelopes
                    .iter()
                    .map(async |envelope| fate_view(direct.publish(envelope).await.map_err(|error| error.to_string())));
                Ok(stream::iter(each).buffered(AT_ONCE).collect().await)
            }
        }
    }

    /// A page of the tasks: the document of `GET /admin/v1/tasks`.
    pub(super) async fn list(&self, listing: &Listing) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get(&format!("tasks?{}", query(listing))).await,
            Self::Store(direct) => direct.list(listing).await,
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
    pub(super) async fn topics(&self) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.get("topics").await,
            Self::Store(direct) => Ok(direct.status().await?["topics"].take()),
        }
    }

    /// A topic's dead letters: the document of `GET /admin/v1/dead-letters`.
    pub(super) async fn dead_letters(
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
            Self::Store(direct) => Ok(listed(&*direct.store, &direct.config, topic, before, limit).await??),
        }
    }

    /// Queues a failed task again: the document of `POST /admin/v1/dead-letters/{id}/reprocess`.
    pub(super) async fn reprocess(&self, topic: Option<&str>, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => {
                client.post(&format!("dead-letters/{id}/reprocess{}", of(topic)), Bytes::new()).await
            }
            Self::Store(direct) => Ok(reprocessed(&*direct.store, &direct.config, topic, id.as_str()).await??),
        }
    }

    /// Deletes a dead letter: the document of `DELETE /admin/v1/dead-letters/{id}`.
    pub(super) async fn discard(&self, topic: Option<&str>, id: &TaskId) -> Result<Value, CliError> {
        match self {
            Self::Server(client) => client.delete(&format!("dead-letters/{id}{}", of(topic))).await,
            Self::Store(direct) => Ok(discarded(&*direct.store, &direct.config, topic, id.as_str()).await??),
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
        let advice = self.store.advice().await?;
        let active: u32 = beats.iter().map(|beat| beat.active).sum();
        let workers = workers_check(&self.config, &beats);
        let oldest = beats.iter().map(|beat| beat.started).min();
        Ok(json!({
            "status": if workers.is_none() { "healthy" } else { "degraded" },
            "checks": {"store": "ok", "workers": workers.unwrap_or("ok")},
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.config.store.url.to_string(),
            "store_advice": advice.iter().map(advice_view).collect::<Vec<_>>(),
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
        let life = self.store.life(id).await?.ok_or_else(|| no_such_task(id))?;
        Ok(life_view(&life, &self.store.deliveries(id).await?))
    }

    async fn publish(&self, envelope: &Bytes) -> Result<Value, CliError> {
        let parsed = parse_body(envelope).map_err(|error| CliError::Usage(error.to_string()))?;
        let created = now();
        let id = TaskId::new(created, rand::random());
        let (task, known) = order(parsed, None, &self.config, id, created).map_err(|bad| match bad {
            BadOrder::UnknownTopic(_) => CliError::NotFound(bad.to_string()),
            bad => CliError::Usage(bad.to_string()),
        })?;
        let queued = self.store.enqueue(&task, &Queue::new(&task.topic, known)).await;
        if let Err(StoreError::Unknown(_)) = &queued {
            // said to have failed, so it must not run
            let _ = self.store.cancel(&task.id, self.config.results.ttl).await;
        }
        queued?;
        let poll = format!("{}/{}", self.config.proxy.task_path, task.id);
        Ok(json!({"task_id": task.id.as_str(), "status": Status::Queued.as_str(), "poll_url": poll}))
    }

    async fn list(&self, listing: &Listing) -> Result<Value, CliError> {
        let queues: Vec<Queue> = self.config.topics.iter().map(|(topic, config)| Queue::new(topic, config)).collect();
        Ok(page_view(&self.store.list(&queues, listing).await?))
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

/// What asks for a listing; nothing in it needs to be escaped.
fn query(listing: &Listing) -> String {
    let given = [
        ("topic", listing.topic.as_ref().map(ToString::to_string)),
        ("status", listing.status.map(|status| status.as_str().to_owned())),
        ("limit", Some(listing.limit.to_string())),
        ("after", listing.after.clone()),
    ];
    let pairs = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    pairs.collect::<Vec<_>>().join("&")
}

fn no_such_task(id: &TaskId) -> CliError {
    CliError::NotFound(format!("there is no task {id}, or it has expired"))
}

/// The query of a call that may name a topic.
fn of(topic: Option<&str>) -> String {
    topic.map(|topic| format!("?topic={topic}")).unwrap_or_default()
}

fn has_topic(topics: &Value, topic: &str) -> bool {
    topics.as_array().is_some_and(|topics| topics.iter().any(|known| known["topic"] == topic))
}

fn now() -> UnixMs {
    jiff::Timestamp::now().into()
}
