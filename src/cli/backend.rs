//! The backend of a command: a running server, or the shared Redis when no server answers.
//!
//! Both return the same documents. The embedded SQLite store can be open in one process only, so
//! commands do not open it themselves.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;

use super::client::{AdminClient, load_usable_config};
use super::document::ApiDocument;
use super::exit::CliError;
use super::global::GlobalArgs;
use crate::admin::views::{
    AcceptedDocument, BulkDocument, BulkItemDocument, CancelledDocument, DeadLetterChangeDocument,
    DeadLetterDocument, StatusDocument, TaskDetailsDocument, TaskPageDocument, TopicDocument,
    WorkerDocument,
};
use crate::config::{Config, StoreUrl};
use crate::operations::{
    self, CancelError, PublishError, StoreAccess, load_fleet_status, load_heartbeats,
    load_queue_statuses, load_task,
};
use crate::route::TaskRequestError;
use crate::store::{self, TaskListRequest, TaskStore};
use crate::task::{TaskId, UnixMs};

/// The server or store that a command reads and changes.
#[allow(clippy::large_enum_variant, reason = "a command makes one value of it")]
pub(super) enum CommandBackend {
    /// A server's admin plane.
    Server(AdminClient),
    /// The store, without a server.
    Store(DirectStore),
}

/// A store that several processes share, and the configuration that names it.
pub(super) struct DirectStore {
    store: Arc<dyn TaskStore>,
    config: Config,
}

impl CommandBackend {
    /// Connects to the server; when it does not answer and the configured store is shared, uses the
    /// store and prints a note on stderr.
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

    /// The state of the installation: `GET /admin/v1/status`.
    pub(super) async fn fetch_status(&self) -> Result<ApiDocument<StatusDocument>, CliError> {
        match self {
            Self::Server(client) => ApiDocument::parse(client.get("status").await?),
            Self::Store(direct) => ApiDocument::from_view(direct.load_status().await?),
        }
    }

    /// The worker processes: `GET /admin/v1/workers`.
    pub(super) async fn fetch_workers(&self) -> Result<ApiDocument<Vec<WorkerDocument>>, CliError> {
        match self {
            Self::Server(client) => ApiDocument::parse(client.get("workers").await?),
            Self::Store(direct) => {
                let heartbeats = load_heartbeats(direct.access()).await?;
                ApiDocument::from_view(heartbeats.iter().map(WorkerDocument::from).collect())
            }
        }
    }

    /// A task: `GET /admin/v1/tasks/{id}`.
    pub(super) async fn fetch_task(
        &self,
        id: &TaskId,
    ) -> Result<ApiDocument<TaskDetailsDocument>, CliError> {
        match self {
            Self::Server(client) => ApiDocument::parse(client.get(&format!("tasks/{id}")).await?),
            Self::Store(direct) => {
                let task = load_task(direct.access(), id).await?;
                let task = task.ok_or_else(|| unknown_task_error(id))?;
                ApiDocument::from_view(TaskDetailsDocument::from(&task))
            }
        }
    }

    /// Publishes an envelope for `topic`: `POST /admin/v1/tasks`.
    pub(super) async fn publish(
        &self,
        topic: &str,
        envelope: Bytes,
    ) -> Result<ApiDocument<AcceptedDocument>, CliError> {
        let client = match self {
            Self::Server(client) => client,
            Self::Store(direct) => {
                return ApiDocument::from_view(direct.publish(envelope).await?);
            }
        };
        match client.post("tasks", envelope).await {
            // The server refuses every invalid envelope with 422. An unknown topic has an exit
            // status of its own, so the list of topics is fetched to recognize it.
            Err(CliError::AdminRefused {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                detail,
                ..
            }) if !self.has_topic(topic).await? => Err(CliError::NotFound(detail)),
            answer => ApiDocument::parse(answer?),
        }
    }

    async fn has_topic(&self, name: &str) -> Result<bool, CliError> {
        let topics = self.fetch_topics().await?.view;
        Ok(topics.iter().any(|topic| topic.topic == name))
    }

    /// Publishes many envelopes: the result of each, in their order, as in `POST /admin/v1/tasks`.
    pub(super) async fn publish_all(
        &self,
        envelopes: Vec<Bytes>,
    ) -> Result<Vec<BulkItemDocument>, CliError> {
        match self {
            Self::Server(client) => {
                let mut body = b"{\"tasks\":[".to_vec();
                body.extend_from_slice(&envelopes.join(&b","[..]));
                body.extend_from_slice(b"]}");
                let answer = client.post("tasks", body.into()).await?;
                Ok(ApiDocument::<BulkDocument>::parse(answer)?.view.tasks)
            }
            Self::Store(direct) => Ok(direct.publish_all(envelopes).await),
        }
    }

    /// A page of the tasks: `GET /admin/v1/tasks`.
    pub(super) async fn list_tasks(
        &self,
        request: &TaskListRequest,
    ) -> Result<ApiDocument<TaskPageDocument>, CliError> {
        match self {
            Self::Server(client) => {
                ApiDocument::parse(client.get(&format!("tasks?{}", list_query(request))).await?)
            }
            Self::Store(direct) => {
                let page = operations::list_tasks(direct.access(), &direct.config, request).await?;
                ApiDocument::from_view(TaskPageDocument::from(&page))
            }
        }
    }

    /// Cancels a task: `POST /admin/v1/tasks/{id}/cancel`.
    pub(super) async fn cancel(
        &self,
        id: &TaskId,
    ) -> Result<ApiDocument<CancelledDocument>, CliError> {
        match self {
            Self::Server(client) => {
                let path = format!("tasks/{id}/cancel");
                ApiDocument::parse(client.post(&path, Bytes::new()).await?)
            }
            Self::Store(direct) => {
                direct.cancel(id).await?;
                ApiDocument::from_view(CancelledDocument::new(id))
            }
        }
    }

    /// The topics with their queues: `GET /admin/v1/topics`.
    pub(super) async fn fetch_topics(&self) -> Result<ApiDocument<Vec<TopicDocument>>, CliError> {
        match self {
            Self::Server(client) => ApiDocument::parse(client.get("topics").await?),
            Self::Store(direct) => {
                let queues = load_queue_statuses(direct.access(), &direct.config).await?;
                ApiDocument::from_view(queues.iter().map(TopicDocument::from).collect())
            }
        }
    }

    /// A topic's dead letters: `GET /admin/v1/dead-letters`.
    pub(super) async fn list_dead_letters(
        &self,
        topic: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<ApiDocument<Vec<DeadLetterDocument>>, CliError> {
        match self {
            Self::Server(client) => {
                let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
                let path = format!("dead-letters?topic={topic}&limit={limit}{before}");
                ApiDocument::parse(client.get(&path).await?)
            }
            Self::Store(direct) => {
                let (access, config) = (direct.access(), &direct.config);
                let letters =
                    operations::list_dead_letters(access, config, topic, before, limit).await?;
                ApiDocument::from_view(letters.iter().map(DeadLetterDocument::from).collect())
            }
        }
    }

    /// A dead letter with its payload: `GET /admin/v1/dead-letters/{id}`.
    pub(super) async fn fetch_dead_letter(
        &self,
        topic: Option<&str>,
        id: &TaskId,
    ) -> Result<ApiDocument<DeadLetterDocument>, CliError> {
        match self {
            Self::Server(client) => {
                let path = format!("dead-letters/{id}{}", topic_query(topic));
                ApiDocument::parse(client.get(&path).await?)
            }
            Self::Store(direct) => {
                let (access, config, id) = (direct.access(), &direct.config, id.as_str());
                let letter = operations::get_dead_letter(access, config, topic, id).await?;
                ApiDocument::from_view(DeadLetterDocument::from(&letter))
            }
        }
    }

    /// Queues a failed task again: `POST /admin/v1/dead-letters/{id}/reprocess`.
    pub(super) async fn reprocess_dead_letter(
        &self,
        topic: Option<&str>,
        id: &TaskId,
    ) -> Result<ApiDocument<DeadLetterChangeDocument>, CliError> {
        match self {
            Self::Server(client) => {
                let path = format!("dead-letters/{id}/reprocess{}", topic_query(topic));
                ApiDocument::parse(client.post(&path, Bytes::new()).await?)
            }
            Self::Store(direct) => {
                let (access, config, id) = (direct.access(), &direct.config, id.as_str());
                let task = operations::reprocess_dead_letter(access, config, topic, id).await?;
                ApiDocument::from_view(DeadLetterChangeDocument::queued(id, &task))
            }
        }
    }

    /// Deletes a dead letter: `DELETE /admin/v1/dead-letters/{id}`.
    pub(super) async fn discard_dead_letter(
        &self,
        topic: Option<&str>,
        id: &TaskId,
    ) -> Result<ApiDocument<DeadLetterChangeDocument>, CliError> {
        match self {
            Self::Server(client) => {
                let path = format!("dead-letters/{id}{}", topic_query(topic));
                ApiDocument::parse(client.delete(&path).await?)
            }
            Self::Store(direct) => {
                let (access, config, id) = (direct.access(), &direct.config, id.as_str());
                let topic = operations::discard_dead_letter(access, config, topic, id).await?;
                ApiDocument::from_view(DeadLetterChangeDocument::discarded(id, &topic))
            }
        }
    }
}

impl DirectStore {
    /// Opens the configured store; none when the configuration has problems or its store is SQLite.
    fn open(global: &GlobalArgs) -> Result<Option<Self>, CliError> {
        let Some(config) = load_usable_config(global).map(|loaded| loaded.config) else {
            return Ok(None);
        };
        if matches!(config.store.url, StoreUrl::Sqlite(_)) {
            return Ok(None);
        }
        Ok(Some(Self { store: store::open(&config.store)?, config }))
    }

    fn access(&self) -> StoreAccess<'_> {
        StoreAccess::Direct(&*self.store)
    }

    /// The status as far as the store has it: without rollouts, and with the age of the oldest
    /// worker process as the uptime.
    async fn load_status(&self) -> Result<StatusDocument, CliError> {
        let fleet = load_fleet_status(self.access(), &self.config).await;
        if let Some(error) = fleet.error {
            return Err(error.into());
        }
        let oldest = fleet.heartbeats.iter().flatten().map(|worker| worker.started_at).min();
        let now = UnixMs::from(jiff::Timestamp::now());
        let mut document = StatusDocument {
            status: "healthy".to_owned(),
            uptime_seconds: oldest.map(|started| now.since(started).as_secs()),
            ..StatusDocument::from_fleet(&fleet, &self.config)
        };
        document.checks.add("store", None);
        document.add_workers_check(fleet.lacks_workers(&self.config));
        Ok(document)
    }

    async fn publish(&self, envelope: Bytes) -> Result<AcceptedDocument, CliError> {
        let published = operations::publish_task(self.access(), &self.config, envelope).await;
        let published = published.map_err(|error| match error {
            PublishError::Request(TaskRequestError::UnknownTopic(_)) => {
                CliError::NotFound(error.to_string())
            }
            PublishError::Body(_) | PublishError::Request(_) => CliError::Usage(error.to_string()),
            PublishError::Store(error) => error.into(),
        })?;
        Ok(AcceptedDocument::new(&published.id, &self.config.proxy.task_path))
    }

    async fn publish_all(&self, envelopes: Vec<Bytes>) -> Vec<BulkItemDocument> {
        operations::publish_bulk(self.access(), &self.config, envelopes)
            .map(|result| match result {
                Ok(published) => BulkItemDocument::Accepted(AcceptedDocument::new(
                    &published.id,
                    &self.config.proxy.task_path,
                )),
                Err(error) => BulkItemDocument::refused(error.to_string()),
            })
            .collect()
            .await
    }

    async fn cancel(&self, id: &TaskId) -> Result<(), CliError> {
        let ttl = self.config.results.ttl;
        operations::cancel_task(self.access(), id, ttl).await.map_err(|error| match error {
            CancelError::AlreadyEnded(_) => CliError::Failed(error.to_string()),
            CancelError::NoSuchTask => unknown_task_error(id),
            CancelError::Store(error) => error.into(),
        })
    }
}

/// Parses a task id of the arguments.
pub(super) fn parse_task_id(text: &str) -> Result<TaskId, CliError> {
    TaskId::parse(text).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}

/// The query string for a page of tasks; none of its values can need escaping.
fn list_query(request: &TaskListRequest) -> String {
    let parameters = [
        ("topic", request.topic.as_ref().map(ToString::to_string)),
        ("status", request.status.map(|status| status.as_str().to_owned())),
        ("limit", Some(request.limit.to_string())),
        ("after", request.after_cursor.clone()),
    ];
    let pairs = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn unknown_task_error(id: &TaskId) -> CliError {
    CliError::NotFound(format!("there is no task {id}, or it has expired"))
}

/// The query string of a call with an optional topic.
fn topic_query(topic: Option<&str>) -> String {
    topic.map(|topic| format!("?topic={topic}")).unwrap_or_default()
}
