//! `POST /task/<id>/progress?token=…`: an `http` handler reports the progress of its attempt.
//!
//! The token was sent with the attempt's request and is valid for that attempt only; no API key is
//! needed. Progress is written at most once a second for an attempt: reports that come sooner are
//! deferred, and the latest of them is written then.

use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::sleep;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::respond_no_content;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::{ProxyThread, RequestContext};
use crate::proxy::http::collect::discard_body;
use crate::proxy::state::progress_reports::AttemptKey;
use crate::proxy::tasks::read_body::read_body;
use crate::route::parse_progress;
use crate::store::{LeaseHolder, StoreError};
use crate::task::{TaskId, TaskProgress};

/// The largest body of a report, bytes.
const MAX_REPORT_BODY: usize = 4096;
/// The shortest time between two writes for one attempt.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts a progress report of an attempt.
pub(crate) async fn accept_progress_report(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
    id: TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        discard_body(body);
        return Err(ProxyProblem::MethodNotAllowed("POST"));
    }
    let mut query = head.uri.query().into_iter().flat_map(|query| query.split('&'));
    let token = query.find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let thread = context.thread();
    let mut permit = thread.body_budget.new_permit();
    let too_large = ProxyProblem::BadProgress;
    let body = read_body(body, MAX_REPORT_BODY, &mut permit, too_large, discard_body).await?;
    let circuit = &context.services().circuit;
    let secret = circuit.call(circuit.store().load_shared_secret()).await?;
    // The same answer as for an unknown task: a guessed token reveals nothing.
    let holder = LeaseHolder::verify_token(token, &id, &secret).ok_or(ProxyProblem::NoSuchTask)?;
    let progress = parse_progress(&body).ok_or(ProxyProblem::BadProgress)?;
    let attempt = (id, holder);
    if thread.progress_reports.defer_if_recent(&attempt, &progress) {
        return Ok(respond_no_content());
    }
    let written = write_progress(thread, &attempt, &progress).await;
    if matches!(written, Ok(true)) {
        let deferred = write_deferred_reports(Rc::clone(thread), attempt);
        context.connection.task_tracker.spawn_local(deferred);
        return Ok(respond_no_content());
    }
    thread.progress_reports.forget_attempt(&attempt);
    Err(written.map_or_else(ProxyProblem::Store, |_| ProxyProblem::AttemptEnded))
}

/// Writes progress to the store; false if the attempt does not hold the task any more.
async fn write_progress(
    thread: &ProxyThread,
    (id, holder): &AttemptKey,
    progress: &TaskProgress,
) -> Result<bool, StoreError> {
    let circuit = &thread.services.circuit;
    circuit.call(circuit.store().report_progress(id, holder, progress)).await
}

/// Writes the latest deferred report every [`MIN_WRITE_INTERVAL`], until there was none for that
/// long or the attempt has ended.
async fn write_deferred_reports(thread: Rc<ProxyThread>, attempt: AttemptKey) {
    loop {
        if thread.draining.run_until_cancelled(sleep(MIN_WRITE_INTERVAL)).await.is_none() {
            break;
        }
        let Some(progress) = thread.progress_reports.take_deferred(&attempt) else { return };
        if !matches!(write_progress(&thread, &attempt, &progress).await, Ok(true)) {
            break;
        }
    }
    thread.progress_reports.forget_attempt(&attempt);
}
