//! Looks a task up on behalf of its owner.

use http::HeaderMap;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::context::RequestContext;
use crate::proxy::http::api_key::owner_from_headers;
use crate::task::{TaskId, TaskRecord};

/// Loads a task that has no owner, or belongs to the API key in `headers`.
///
/// # Errors
/// `NoSuchTask` if the task is unknown, has expired or belongs to another key; `Store` without the
/// store.
pub(crate) async fn find_owned_task(
    context: &RequestContext<'_>,
    headers: &HeaderMap,
    id: &TaskId,
) -> Result<TaskRecord, ProxyProblem> {
    let circuit = &context.services().circuit;
    let record = circuit.call(circuit.store().get_task(id)).await?;
    let is_owner =
        |record: &TaskRecord| record.owner.is_none() || record.owner == owner_from_headers(headers);
    record.filter(is_owner).ok_or(ProxyProblem::NoSuchTask)
}
