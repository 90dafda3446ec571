//! `GET /task/<id>/events`: a task on its way, as server-sent events.
//!
//! `status` whenever it or the number of attempts changes, `progress` when the handler says so, `end` with the
//! document of `GET /task/<id>`, and then the stream ends. `interrupted` says that it ends for another reason (the
//! store is gone, this server drains); the client connects again, as browsers do by themselves. The end's id is
//! `end`: who comes back with it has seen all, and is told by 204 not to come again.

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

use super::body::Reply;
use super::respond::{self, Problem};
use super::service::Context;
use super::tasks::find;
use crate::store::{Circuit, Glance, Seen, Standing, Waiter, Watch};
use crate::task::{TaskId, TaskRecord};

/// How often a comment shows that the stream lives.
const BEAT: Duration = Duration::from_secs(15);
/// How long a client should wait before it connects again, ms.
const RETRY: u32 = 3000;
/// The id of the last event.
const END: &str = "end";

/// What a stream goes on from.
struct Events {
    circuit: Arc<Circuit>,
    id: TaskId,
    watch: Watch,
    waiter: Pin<Box<Waiter>>,
    draining: CancellationToken,
    beat: Interval,
    /// What is to be sent at once.
    first: Option<TaskRecord>,
    told: Option<Standing>,
    number: u64,
    over: bool,
}

/// What ends a pause between two events.
enum Happened {
    Ended(Option<Arc<TaskRecord>>),
    Seen(Seen),
    Beat,
    Draining,
}

/// Opens a stream.
pub(super) async fn open(
    context: &Context<'_>,
    request: &Request<Incoming>,
    id: TaskId,
) -> Result<Response<Reply>, Problem> {
    if request.method() != Method::GET {
        return Err(Problem::MethodNotAllowed("GET"));
    }
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let circuit = context.parts().circuit.clone();
    // Both before the look: a change between would be missed.
    let watch = circuit.watchers().watch(&id).ok_or(Problem::TooManyWatchers)?;
    let waiter = Box::pin(circuit.store().waiters().register(&id));
    let record = find(context, request.headers(), &id).await?;
    if last == END {
        return Ok(respond::no_more_events());
    }
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        circuit,
        id,
        watch,
        waiter,
        draining: context.connection.thread.draining.clone(),
        beat,
        first: Some(record),
        told: None,
        number: last.parse().unwrap_or_default(),
        over: false,
    };
    let next = |mut events: Events| async move { events.next().await.map(|bytes| (bytes, events)) };
    Ok(respond::events(Reply::stream(stream::unfold(events, next))))
}

// === impl Events ===

impl Events {
    /// The next piece of the stream; none when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(record) = self.first.take() {
            return Some(format!("retry: {RETRY}\n\n{}", self.record(&record)).into());
        }
        while !self.over {
            let happened = tokio::select! {
                biased;
                () = self.draining.cancelled() => Happened::Draining,
                ended = self.waiter.as_mut() => Happened::Ended(ended),
                seen = self.watch.next() => Happened::Seen(seen),
                _ = self.beat.tick() => Happened::Beat,
            };
            let text = match happened {
                Happened::Ended(Some(record)) => self.record(&record),
                Happened::Ended(None) | Happened::Seen(Seen::Task(Glance::Unknown | Glance::Ended)) => {
                    self.look().await
                }
                Happened::Seen(Seen::Task(Glance::Going(standing))) => self.standing(standing),
                Happened::Seen(Seen::Outage) => self.interrupted("tasks cannot be read at the moment"),
                Happened::Draining => self.interrupted("this server is shutting down"),
                Happened::Beat => ":\n\n".to_owned(),
            };
            if !text.is_empty() {
                return Some(text.into());
            }
        }
        None
    }

    /// What there is to say of a task that has ended, or is not there any more.
    async fn look(&mut self) -> String {
        match self.circuit.call(self.circuit.store().get(&self.id)).await {
            Ok(Some(record)) => self.record(&record),
            Ok(None) => self.interrupted("no such task, or it has expired"),
            Err(_) => self.interrupted("tasks cannot be read at the moment"),
        }
    }

    fn record(&mut self, record: &TaskRecord) -> String {
        if record.status.is_final() {
            self.over = true;
            return event("end", END, &respond::document(record));
        }
        let TaskRecord { status, attempts, progress, .. } = record.clone();
        self.standing(Standing { status, attempts, progress })
    }

    fn standing(&mut self, now: Standing) -> String {
        let told = self.told.replace(now.clone());
        let mut text = String::new();
        if told.as_ref().is_none_or(|told| (told.status, told.attempts) != (now.status, now.attempts)) {
            let (id, status) = (self.id.as_str(), now.status.as_str());
            text += &self.numbered("status", &json!({"task_id": id, "status": status, "attempts": now.attempts}));
        }
        if let Some(progress) = now.progress.filter(|now| told.and_then(|told| told.progress).as_ref() != Some(now)) {
            text += &self.numbered("progress", &respond::progress(&progress));
        }
        text
    }

    fn interrupted(&mut self, why: &str) -> String {
        self.over = true;
        self.numbered("interrupted", &json!({"detail": why}))
    }

    fn numbered(&mut self, name: &str, data: &Value) -> String {
        self.number += 1;
        event(name, &self.number.to_string(), &data.to_string())
    }
}

/// An event; a result keeps the line breaks between its tokens.
fn event(name: &str, id: &str, data: &str) -> String {
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
        assert_eq!(event("end", "7", "{\r\n\"a\":1}"), "event: end\nid: 7\ndata: {\ndata: \ndata: \"a\":1}\n\n");
    }
}
