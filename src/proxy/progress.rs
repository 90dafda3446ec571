//! `POST /task/<id>/progress?token=…`: where an `http` handler says how far it has come.
//!
//! The token came with the attempt's request and is good for that attempt alone; no API key is asked for. What comes
//! faster than once a second is put off, and the last of it is written then.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::sleep;

use super::body::Reply;
use super::collect::{Collected, collect, discard};
use super::respond::{self, Problem};
use super::service::{Context, Thread};
use crate::route::parse_progress;
use crate::store::{Holder, StoreError};
use crate::task::{Progress, TaskId};

/// The largest body.
const LIMIT: usize = 4096;
/// The least time between two writes for one task.
const PAUSE: Duration = Duration::from_secs(1);

/// The attempts whose progress was written a moment ago, and what came since: of all threads, whichever a report comes to.
#[derive(Default)]
pub(super) struct Reports(Mutex<HashMap<Attempt, Option<Progress>>>);

type Attempt = (TaskId, Holder);

/// Takes a report.
pub(super) async fn take(
    context: &Context<'_>,
    request: Request<Incoming>,
    id: TaskId,
) -> Result<Response<Reply>, Problem> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        discard(body);
        return Err(Problem::MethodNotAllowed("POST"));
    }
    let mut query = head.uri.query().into_iter().flat_map(|query| query.split('&'));
    let token = query.find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let thread = &context.connection.thread;
    let mut share = thread.hoard.hold();
    let body = match collect(body, LIMIT, &mut share).await {
        Collected::Whole(body) => body,
        Collected::Outgrown(rest) => {
            discard(rest);
            return Err(Problem::BadProgress);
        }
        Collected::Crowded(rest) => {
            discard(rest);
            return Err(Problem::Busy);
        }
        Collected::Faulty(fault) => return Err(Problem::Request(fault)),
    };
    let circuit = &context.parts().circuit;
    let secret = circuit.call(circuit.store().secret()).await.map_err(Problem::Store)?;
    // As of a task that is not there: a guess learns nothing.
    let holder = Holder::of_token(token, &id, &secret).ok_or(Problem::NoSuchTask)?;
    let progress = parse_progress(&body).ok_or(Problem::BadProgress)?;
    let attempt = (id, holder);
    if thread.reports.put_off(&attempt, &progress) {
        return Ok(respond::noted());
    }
    let noted = write(thread, &attempt, &progress).await;
    if matches!(noted, Ok(true)) {
        context.connection.tracker.spawn_local(write_what_follows(Rc::clone(thread), attempt));
        return Ok(respond::noted());
    }
    thread.reports.forget(&attempt);
    Err(noted.map_or_else(Problem::Store, |_| Problem::AttemptOver))
}

async fn write(thread: &Thread, (id, holder): &Attempt, progress: &Progress) -> Result<bool, StoreError> {
    let circuit = &thread.parts.circuit;
    circuit.call(circuit.store().report(id, holder, progress)).await
}

/// Writes what comes after a report, a second at a time, until nothing has come for one.
async fn write_what_follows(thread: Rc<Thread>, attempt: Attempt) {
    loop {
        if thread.draining.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            break;
        }
        let Some(progress) = thread.reports.take(&attempt) else { return };
        if !matches!(write(&thread, &attempt, &progress).await, Ok(true)) {
            break;
        }
    }
    thread.reports.forget(&attempt);
}

// === impl Reports ===

impl Reports {
    /// Keeps a report for later where one was written a moment ago; else notes that this one is.
    fn put_off(&self, attempt: &Attempt, progress: &Progress) -> bool {
        let mut reports = self.lock();
        if let Some(next) = reports.get_mut(attempt) {
            *next = Some(progress.clone());
            return true;
        }
        reports.insert(attempt.clone(), None);
        false
    }

    /// What came since; where nothing did, the next one is written at once again.
    fn take(&self, attempt: &Attempt) -> Option<Progress> {
        let mut reports = self.lock();
        let next = reports.get_mut(attempt)?.take();
        if next.is_none() {
            reports.remove(attempt);
        }
        next
    }

    fn forget(&self, attempt: &Attempt) {
        self.lock().remove(attempt);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, Option<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
