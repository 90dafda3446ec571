//! Events of attempts, which Python's `metrics` command counts.
//!
//! Events are recorded only if a Python agent has created the event stream. They are written in one
//! call a second, which no task waits for. Python counts the last thousand events at most, so no
//! more are buffered between two calls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::script::runner::APPEND_AGENT_EVENTS;
use crate::store::redis::time::{to_unix_seconds, unix_now};
use crate::store::redis::wire::json::to_json;
use crate::store::{Lease, Settlement, StoreError};

/// The most events that are buffered between two calls; further ones are dropped.
const MAX_BUFFERED_EVENTS: usize = 1000;

/// The events since the last call.
#[derive(Default)]
pub(crate) struct AgentEventBuffer {
    has_reader: AtomicBool,
    buffered_events: Mutex<Vec<String>>,
}

#[derive(Serialize)]
struct AgentEvent<'a> {
    topic: &'a str,
    agent: &'a str,
    runner_id: &'a str,
    #[serde(rename = "event")]
    event_name: &'a str,
    task_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    processing_time_sec: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    timestamp: f64,
    saved_at: f64,
}

impl AgentEventBuffer {
    /// Adds the event of an attempt that has begun.
    pub(crate) fn record_attempt_start(&self, lease: &Lease, process: &str) {
        if self.has_reader() {
            self.push_event(&build_agent_event(lease, process, "task_received"));
        }
    }

    /// Adds the event of an attempt that ended after `duration`; a released one has no event.
    pub(crate) fn record_attempt_end(
        &self,
        lease: &Lease,
        settlement: &Settlement,
        process: &str,
        duration: Duration,
    ) {
        if !self.has_reader() {
            return;
        }
        match settlement {
            Settlement::Complete { .. } => self.push_event(&AgentEvent {
                processing_time_sec: Some(duration.as_secs_f64()),
                ..build_agent_event(lease, process, "task_processed")
            }),
            Settlement::Retry { failure, .. } | Settlement::Bury { failure, .. } => {
                self.push_event(&AgentEvent {
                    error: Some(failure.message.as_str()),
                    ..build_agent_event(lease, process, "task_failed")
                });
            }
            Settlement::Release => {}
        }
    }

    /// Writes the events; with `check_for_reader`, also asks whether a Python agent has begun the
    /// stream.
    pub(crate) async fn flush_events(
        &self,
        core: &PartitionCore,
        check_for_reader: bool,
    ) -> Result<(), StoreError> {
        let events = self.take_events();
        if check_for_reader || !events.is_empty() {
            let has_reader = APPEND_AGENT_EVENTS
                .call_with_keys(&[("agent_events", core.keys.agent_events_key())])
                .arg_each("event", events)
                .run(&core.link)
                .await?;
            self.has_reader.store(has_reader, Ordering::Relaxed);
        }
        Ok(())
    }

    fn push_event(&self, event: &AgentEvent<'_>) {
        let mut buffered = lock_unpoisoned(&self.buffered_events);
        if buffered.len() < MAX_BUFFERED_EVENTS
            && let Ok(json) = to_json(event)
        {
            buffered.push(json);
        }
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut lock_unpoisoned(&self.buffered_events))
    }

    /// Whether a Python agent had begun the stream when the server was last asked.
    pub(crate) fn has_reader(&self) -> bool {
        self.has_reader.load(Ordering::Relaxed)
    }
}

fn build_agent_event<'a>(lease: &'a Lease, process: &'a str, name: &'a str) -> AgentEvent<'a> {
    let (at, task) = (to_unix_seconds(unix_now()), &lease.task);
    AgentEvent {
        topic: task.topic.as_str(),
        agent: &lease.queue.agent,
        runner_id: process,
        event_name: name,
        task_id: task.id.as_str(),
        processing_time_sec: None,
        error: None,
        timestamp: at,
        saved_at: at,
    }
}
