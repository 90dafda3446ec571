//! What the Python program's `agent list` and `metrics` read: which agents there are, and an event per attempt.
//!
//! Events are kept for those who have them: only where a Python agent has begun its stream, and then in one call a
//! second that no task waits for. Python counts the last thousand at most, so no more are kept between two calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::message::{seconds, to_json};
use super::now;
use super::partition::Partition;
use super::script::{NOTE, REGISTER};
use crate::store::{Lease, Queue, Settlement, StoreError};

/// Events between two calls; what is more is not told.
const MOST: usize = 1000;
const DESCRIPTION: &str = "run by the workers of the omnidaemon proxy";

/// The events since the last call.
#[derive(Default)]
pub(super) struct Events {
    wanted: AtomicBool,
    latest: Mutex<Vec<String>>,
}

#[derive(Serialize)]
struct Event<'a> {
    topic: &'a str,
    agent: &'a str,
    runner_id: &'a str,
    #[serde(rename = "event")]
    name: &'a str,
    task_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    processing_time_sec: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    timestamp: f64,
    saved_at: f64,
}

impl Events {
    fn add(&self, event: &Event<'_>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() < MOST
            && let Ok(json) = to_json(event)
        {
            latest.push(json);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
}

impl Partition {
    /// Notes that an attempt began.
    pub(super) fn note_begin(&self, lease: &Lease, process: &str) {
        if self.events.are_wanted() {
            self.events.add(&event(lease, process, "task_received"));
        }
    }

    /// Notes how an attempt ended; one given back unspent has not.
    pub(super) fn note_end(&self, lease: &Lease, settlement: &Settlement) {
        if !self.events.are_wanted() {
            return;
        }
        let (_, process) = self.live.details(lease);
        match settlement {
            Settlement::Complete { .. } => {
                let took = Some(self.live.age(lease).as_secs_f64());
                self.events.add(&Event { processing_time_sec: took, ..event(lease, &process, "task_processed") });
            }
            Settlement::Retry { failure, .. } | Settlement::Bury { failure, .. } => {
                let error = Some(failure.message.as_str());
                self.events.add(&Event { error, ..event(lease, &process, "task_failed") });
            }
            Settlement::Release => {}
        }
    }

    /// Writes the events; with `look`, asks whether there is anybody to write them for.
    pub(super) async fn flush_events(&self, look: bool) -> Result<(), StoreError> {
        let events = self.events.take();
        if look || !events.is_empty() {
            let wanted = NOTE.keys(&[self.keys.events()]).arg(events).run(&self.link).await?;
            self.events.wanted.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lists the queue's agent.
    pub(super) async fn register(&self, queue: &Queue) -> Result<(), StoreError> {
        REGISTER
            .keys(&[self.keys.agent(&queue.topic, &queue.agent), self.keys.agents(&queue.topic), self.keys.topics()])
            .arg(&[&queue.agent, queue.topic.as_str(), DESCRIPTION])
            .arg(seconds(now()))
            .run::<u64>(&self.link)
            .await
            .map(|_| ())
    }
}

fn event<'a>(lease: &'a Lease, process: &'a str, name: &'a str) -> Event<'a> {
    let (at, task) = (seconds(now()), &lease.task);
    Event {
        topic: task.topic.as_str(),
        agent: &lease.queue.agent,
        runner_id: process,
        name,
        task_id: task.id.as_str(),
        processing_time_sec: None,
        error: None,
        timestamp: at,
        saved_at: at,
    }
}
