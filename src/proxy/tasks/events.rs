//! `GET /task/<id>/events`: the changes of a task, as server-sent events.
//!
//! `status` is sent when the status or the number of attempts changes, `progress` when the handler
//! reports some, and `end`, with the document of `GET /task/<id>`, as the last event of the stream.
//! `interrupted` ends the stream for another reason (the store is unreachable, this server drains);
//! the client connects again, as browsers do by themselves. The id of the last event is `end`: a
//! client that connects again with it has seen all events, and gets 204, which stops a browser.

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

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::{
    render_progress, render_task_document, respond_no_more_events, respond_with_events,
};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::tasks::lookup::find_owned_task;
use crate::store::{Circuit, TaskEndWaiter, TaskLookup, TaskState, TaskWatcher, WatchUpdate};
use crate::task::{TaskId, TaskRecord};

/// How often a comment is sent, so that the connection is not taken for dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a client should wait before it connects again, milliseconds.
const RECONNECT_DELAY_MS: u32 = 3000;
/// The id of the last event.
const END_EVENT_ID: &str = "end";

/// The state of one stream.
struct TaskEventStream {
    circuit: Arc<Circuit>,
    id: TaskId,
    status_watch: TaskWatcher,
    end_waiter: Pin<Box<TaskEndWaiter>>,
    draining: CancellationToken,
    keepalive_timer: Interval,
    /// The task when the stream was opened, sent first.
    first_record: Option<TaskRecord>,
    /// The task's state in the events that were sent last.
    last_sent: Option<TaskState>,
    last_event_number: u64,
    is_over: bool,
}

/// Why the stream wakes up.
enum StreamWakeup {
    TaskEnded(Option<Arc<TaskRecord>>),
    TaskChanged(WatchUpdate),
    KeepaliveDue,
    Draining,
}

/// Opens a stream of a task's events.
pub(crate) async fn open_task_events(
    context: &RequestContext<'_>,
    request: &Request<Incoming>,
    id: TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    if request.method() != Method::GET {
        return Err(ProxyProblem::MethodNotAllowed("GET"));
    }
    let last_event_id =
        request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let circuit = context.services().circuit.clone();
    // Both are registered before the task is read: a change between would be missed.
    let status_watch =
        circuit.task_watchers().watch_task(&id).ok_or(ProxyProblem::TooManyWatchers)?;
    let end_waiter = Box::pin(circuit.store().end_waiters().register_waiter(&id));
    let record = find_owned_task(context, request.headers(), &id).await?;
    if last_event_id == END_EVENT_ID {
        return Ok(respond_no_more_events());
    }
    let mut keepalive_timer = interval_at(Instant::now() + KEEPALIVE_INTERVAL, KEEPALIVE_INTERVAL);
    keepalive_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = TaskEventStream {
        circuit,
        id,
        status_watch,
        end_waiter,
        draining: context.thread().draining.clone(),
        keepalive_timer,
        first_record: Some(record),
        last_sent: None,
        last_event_number: last_event_id.parse().unwrap_or_default(),
        is_over: false,
    };
    let next = |mut events: TaskEventStream| async move {
        events.next().await.map(|bytes| (bytes, events))
    };
    Ok(respond_with_events(ResponseBody::from_stream(stream::unfold(events, next))))
}

// === impl TaskEventStream ===

impl TaskEventStream {
    /// The next bytes of the stream; `None` when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(record) = self.first_record.take() {
            let events = self.render_record(&record);
            return Some(format!("retry: {RECONNECT_DELAY_MS}\n\n{events}").into());
        }
        while !self.is_over {
            let wakeup = tokio::select! {
                biased;
                () = self.draining.cancelled() => StreamWakeup::Draining,
                record = self.end_waiter.as_mut() => StreamWakeup::TaskEnded(record),
                update = self.status_watch.next_update() => StreamWakeup::TaskChanged(update),
                _ = self.keepalive_timer.tick() => StreamWakeup::KeepaliveDue,
            };
            let text = match wakeup {
                StreamWakeup::TaskEnded(Some(record)) => self.render_record(&record),
                StreamWakeup::TaskEnded(None)
                | StreamWakeup::TaskChanged(WatchUpdate::Task(
                    TaskLookup::NotFound | TaskLookup::Ended,
                )) => self.render_current_record().await,
                StreamWakeup::TaskChanged(WatchUpdate::Task(TaskLookup::Active(state))) => {
                    self.render_changes(state)
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

    /// The last event, of a task that has ended or is not in the store any more.
    async fn render_current_record(&mut self) -> String {
        match self.circuit.call(self.circuit.store().get_task(&self.id)).await {
            Ok(Some(record)) => self.render_record(&record),
            Ok(None) => self.interrupt_stream("no such task, or it has expired"),
            Err(_) => self.interrupt_stream("tasks cannot be read at the moment"),
        }
    }

    /// The events of a task as it was read: its end, or what has changed.
    fn render_record(&mut self, record: &TaskRecord) -> String {
        if record.status.is_final() {
            self.is_over = true;
            return render_event("end", END_EVENT_ID, &render_task_document(record));
        }
        let TaskRecord { status, attempts, progress, .. } = record.clone();
        self.render_changes(TaskState { status, attempts, progress })
    }

    /// The events of what has changed since the last ones; empty if nothing has.
    fn render_changes(&mut self, now: TaskState) -> String {
        let before = self.last_sent.replace(now.clone());
        let mut text = String::new();
        let same_status = before
            .as_ref()
            .is_some_and(|before| (before.status, before.attempts) == (now.status, now.attempts));
        if !same_status {
            let (id, status) = (self.id.as_str(), now.status.as_str());
            let data = json!({"task_id": id, "status": status, "attempts": now.attempts});
            text += &self.render_numbered_event("status", &data);
        }
        let progress_before = before.and_then(|before| before.progress);
        if let Some(progress) = now.progress.filter(|now| progress_before.as_ref() != Some(now)) {
            text += &self.render_numbered_event("progress", &render_progress(&progress));
        }
        text
    }

    /// Ends the stream before the task has ended.
    fn interrupt_stream(&mut self, reason: &str) -> String {
        self.is_over = true;
        self.render_numbered_event("interrupted", &json!({"detail": reason}))
    }

    fn render_numbered_event(&mut self, name: &str, data: &Value) -> String {
        self.last_event_number += 1;
        render_event(name, &self.last_event_number.to_string(), &data.to_string())
    }
}

/// One event. Data with line breaks, as a stored result may have between its tokens, becomes
/// several `data` lines.
fn render_event(name: &str, id: &str, data: &str) -> String {
    let mut text = format!("event: {name}\nid: {id}\n");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}"); // writing to a String cannot fail
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_with_line_breaks_stays_one_event() {
        assert_eq!(
            render_event("end", "7", "{\r\n\"a\":1}"),
            "event: end\nid: 7\ndata: {\ndata: \ndata: \"a\":1}\n\n"
        );
    }
}
