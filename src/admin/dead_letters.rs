//! `/admin/v1/dead-letters`: list, reprocess, discard. The command line does the same on a store
//! without a server.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminServices;
use super::api::{ApiProblem, ApiResult, parse_task_id};
use crate::config::Config;
use crate::store::{DeadLetter, RedriveResult, StoreError, TaskStore, TopicQueue};
use crate::task::{TaskStatus, Topic};

/// The most that one answer lists.
const MAX_LISTED_DEAD_LETTERS: usize = 1000;
/// What a redriven request goes without.
const NO_CREDENTIALS_NOTE: &str =
    "it runs without the credentials of its request, which were kept only until it failed";

/// Why nothing was done about a dead letter.
#[derive(Debug)]
pub enum DeadLetterRefusal {
    /// It, or its topic, is not there.
    NotFound(String),
    /// It cannot be done as things are.
    Conflict(String),
}

#[derive(Deserialize)]
pub(super) struct DeadLetterPageParams {
    topic: String,
    limit: Option<usize>,
    before: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DeadLetterTopicParams {
    topic: Option<String>,
}

impl From<DeadLetterRefusal> for ApiProblem {
    fn from(refused: DeadLetterRefusal) -> Self {
        match refused {
            DeadLetterRefusal::NotFound(detail) => Self::new(StatusCode::NOT_FOUND, detail),
            DeadLetterRefusal::Conflict(detail) => Self::new(StatusCode::CONFLICT, detail),
        }
    }
}

/// `GET dead-letters?topic=&limit=&before=`
pub(super) async fn get_dead_letters(
    State(parts): State<AdminServices>,
    Query(page): Query<DeadLetterPageParams>,
) -> ApiResult {
    let config = parts.snapshots.load().config.clone();
    let before = page.before.as_deref().filter(|before| !before.is_empty());
    let (store, limit) = (parts.circuit.store(), page.limit.unwrap_or(100));
    match parts.circuit.call(list_dead_letters(&**store, &config, &page.topic, before, limit)).await
    {
        Err(StoreError::Malformed(detail)) if before.is_some() => {
            Err(ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
        letters => Ok(Json(letters??)),
    }
}

/// `POST dead-letters/{id}/reprocess?topic=`
pub(super) async fn post_reprocess(
    State(parts): State<AdminServices>,
    Path(id): Path<String>,
    Query(of): Query<DeadLetterTopicParams>,
) -> ApiResult {
    let config = parts.snapshots.load().config.clone();
    let store = parts.circuit.store();
    Ok(Json(
        parts
            .circuit
            .call(reprocess_dead_letter(&**store, &config, of.topic.as_deref(), &id))
            .await??,
    ))
}

/// `DELETE dead-letters/{id}?topic=`
pub(super) async fn delete_dead_letter(
    State(parts): State<AdminServices>,
    Path(id): Path<String>,
    Query(of): Query<DeadLetterTopicParams>,
) -> ApiResult {
    let config = parts.snapshots.load().config.clone();
    let store = parts.circuit.store();
    Ok(Json(
        parts
            .circuit
            .call(discard_dead_letter(&**store, &config, of.topic.as_deref(), &id))
            .await??,
    ))
}

/// `POST tasks/{id}/retry`: the same for a task that is known to have failed.
pub(super) async fn post_retry(
    State(parts): State<AdminServices>,
    Path(id): Path<String>,
) -> ApiResult {
    let (config, store) = (parts.snapshots.load().config.clone(), parts.circuit.store());
    let known = parse_task_id(&id)?;
    let record = parts.circuit.call(store.get_task(&known)).await?;
    if let Some(record) = &record
        && matches!(record.status, TaskStatus::Completed | TaskStatus::Cancelled)
    {
        let detail =
            format!("{id} is {}: only a failed task can be tried again", record.status.as_str());
        return Err(ApiProblem::new(StatusCode::CONFLICT, detail));
    }
    let topic = record.as_ref().map(|record| record.topic.as_str());
    Ok(Json(parts.circuit.call(reprocess_dead_letter(&**store, &config, topic, &id)).await??))
}

/// A topic's dead letters, newest first, from before the one with that cursor.
///
/// # Errors
/// Those of the store; inside, that there is no such topic.
pub async fn list_dead_letters(
    store: &dyn TaskStore,
    config: &Config,
    topic: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Result<Value, DeadLetterRefusal>, StoreError> {
    let queue = match select_queues(config, Some(topic)) {
        Ok(mut queues) => queues.remove(0),
        Err(refused) => return Ok(Err(refused)),
    };
    let limit = limit.min(MAX_LISTED_DEAD_LETTERS);
    let letters = store.list_dead_letters(&queue, before, limit).await?;
    Ok(Ok(letters.iter().map(render_dead_letter).collect()))
}

/// Makes the dead letter a queued task again, of whichever topic where none is named.
///
/// # Errors
/// Those of the store; inside, why not.
pub async fn reprocess_dead_letter(
    store: &dyn TaskStore,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<Result<Value, DeadLetterRefusal>, StoreError> {
    let queues = match select_queues(config, topic) {
        Ok(queues) => queues,
        Err(refused) => return Ok(Err(refused)),
    };
    for queue in queues {
        let refused = match store
            .redrive_dead_letter(&queue, id, jiff::Timestamp::now().into())
            .await?
        {
            RedriveResult::NoSuchDeadLetter => continue,
            RedriveResult::Queued { is_captured_request: captured } => {
                let mut document = json!({"task_id": id, "topic": queue.topic.as_str(), "status": TaskStatus::Queued.as_str()});
                if captured {
                    document["note"] = NO_CREDENTIALS_NOTE.into();
                }
                return Ok(Ok(document));
            }
            RedriveResult::TaskActive => {
                format!("{id} is queued or running already: nothing was done, look at the task")
            }
            RedriveResult::NotRunnable(why) => format!("{id} cannot run again: {why}: discard it"),
        };
        return Ok(Err(DeadLetterRefusal::Conflict(refused)));
    }
    Ok(Err(no_such_dead_letter(topic, id)))
}

/// Deletes the dead letter, of whichever topic where none is named.
///
/// # Errors
/// Those of the store; inside, that there is none.
pub async fn discard_dead_letter(
    store: &dyn TaskStore,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<Result<Value, DeadLetterRefusal>, StoreError> {
    let queues = match select_queues(config, topic) {
        Ok(queues) => queues,
        Err(refused) => return Ok(Err(refused)),
    };
    for queue in queues {
        if store.discard_dead_letter(&queue, id).await? {
            return Ok(Ok(
                json!({"task_id": id, "topic": queue.topic.as_str(), "status": "discarded"}),
            ));
        }
    }
    Ok(Err(no_such_dead_letter(topic, id)))
}

fn select_queues(
    config: &Config,
    topic: Option<&str>,
) -> Result<Vec<TopicQueue>, DeadLetterRefusal> {
    let Some(name) = topic else {
        return Ok(config
            .topics
            .iter()
            .map(|(topic, known)| TopicQueue::new(topic, known))
            .collect());
    };
    let known = Topic::parse(name).ok().and_then(|topic| config.topics.get_key_value(&topic));
    let (topic, known) =
        known.ok_or_else(|| DeadLetterRefusal::NotFound(format!("there is no topic {name:?}")))?;
    Ok(vec![TopicQueue::new(topic, known)])
}

fn no_such_dead_letter(topic: Option<&str>, id: &str) -> DeadLetterRefusal {
    let place = topic.map_or_else(|| "any topic".to_owned(), |topic| format!("topic {topic}"));
    DeadLetterRefusal::NotFound(format!(
        "{place} has no dead letter {id}: list them with `omnidaemon bus dlq`"
    ))
}

fn render_dead_letter(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "topic": letter.topic.as_str(),
        "error": letter.error,
        "attempts": letter.attempts,
        "failed_ms": letter.failed_at.0,
        "payload": serde_json::from_str::<Value>(&letter.payload).unwrap_or_else(|_| letter.payload.clone().into()),
        "cursor": letter.cursor,
    })
}
