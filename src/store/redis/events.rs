//! What the Python program's `agent list` and `metrics` read: which agents there are, and an event
//! per attempt.
//!
//! Events are kept for those who have them: only where a Python agent has begun its stream, and
//! then in one call a second that no task waits for. Python counts the last thousand at most, so no
//! more are kept between two calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::message::{to_json, to_unix_seconds};
use super::partition::Partition;
use super::script::{APPEND_AGENT_EVENTS, REGISTER_AGENT};
use super::unix_now;
use crate::store::{Lease, Settlement, StoreError, TopicQueue};

/// Events between two calls; what is more is not told.
const MAX_BUFFERED_EVENTS: usize = 1000;
const AGENT_DESCRIPTION: &str = "run by the workers of the omnidaemon proxy";

/// The events since the last call.
#[derive(Default)]
pub(super) struct AgentEventBuffer {
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
    fn push_event(&self, event: &AgentEvent<'_>) {
        let mut latest = self.buffered_events.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() < MAX_BUFFERED_EVENTS
            && let Ok(json) = to_json(event)
        {
            latest.push(json);
        }
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.buffered_events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_reader(&self) -> bool {
        self.has_reader.load(Ordering::Relaxed)
    }
}

impl Partition {
    /// Notes that an attempt began.
    pub(super) fn record_attempt_start(&self, lease: &Lease, process: &str) {
        if self.agent_events.has_reader() {
            self.agent_events.push_event(&build_agent_event(lease, process, "task_received"));
        }
    }

    /// Notes how an attempt ended; one given back unspent has not.
    pub(super) fn record_attempt_end(&self, lease: &Lease, settlement: &Settlement) {
        if !self.agent_events.has_reader() {
            return;
        }
        let (_, process) = self.local_leases.extras_and_process(lease);
        match settlement {
            Settlement::Complete { .. } => {
                let took = Some(self.local_leases.lease_age(lease).as_secs_f64());
                self.agent_events.push_event(&AgentEvent {
                    processing_time_sec: took,
                    ..build_agent_event(lease, &process, "task_processed")
                });
            }
            Settlement::Retry { failure, .. } | Settlement::Bury { failure, .. } => {
                let error = Some(failure.message.as_str());
                self.agent_events.push_event(&AgentEvent {
                    error,
                    ..build_agent_event(lease, &process, "task_failed")
                });
            }
            Settlement::Release => {}
        }
    }

    /// Writes the events; with `look`, asks whether there is anybody to write them for.
    pub(super) async fn flush_events(&self, check_for_reader: bool) -> Result<(), StoreError> {
        let events = self.agent_events.take_events();
        if check_for_reader || !events.is_empty() {
            let wanted = APPEND_AGENT_EVENTS
                .call_with_keys(&[self.keys.agent_events_key()])
                .arg(events)
                .run(&self.link)
                .await?;
            self.agent_events.has_reader.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lists the queue's agent.
    pub(super) async fn register_agent(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        REGISTER_AGENT
            .call_with_keys(&[
                self.keys.agent_key(&queue.topic, &queue.agent),
                self.keys.topic_agents_key(&queue.topic),
                self.keys.agent_topics_key(),
            ])
            .arg(&[&queue.agent, queue.topic.as_str(), AGENT_DESCRIPTION])
            .arg(to_unix_seconds(unix_now()))
            .run::<u64>(&self.link)
            .await
            .map(|_| ())
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
