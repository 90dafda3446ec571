//! `DELETE /task/<id>`

use http::{Request, Response};

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::respond_cancelled;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::tasks::lookup::find_owned_task;
use crate::store::CancelResult;
use crate::task::TaskId;

/// Cancels a task that is queued or running.
pub(crate) async fn cancel_task<B>(
    context: &RequestContext<'_>,
    request: &Request<B>,
    id: &TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    find_owned_task(context, request.headers(), id).await?;
    let circuit = &context.services().circuit;
    let ttl = context.snapshot.config.results.ttl;
    match circuit.call(circuit.store().cancel(id, ttl)).await? {
        CancelResult::Cancelled | CancelResult::WasRunning => Ok(respond_cancelled(id)),
        CancelResult::AlreadyEnded(status) => Err(ProxyProblem::TaskAlreadyEnded(status)),
        CancelResult::NoSuchTask => Err(ProxyProblem::NoSuchTask),
    }
}
