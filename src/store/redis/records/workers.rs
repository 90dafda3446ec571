//! The heartbeats of worker processes.

use std::time::Duration;

use redis::Value;
use serde::{Deserialize, Serialize};

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{READ_HEARTBEATS, WRITE_HEARTBEAT};
use crate::store::redis::time::as_millis_u64;
use crate::store::redis::wire::json::to_json;

use crate::store::{StoreError, TopicLoad, WorkerHeartbeat, heartbeat_ttl};
use crate::task::{Topic, UnixMs};

/// The value of `omni:worker:<process>`; `started` in ms since 1970.
#[derive(Serialize, Deserialize)]
struct StoredHeartbeat {
    /// Workers.
    active: u32,
    /// Workers that run a task.
    busy: u32,
    started: u64,
    /// Absent in heartbeats of releases whose workers run one task of any topic each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<StoredTopicLoad>>,
}

/// The slots of one topic.
#[derive(Serialize, Deserialize)]
struct StoredTopicLoad {
    topic: String,
    slots: u32,
    running: u32,
    recent_runs: u32,
    recent_run_ms: u64,
}

impl PartitionCore {
    /// Writes the heartbeat of a process.
    pub(crate) async fn write_heartbeat(
        &self,
        heartbeat: &WorkerHeartbeat,
    ) -> Result<(), StoreError> {
        let process = &heartbeat.process;
        let stored = to_json(&StoredHeartbeat::from_heartbeat(heartbeat))?;
        WRITE_HEARTBEAT
            .call_with_keys(&[
                ("heartbeat", self.keys.heartbeat_key(process)),
                ("workers_index", self.keys.workers_index_key()),
            ])
            .arg("process", process)
            .arg("heartbeat_json", &stored)
            .arg("ttl_ms", as_millis_u64(heartbeat_ttl()))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    /// Removes the heartbeat of a process that stops.
    pub(crate) async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        // without the key an entry in the index is ignored, and the next heartbeat of another
        // process removes it
        self.link
            .send_command::<()>(redis::cmd("DEL").arg(self.keys.heartbeat_key(process)))
            .await?;
        self.link
            .send_command(redis::cmd("ZREM").arg(self.keys.workers_index_key()).arg(process))
            .await
    }

    /// The heartbeats that have not expired.
    pub(crate) async fn read_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        let rows: Vec<(String, String, u64)> = READ_HEARTBEATS
            .call_with_keys(&[("workers_index", self.keys.workers_index_key())])
            .arg("heartbeat_prefix", self.keys.heartbeat_key(""))
            .arg("ttl_ms", as_millis_u64(heartbeat_ttl()))
            .run(&self.link)
            .await?;
        let parse = |(process, json, age_ms): (String, String, u64)| {
            let stored: StoredHeartbeat = serde_json::from_str(&json).ok()?;
            Some(stored.into_heartbeat(process, Duration::from_millis(age_ms)))
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }
}

impl StoredHeartbeat {
    fn from_heartbeat(heartbeat: &WorkerHeartbeat) -> Self {
        let load = |load: &TopicLoad| StoredTopicLoad {
            topic: load.topic.to_string(),
            slots: load.slots,
            running: load.running,
            recent_runs: load.recent_runs,
            recent_run_ms: as_millis_u64(load.recent_run_time),
        };
        Self {
            active: heartbeat.active_workers,
            busy: heartbeat.busy_workers,
            started: heartbeat.started_at.0,
            topics: heartbeat.topics.as_ref().map(|topics| topics.iter().map(load).collect()),
        }
    }

    fn into_heartbeat(self, process: String, age: Duration) -> WorkerHeartbeat {
        let load = |stored: StoredTopicLoad| {
            Some(TopicLoad {
                topic: Topic::parse(&stored.topic).ok()?,
                slots: stored.slots,
                running: stored.running,
                recent_runs: stored.recent_runs,
                recent_run_time: Duration::from_millis(stored.recent_run_ms),
            })
        };
        WorkerHeartbeat {
            process,
            active_workers: self.active,
            busy_workers: self.busy,
            started_at: UnixMs(self.started),
            topics: self.topics.map(|topics| topics.into_iter().filter_map(load).collect()),
            age,
        }
    }
}
