//! Routes requests to `/task/<id>` and below.

use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::{respond_preflight, respond_with_task};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::tasks::cancel::cancel_task;
use crate::proxy::tasks::cors::{add_cors_headers, is_cors_preflight};
use crate::proxy::tasks::events::open_task_events;
use crate::proxy::tasks::poll::long_poll_task;
use crate::proxy::tasks::progress::accept_progress_report;
use crate::proxy::tasks::response::give_legacy_response;
use crate::task::TaskId;

/// Answers a request below `/task/`; `rest` is the part of the path after it.
pub(crate) async fn handle_task_request(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
    rest: &str,
) -> Response<ResponseBody> {
    let request_headers = request.headers().clone();
    let mut response = if is_cors_preflight(&request) {
        respond_preflight()
    } else {
        route_task_request(context, request, rest).await.unwrap_or_else(ProxyProblem::into_response)
    };
    add_cors_headers(&context.snapshot, &request_headers, response.headers_mut());
    response
}

async fn route_task_request(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let (id, view) = rest.split_once('/').map_or((rest, None), |(id, view)| (id, Some(view)));
    let id = TaskId::parse(id).map_err(|_| ProxyProblem::NoSuchTask)?;
    match view {
        None => {}
        Some("events") => return open_task_events(context, &request, id).await,
        Some("response") => {
            return match *request.method() {
                Method::GET | Method::HEAD => give_legacy_response(context, &request, &id).await,
                _ => Err(ProxyProblem::MethodNotAllowed("GET, HEAD")),
            };
        }
        Some("progress") => return accept_progress_report(context, request, id).await,
        Some(_) => return Err(ProxyProblem::NoSuchTask),
    }
    match *request.method() {
        Method::GET | Method::HEAD => {
            let record = long_poll_task(context, &request, &id).await?;
            Ok(respond_with_task(&record))
        }
        Method::DELETE => cancel_task(context, &request, &id).await,
        _ => Err(ProxyProblem::MethodNotAllowed("GET, HEAD, DELETE")),
    }
}
