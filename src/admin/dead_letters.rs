//! `/admin/v1/dead-letters`: list, reprocess, discard. The command line does the same on a store without a server.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::api::{Answer, Problem, known_id};
use crate::config::Config;
use crate::store::{DeadLetter, Queue, Redriven, StoreError, TaskStore};
use crate::task::{Status, Topic};

/// The most that one answer lists.
const MOST: usize = 1000;
/// What a redriven request goes without.
const NO_CREDENTIALS: &str = "it runs without the credentials of its request, which were kept only until it failed";

/// Why nothing was done about a dead letter.
#[derive(Debug)]
pub enum Refused {
    /// It, or its topic, is not there.
    NotFound(String),
    /// It cannot be done as things are.
    Conflict(String),
}

#[derive(Deserialize)]
pub(super) struct Page {
    topic: String,
    limit: Option<usize>,
    before: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Of {
    topic: Option<String>,
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound(detail) => Self::new(StatusCode::NOT_FOUND, detail),
            Refused::Conflict(detail) => Self::new(StatusCode::CONFLICT, detail),
        }
    }
}

/// `GET dead-letters?topic=&limit=&before=`
pub(super) async fn list(State(parts): State<Parts>, Query(page): Query<Page>) -> Answer {
    let config = parts.snapshots.load().config.clone();
    let before = page.before.as_deref().filter(|before| !before.is_empty());
    let (store, limit) = (parts.circuit.store(), page.limit.unwrap_or(100));
    match parts.circuit.call(listed(&**store, &config, &page.topic, before, limit)).await {
        Err(StoreError::Malformed(detail)) if before.is_some() => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
        letters => Ok(Json(letters??)),
    }
}

/// `POST dead-letters/{id}/reprocess?topic=`
pub(super) async fn reprocess(State(parts): State<Parts>, Path(id): Path<String>, Query(of): Query<Of>) -> Answer {
    let config = parts.snapshots.load().config.clone();
    let store = parts.circuit.store();
    Ok(Json(parts.circuit.call(reprocessed(&**store, &config, of.topic.as_deref(), &id)).await??))
}

/// `DELETE dead-letters/{id}?topic=`
pub(super) async fn discard(State(parts): State<Parts>, Path(id): Path<String>, Query(of): Query<Of>) -> Answer {
    let config = parts.snapshots.load().config.clone();
    let store = parts.circuit.store();
    Ok(Json(parts.circuit.call(discarded(&**store, &config, of.topic.as_deref(), &id)).await??))
}

/// `POST tasks/{id}/retry`: the same for a task that is known to have failed.
pub(super) async fn retry(State(parts): State<Parts>, Path(id): Path<String>) -> Answer {
    let (config, store) = (parts.snapshots.load().config.clone(), parts.circuit.store());
    let known = known_id(&id)?;
    let record = parts.circuit.call(store.get(&known)).await?;
    if let Some(record) = &record
        && matches!(record.status, Status::Completed | Status::Cancelled)
    {
        let detail = format!("{id} is {}: only a failed task can be tried again", record.status.as_str());
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let topic = record.as_ref().map(|record| record.topic.as_str());
    Ok(Json(parts.circuit.call(reprocessed(&**store, &config, topic, &id)).await??))
}

/// A topic's dead letters, newest first, from before the one with that cursor.
///
/// # Errors
/// Those of the store; inside, that there is no such topic.
pub async fn listed(
    store: &dyn TaskStore,
    config: &Config,
    topic: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Result<Value, Refused>, StoreError> {
    let queue = match queues(config, Some(topic)) {
        Ok(mut queues) => queues.remove(0),
        Err(refused) => return Ok(Err(refused)),
    };
    let limit = limit.min(MOST);
    let letters = match before {
        Some(before) => store.dead_letters_before(&queue, before, limit).await?,
        None => store.dead_letters(&queue, limit).await?,
    };
    Ok(Ok(letters.iter().map(view).collect()))
}

/// Makes the dead letter a queued task again, of whichever topic where none is named.
///
/// # Errors
/// Those of the store; inside, why not.
pub async fn reprocessed(
    store: &dyn TaskStore,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<Result<Value, Refused>, StoreError> {
    let queues = match queues(config, topic) {
        Ok(queues) => queues,
        Err(refused) => return Ok(Err(refused)),
    };
    for queue in queues {
        let refused = match store.redrive(&queue, id, jiff::Timestamp::now().into()).await? {
            Redriven::Unknown => continue,
            Redriven::Queued { captured } => {
                let mut document =
                    json!({"task_id": id, "topic": queue.topic.as_str(), "status": Status::Queued.as_str()});
                if captured {
                    document["note"] = NO_CREDENTIALS.into();
                }
                return Ok(Ok(document));
            }
            Redriven::Alive => format!("{id} is queued or running already: nothing was done, look at the task"),
            Redriven::Unreadable(why) => format!("{id} cannot run again: {why}: discard it"),
        };
        return Ok(Err(Refused::Conflict(refused)));
    }
    Ok(Err(no_such_letter(topic, id)))
}

/// Deletes the dead letter, of whichever topic where none is named.
///
/// # Errors
/// Those of the store; inside, that there is none.
pub async fn discarded(
    store: &dyn TaskStore,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<Result<Value, Refused>, StoreError> {
    let queues = match queues(config, topic) {
        Ok(queues) => queues,
        Err(refused) => return Ok(Err(refused)),
    };
    for queue in queues {
        if store.discard(&queue, id).await? {
            return Ok(Ok(json!({"task_id": id, "topic": queue.topic.as_str(), "status": "discarded"})));
        }
    }
    Ok(Err(no_such_letter(topic, id)))
}

fn queues(config: &Config, topic: Option<&str>) -> Result<Vec<Queue>, Refused> {
    let Some(name) = topic else {
        return Ok(config.topics.iter().map(|(topic, known)| Queue::new(topic, known)).collect());
    };
    let known = Topic::parse(name).ok().and_then(|topic| config.topics.get_key_value(&topic));
    let (topic, known) = known.ok_or_else(|| Refused::NotFound(format!("there is no topic {name:?}")))?;
    Ok(vec![Queue::new(topic, known)])
}

fn no_such_letter(topic: Option<&str>, id: &str) -> Refused {
    let place = topic.map_or_else(|| "any topic".to_owned(), |topic| format!("topic {topic}"));
    Refused::NotFound(format!("{place} has no dead letter {id}: list them with `omnidaemon bus dlq`"))
}

fn view(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "topic": letter.topic.as_str(),
        "error": letter.error,
        "attempts": letter.attempts,
        "failed_ms": letter.failed.0,
        "payload": serde_json::from_str::<Value>(&letter.payload).unwrap_or_else(|_| letter.payload.clone().into()),
        "cursor": letter.cursor,
    })
}
