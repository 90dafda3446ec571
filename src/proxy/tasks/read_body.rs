//! Reads the body of a request to a task endpoint.

use bytes::Bytes;
use hyper::body::Incoming;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::http::collect::{BodyPermit, CollectedBody, collect_body};
use crate::proxy::http::request_body::RequestBody;

/// Reads a body of at most `limit` bytes. The rest of a body that is refused goes to `discard`;
/// `too_large` is the problem of a body over `limit`.
pub(crate) async fn read_body(
    body: Incoming,
    limit: usize,
    permit: &mut BodyPermit,
    too_large: ProxyProblem,
    discard: impl FnOnce(RequestBody),
) -> Result<Bytes, ProxyProblem> {
    match collect_body(body, limit, permit).await {
        CollectedBody::Complete(body) => Ok(body),
        CollectedBody::TooLarge(rest) => {
            discard(rest);
            Err(too_large)
        }
        CollectedBody::OverBudget(rest) => {
            discard(rest);
            Err(ProxyProblem::OverBodyBudget)
        }
        CollectedBody::Failed(error) => Err(ProxyProblem::RequestBody(error)),
    }
}
