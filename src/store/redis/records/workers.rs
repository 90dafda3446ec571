//! The heartbeats of worker processes.

use redis::Value;
use serde::{Deserialize, Serialize};

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::WRITE_HEARTBEAT;
use crate::store::redis::time::as_millis_u64;
use crate::store::redis::wire::json::to_json;

use crate::store::{StoreError, WorkerHeartbeat, heartbeat_ttl};
use crate::task::UnixMs;

/// The value of `omni:worker:<process>`; `started` in ms since 1970.
#[derive(Serialize, Deserialize)]
struct StoredHeartbeat {
    active: u32,
    busy: u32,
    started: u64,
}

impl PartitionCore {
    /// Writes the heartbeat of a process.
    pub(crate) async fn write_heartbeat(
        &self,
        heartbeat: &WorkerHeartbeat,
    ) -> Result<(), StoreError> {
        let process = &heartbeat.process;
        let stored = to_json(&StoredHeartbeat {
            active: heartbeat.active_slots,
            busy: heartbeat.busy_slots,
            started: heartbeat.started_at.0,
        })?;
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
        let mut range = redis::cmd("ZRANGE");
        let processes: Vec<String> =
            self.link.send_command(range.arg(self.keys.workers_index_key()).arg(0).arg(-1)).await?;
        if processes.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        get.arg(
            processes.iter().map(|process| self.keys.heartbeat_key(process)).collect::<Vec<_>>(),
        );
        let stored: Vec<Option<String>> = self.link.send_command(&get).await?;
        let mut heartbeats = Vec::new();
        for (process, json) in processes.into_iter().zip(stored) {
            // a heartbeat that has expired since the index was read has no value
            if let Some(stored) =
                json.and_then(|json| serde_json::from_str::<StoredHeartbeat>(&json).ok())
            {
                let StoredHeartbeat { active, busy, started } = stored;
                heartbeats.push(WorkerHeartbeat {
                    process,
                    active_slots: active,
                    busy_slots: busy,
                    started_at: UnixMs(started),
                });
            }
        }
        Ok(heartbeats)
    }
}
