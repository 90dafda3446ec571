//! Which worker processes live.

use redis::Value;
use serde::{Deserialize, Serialize};

use super::as_millis_u64;
use super::message::to_json;
use super::partition::Partition;
use super::script::WRITE_HEARTBEAT;
use crate::store::{StoreError, WorkerHeartbeat, heartbeat_ttl};
use crate::task::UnixMs;

#[derive(Serialize, Deserialize)]
struct StoredHeartbeat {
    active: u32,
    busy: u32,
    started: u64,
}

impl Partition {
    pub(super) async fn write_heartbeat(
        &self,
        heartbeat: &WorkerHeartbeat,
    ) -> Result<(), StoreError> {
        let WorkerHeartbeat {
            process,
            active_slots: active,
            busy_slots: busy,
            started_at: started,
        } = heartbeat;
        let stored =
            to_json(&StoredHeartbeat { active: *active, busy: *busy, started: started.0 })?;
        WRITE_HEARTBEAT
            .call_with_keys(&[self.keys.heartbeat_key(process), self.keys.workers_index_key()])
            .arg(&[process, &stored])
            .arg(as_millis_u64(heartbeat_ttl()))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        // Without its key the entry in the index counts for nothing, and the next heartbeat of
        // another sweeps it.
        self.link
            .send_command::<()>(redis::cmd("DEL").arg(self.keys.heartbeat_key(process)))
            .await?;
        self.link
            .send_command(redis::cmd("ZREM").arg(self.keys.workers_index_key()).arg(process))
            .await
    }

    pub(super) async fn read_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
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
        let mut beats = Vec::new();
        for (process, json) in processes.into_iter().zip(stored) {
            // none: it has expired since, or was never renewed
            if let Some(stored) =
                json.and_then(|json| serde_json::from_str::<StoredHeartbeat>(&json).ok())
            {
                let StoredHeartbeat { active, busy, started } = stored;
                beats.push(WorkerHeartbeat {
                    process,
                    active_slots: active,
                    busy_slots: busy,
                    started_at: UnixMs(started),
                });
            }
        }
        Ok(beats)
    }
}
