//! `dead-letters`: list, reprocess and discard; and `tasks/{id}/retry`.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::admin::problem::{ApiProblem, ApiResult, parse_task_id};
use crate::admin::services::AdminServices;
use crate::admin::views::{DeadLetterChangeDocument, DeadLetterDocument};
use crate::operations::{
    self, DeadLetterError, discard_dead_letter, list_dead_letters, reprocess_dead_letter,
    retry_failed_task,
};

/// Dead letters of a page by default.
const DEFAULT_DEAD_LETTER_PAGE: usize = 100;

/// The query of the list.
#[derive(Deserialize)]
pub(crate) struct DeadLetterPageParams {
    topic: String,
    limit: Option<usize>,
    before: Option<String>,
}

/// The query of a change; without a topic all are searched.
#[derive(Deserialize)]
pub(crate) struct DeadLetterTopicParams {
    topic: Option<String>,
}

/// `GET dead-letters?topic=&limit=&before=`
pub(crate) async fn get_dead_letters(
    State(services): State<AdminServices>,
    Query(params): Query<DeadLetterPageParams>,
) -> ApiResult<Vec<DeadLetterDocument>> {
    let before = params.before.as_deref().filter(|before| !before.is_empty());
    let limit = params.limit.unwrap_or(DEFAULT_DEAD_LETTER_PAGE);
    let (access, config) = (services.store_access(), services.config());
    let letters = list_dead_letters(access, &config, &params.topic, before, limit).await;
    let letters = letters.map_err(|error| match error {
        DeadLetterError::Store(error) => ApiProblem::from_page_error(error, before),
        error => error.into(),
    })?;
    Ok(Json(letters.iter().map(DeadLetterDocument::from).collect()))
}

/// `GET dead-letters/{id}?topic=`
pub(crate) async fn get_dead_letter(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
    Query(params): Query<DeadLetterTopicParams>,
) -> ApiResult<DeadLetterDocument> {
    let (access, config) = (services.store_access(), services.config());
    let letter = operations::get_dead_letter(access, &config, params.topic.as_deref(), &id).await?;
    Ok(Json(DeadLetterDocument::from(&letter)))
}

/// `POST dead-letters/{id}/reprocess?topic=`
pub(crate) async fn post_reprocess(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
    Query(params): Query<DeadLetterTopicParams>,
) -> ApiResult<DeadLetterChangeDocument> {
    let (access, config) = (services.store_access(), services.config());
    let task = reprocess_dead_letter(access, &config, params.topic.as_deref(), &id).await?;
    Ok(Json(DeadLetterChangeDocument::queued(&id, &task)))
}

/// `DELETE dead-letters/{id}?topic=`
pub(crate) async fn delete_dead_letter(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
    Query(params): Query<DeadLetterTopicParams>,
) -> ApiResult<DeadLetterChangeDocument> {
    let (access, config) = (services.store_access(), services.config());
    let topic = discard_dead_letter(access, &config, params.topic.as_deref(), &id).await?;
    Ok(Json(DeadLetterChangeDocument::discarded(&id, &topic)))
}

/// `POST tasks/{id}/retry`: reprocesses the dead letter of a task by the task's id.
pub(crate) async fn post_retry(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
) -> ApiResult<DeadLetterChangeDocument> {
    let known = parse_task_id(&id)?;
    let task = retry_failed_task(services.store_access(), &services.config(), &known).await?;
    Ok(Json(DeadLetterChangeDocument::queued(&id, &task)))
}
