//! Which worker processes live.

use redis::Value;
use serde::{Deserialize, Serialize};

use super::message::to_json;
use super::millis;
use super::partition::Partition;
use super::script::BEAT;
use crate::store::{Heartbeat, StoreError, heartbeat_time};
use crate::task::UnixMs;

#[derive(Serialize, Deserialize)]
struct StoredHeartbeat {
    active: u32,
    busy: u32,
    started: u64,
}

impl Partition {
    pub(super) async fn write_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let Heartbeat { process, active, busy, started } = heartbeat;
        let stored = to_json(&StoredHeartbeat { active: *active, busy: *busy, started: started.0 })?;
        BEAT.keys(&[self.keys.worker(process), self.keys.workers()])
            .arg(&[process, &stored])
            .arg(millis(heartbeat_time()))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        // Without its key the entry in the index counts for nothing, and the next heartbeat of another sweeps it.
        self.link.call::<()>(redis::cmd("DEL").arg(self.keys.worker(process))).await?;
        self.link.call(redis::cmd("ZREM").arg(self.keys.workers()).arg(process)).await
    }

    pub(super) async fn read_heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let mut range = redis::cmd("ZRANGE");
        let processes: Vec<String> = self.link.call(range.arg(self.keys.workers()).arg(0).arg(-1)).await?;
        if processes.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        get.arg(processes.iter().map(|process| self.keys.worker(process)).collect::<Vec<_>>());
        let stored: Vec<Option<String>> = self.link.call(&get).await?;
        let mut beats = Vec::new();
        for (process, json) in processes.into_iter().zip(stored) {
            // none: it has expired since, or was never renewed
            if let Some(stored) = json.and_then(|json| serde_json::from_str::<StoredHeartbeat>(&json).ok()) {
                let StoredHeartbeat { active, busy, started } = stored;
                beats.push(Heartbeat { process, active, busy, started: UnixMs(started) });
            }
        }
        Ok(beats)
    }
}
