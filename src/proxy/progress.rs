//! `POST /task/<id>/progress?token=…`: where an `http` handler says how far it has come.
//!
//! The token came with the attempt's request and is good for that attempt alone; no API key is asked for. What comes
//! faster than once a second is put off, and the last of it is written then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
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

/// The tasks whose progress this thread wrote a moment ago, and what came since.
#[derive(Default)]
pub(super) struct Reports(RefCell<HashMap<TaskId, Option<(Holder, Progress)>>>);

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
    if thread.reports.put_off(&id, &holder, &progress) {
        return Ok(respond::noted());
    }
    let noted = write(thread, &id, &holder, &progress).await;
    if matches!(noted, Ok(true)) {
        context.connection.tracker.spawn_local(write_what_follows(Rc::clone(thread), id));
        return Ok(respond::noted());
    }
    thread.reports.forget(&id);
    Err(noted.map_or_else(Problem::Store, |_| Problem::AttemptOver))
}

async fn write(thread: &Thread, id: &TaskId, holder: &Holder, progress: &Progress) -> Result<bool, StoreError> {
    let circuit = &thread.parts.circuit;
    circuit.call(circuit.store().report(id, holder, progress)).await
}

/// Writes what comes after a report, a second at a time, until nothing has come for one.
async fn write_what_follows(thread: Rc<Thread>, id: TaskId) {
    loop {
        if thread.draining.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            break;
        }
        let Some((holder, progress)) = thread.reports.take(&id) else { break };
        if !matches!(write(&thread, &id, &holder, &progress).await, Ok(true)) {
            break;
        }
    }
    thread.reports.forget(&id);
}

// === impl Reports ===

impl Reports {
    /// Keeps a report for later where one was written a moment ago; else notes that this one is.
    fn put_off(&self, id: &TaskId, holder: &Holder, progress: &Progress) -> bool {
        let mut reports = self.0.borrow_mut();
        if let Some(next) = reports.get_mut(id) {
            *next = Some((holder.clone(), progress.clone()));
            return true;
        }
        reports.insert(id.clone(), None);
        false
    }

    fn take(&self, id: &TaskId) -> Option<(Holder, Progress)> {
        self.0.borrow_mut().get_mut(id)?.take()
    }

    fn forget(&self, id: &TaskId) {
        self.0.borrow_mut().remove(id);
    }
}
