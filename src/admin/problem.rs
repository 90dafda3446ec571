//! Errors of the API as problem documents: the one place that chooses their HTTP statuses.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::views::ProblemDocument;
use crate::control::RolloutCommandError;
use crate::operations::{CancelError, DeadLetterError, PublishError};
use crate::store::{StoreError, StoreRefusal};
use crate::task::TaskId;

/// Why a request was refused or failed.
#[derive(Debug)]
pub(super) struct ApiProblem {
    pub(super) status: StatusCode,
    pub(super) detail: String,
}

/// A handler's answer: a document, or a problem.
pub(super) type ApiResult<T> = Result<Json<T>, ApiProblem>;

impl ApiProblem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// 422: an argument or the body cannot be used.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 404: the store does not know the task, or no longer.
    pub(super) fn no_such_task() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such task, or it has expired")
    }

    /// A page of a list that could not be read. The store reports a wrong cursor as a malformed
    /// record, which is the client's mistake when it sent one.
    pub(super) fn from_page_error(error: StoreError, cursor: Option<&str>) -> Self {
        match error {
            StoreError::Malformed(detail) if cursor.is_some() => Self::unprocessable(detail),
            error => error.into(),
        }
    }
}

/// The task id of a path; an id that cannot be one is a task that does not exist.
pub(super) fn parse_task_id(text: &str) -> Result<TaskId, ApiProblem> {
    TaskId::parse(text).map_err(|_| ApiProblem::no_such_task())
}

/// The answer to a path that is not there.
pub(super) async fn respond_not_found() -> ApiProblem {
    ApiProblem::new(
        StatusCode::NOT_FOUND,
        "there is nothing here: try /readyz, /metrics or /admin/v1/status",
    )
}

impl From<StoreError> for ApiProblem {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Refused(
                StoreRefusal::BacklogFull { .. } | StoreRefusal::Saturated { .. },
            ) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<PublishError> for ApiProblem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Body(_) | PublishError::Request(_) => {
                Self::unprocessable(error.to_string())
            }
            PublishError::Store(error) => error.into(),
        }
    }
}

impl From<CancelError> for ApiProblem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::AlreadyEnded(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            CancelError::NoSuchTask => Self::no_such_task(),
            CancelError::Store(error) => error.into(),
        }
    }
}

impl From<DeadLetterError> for ApiProblem {
    fn from(error: DeadLetterError) -> Self {
        let status = match error {
            DeadLetterError::NoSuchTopic(_) | DeadLetterError::NoSuchDeadLetter { .. } => {
                StatusCode::NOT_FOUND
            }
            DeadLetterError::TaskActive { .. }
            | DeadLetterError::NotRunnable { .. }
            | DeadLetterError::NotFailed { .. } => StatusCode::CONFLICT,
            DeadLetterError::Store(error) => return error.into(),
        };
        Self::new(status, error.to_string())
    }
}

impl From<RolloutCommandError> for ApiProblem {
    fn from(error: RolloutCommandError) -> Self {
        let status = match error {
            RolloutCommandError::UnknownRoute(_) => StatusCode::NOT_FOUND,
            RolloutCommandError::Refused(_) | RolloutCommandError::ConcurrentChange => {
                StatusCode::CONFLICT
            }
            RolloutCommandError::StoreUnavailable(_) | RolloutCommandError::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let is_temporary =
            matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let document = ProblemDocument {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, Json(document)).into_response();
        let headers = response.headers_mut();
        let problem_json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem_json);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_temporary {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
