//! `GET /task/<id>/events`: a task on its way, as server-sent events.
//!
//! `status` whenever it or the number of attempts changes, `progress` when the handler says so,
//! `end` with the document of `GET /task/<id>`, and then the stream ends. `interrupted` says
//! that it ends for another reason (the store is gone, this server drains); the client connects
//! again, as browsers do by themselves. The end's id is `end`: who comes back with it has seen all,
//! and is told by 204 not to come again.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::body::ResponseBody;
use super::respond::{self, ProxyProblem};
use super::service::RequestContext;
use super::tasks::find_owned_task;
use crate::store::{Circuit, TaskEndWaiter, TaskLookup, TaskState, TaskWatcher, WatchUpdate};
use crate::task::{TaskId, TaskRecord};

/// How often a comment shows that the stream lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a client should wait before it connects again, ms.
const RECONNECT_DELAY_MS: u32 = 3000;
/// The id of the last event.
const END_EVENT_ID: &str = "end";

/// What a stream goes on from.
struct TaskEventStream {
    circuit: Arc<Circuit>,
    id: TaskId,
    status_watch: TaskWatcher,
    end_waiter: Pin<Box<TaskEndWaiter>>,
    draining: CancellationToken,
    keepalive_timer: Interval,
    /// What is to be sent at once.
    first_record: Option<TaskRecord>,
    last_sent: Option<TaskState>,
    last_event_number: u64,
    is_over: bool,
}

/// What ends a pause between two events.
enum StreamWakeup {
    TaskEnded(Option<Arc<TaskRecord>>),
    TaskChanged(WatchUpdate),
    KeepaliveDue,
    Draining,
}

/// Opens a stream.
pub(super) async fn open_task_events(
    context: &RequestContext<'_>,
    request: &Request<Incoming>,
    id: TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    if request.method() != Method::GET {
        return Err(ProxyProblem::MethodNotAllowed("GET"));
    }
    let last =
        request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let circuit = context.services().circuit.clone();
    // Both before the look: a change between would be missed.
    let watch = circuit.task_watchers().watch_task(&id).ok_or(ProxyProblem::TooManyWatchers)?;
    let waiter = Box::pin(circuit.store().end_waiters().register_waiter(&id));
    let record = find_owned_task(context, request.headers(), &id).await?;
    if last == END_EVENT_ID {
        return Ok(respond::respond_no_more_events());
    }
    let mut beat = interval_at(Instant::now() + KEEPALIVE_INTERVAL, KEEPALIVE_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = TaskEventStream {
        circuit,
        id,
        status_watch: watch,
        end_waiter: waiter,
        draining: context.connection.thread.draining.clone(),
        keepalive_timer: beat,
        first_record: Some(record),
        last_sent: None,
        last_event_number: last.parse().unwrap_or_default(),
        is_over: false,
    };
    let next = |mut events: TaskEventStream| async move {
        events.next().await.map(|bytes| (bytes, events))
    };
    Ok(respond::respond_with_events(ResponseBody::from_stream(stream::unfold(events, next))))
}

// === impl Events ===

impl TaskEventStream {
    /// The next piece of the stream; none when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(record) = self.first_record.take() {
            return Some(
                format!("retry: {RECONNECT_DELAY_MS}\n\n{}", self.render_record(&record)).into(),
            );
        }
        while !self.is_over {
            let happened = tokio::select! {
                biased;
                () = self.draining.cancelled() => StreamWakeup::Draining,
                ended = self.end_waiter.as_mut() => StreamWakeup::TaskEnded(ended),
                seen = self.status_watch.next_update() => StreamWakeup::TaskChanged(seen),
                _ = self.keepalive_timer.tick() => StreamWakeup::KeepaliveDue,
            };
            let text = match happened {
                StreamWakeup::TaskEnded(Some(record)) => self.render_record(&record),
                StreamWakeup::TaskEnded(None)
                | StreamWakeup::TaskChanged(WatchUpdate::Task(
                    TaskLookup::NotFound | TaskLookup::Ended,
                )) => self.render_current_record().await,
                StreamWakeup::TaskChanged(WatchUpdate::Task(TaskLookup::Active(standing))) => {
                    self.render_changes(standing)
                }
                StreamWakeup::TaskChanged(WatchUpdate::StoreOutage) => {
                    self.interrupt_stream("tasks cannot be read at the moment")
                }
                StreamWakeup::Draining => self.interrupt_stream("this server is shutting down"),
                StreamWakeup::KeepaliveDue => ":\n\n".to_owned(),
            };
            if !text.is_empty() {
                return Some(text.into());
            }
        }
        None
    }

    /// What there is to say of a task that has ended, or is not there any more.
    async fn render_current_record(&mut self) -> String {
        match self.circuit.call(self.circuit.store().get_task(&self.id)).await {
            Ok(Some(record)) => self.render_record(&record),
            Ok(None) => self.interrupt_stream("no such task, or it has expired"),
            Err(_) => self.interrupt_stream("tasks cannot be read at the moment"),
        }
    }

    fn render_record(&mut self, record: &TaskRecord) -> String {
        if record.status.is_final() {
            self.is_over = true;
            return render_event("end", END_EVENT_ID, &respond::render_task_document(record));
        }
        let TaskRecord { status, attempts, progress, .. } = record.clone();
        self.render_changes(TaskState { status, attempts, progress })
    }

    fn render_changes(&mut self, now: TaskState) -> String {
        let told = self.last_sent.replace(now.clone());
        let mut text = String::new();
        if told
            .as_ref()
            .is_none_or(|told| (told.status, told.attempts) != (now.status, now.attempts))
        {
            let (id, status) = (self.id.as_str(), now.status.as_str());
            text += &self.render_numbered_event(
                "status",
                &json!({"task_id": id, "status": status, "attempts": now.attempts}),
            );
        }
        if let Some(progress) =
            now.progress.filter(|now| told.and_then(|told| told.progress).as_ref() != Some(now))
        {
            text += &self.render_numbered_event("progress", &respond::render_progress(&progress));
        }
        text
    }

    fn interrupt_stream(&mut self, why: &str) -> String {
        self.is_over = true;
        self.render_numbered_event("interrupted", &json!({"detail": why}))
    }

    fn render_numbered_event(&mut self, name: &str, data: &Value) -> String {
        self.last_event_number += 1;
        render_event(name, &self.last_event_number.to_string(), &data.to_string())
    }
}

/// An event; a result keeps the line breaks between its tokens.
fn render_event(name: &str, id: &str, data: &str) -> String {
    let mut text = format!("event: {name}\nid: {id}\n");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}"); // a String takes everything
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_on_several_lines_stays_one_event() {
        assert_eq!(
            render_event("end", "7", "{\r\n\"a\":1}"),
            "event: end\nid: 7\ndata: {\ndata: \ndata: \"a\":1}\n\n"
        );
    }
}
