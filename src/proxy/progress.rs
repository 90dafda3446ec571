//! `POST /task/<id>/progress?token=…`: where an `http` handler says how far it has come.
//!
//! The token came with the attempt's request and is good for that attempt alone; no API key is
//! asked for. What comes faster than once a second is put off, and the last of it is written then.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::sleep;

use super::body::ResponseBody;
use super::collect::{CollectedBody, collect_body, discard_body};
use super::respond::{self, ProxyProblem};
use super::service::{ProxyThread, RequestContext};
use crate::route::parse_progress;
use crate::store::{LeaseHolder, StoreError};
use crate::task::{TaskId, TaskProgress};

/// The largest body.
const MAX_REPORT_BODY: usize = 4096;
/// The least time between two writes for one task.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The attempts whose progress was written a moment ago, and what came since: of all threads,
/// whichever a report comes to.
#[derive(Default)]
pub(super) struct ProgressReports(Mutex<HashMap<AttemptKey, Option<TaskProgress>>>);

type AttemptKey = (TaskId, LeaseHolder);

/// Takes a report.
pub(super) async fn accept_progress_report(
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
    let thread = &context.connection.thread;
    let mut share = thread.body_budget.new_permit();
    let body = match collect_body(body, MAX_REPORT_BODY, &mut share).await {
        CollectedBody::Complete(body) => body,
        CollectedBody::TooLarge(rest) => {
            discard_body(rest);
            return Err(ProxyProblem::BadProgress);
        }
        CollectedBody::OverBudget(rest) => {
            discard_body(rest);
            return Err(ProxyProblem::OverBodyBudget);
        }
        CollectedBody::Failed(fault) => return Err(ProxyProblem::RequestBody(fault)),
    };
    let circuit = &context.services().circuit;
    let secret =
        circuit.call(circuit.store().load_shared_secret()).await.map_err(ProxyProblem::Store)?;
    // As of a task that is not there: a guess learns nothing.
    let holder = LeaseHolder::verify_token(token, &id, &secret).ok_or(ProxyProblem::NoSuchTask)?;
    let progress = parse_progress(&body).ok_or(ProxyProblem::BadProgress)?;
    let attempt = (id, holder);
    if thread.progress_reports.defer_if_recent(&attempt, &progress) {
        return Ok(respond::respond_no_content());
    }
    let noted = write_progress(thread, &attempt, &progress).await;
    if matches!(noted, Ok(true)) {
        context
            .connection
            .task_tracker
            .spawn_local(write_deferred_reports(Rc::clone(thread), attempt));
        return Ok(respond::respond_no_content());
    }
    thread.progress_reports.forget_attempt(&attempt);
    Err(noted.map_or_else(ProxyProblem::Store, |_| ProxyProblem::AttemptEnded))
}

async fn write_progress(
    thread: &ProxyThread,
    (id, holder): &AttemptKey,
    progress: &TaskProgress,
) -> Result<bool, StoreError> {
    let circuit = &thread.services.circuit;
    circuit.call(circuit.store().report_progress(id, holder, progress)).await
}

/// Writes what comes after a report, a second at a time, until nothing has come for one.
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

// === impl Reports ===

impl ProgressReports {
    /// Keeps a report for later where one was written a moment ago; else notes that this one is.
    fn defer_if_recent(&self, attempt: &AttemptKey, progress: &TaskProgress) -> bool {
        let mut reports = self.lock();
        if let Some(next) = reports.get_mut(attempt) {
            *next = Some(progress.clone());
            return true;
        }
        reports.insert(attempt.clone(), None);
        false
    }

    /// What came since; where nothing did, the next one is written at once again.
    fn take_deferred(&self, attempt: &AttemptKey) -> Option<TaskProgress> {
        let mut reports = self.lock();
        let next = reports.get_mut(attempt)?.take();
        if next.is_none() {
            reports.remove(attempt);
        }
        next
    }

    fn forget_attempt(&self, attempt: &AttemptKey) {
        self.lock().remove(attempt);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptKey, Option<TaskProgress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
