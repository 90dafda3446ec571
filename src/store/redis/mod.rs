//! Tasks on Redis Streams, on the same keys as the Python `OmniDaemon`, whose publishers and agents work beside us.
//!
//! Each transition is one Lua script, so it is atomic and one round trip (`scripts/`). The stream's pending list is
//! the truth about who holds an entry; a record per task (`omni:task:<id>`) holds the fencing token (attempt and
//! turn), and is what tells a late or repeated settlement from a current one; it goes when the task completes or
//! fails, whose result (`omni:result:<id>`) then says all that is known of it. A task that waits for a retry stays
//! pending, held by nobody (`~delayed`), with its time in an index that is rebuilt if lost. What any group still wants
//! is never trimmed. Redis's own clock times leases, delays and retries: scripts are told for how
//! long, never until when.

mod attend;
mod batch;
mod checks;
mod claim;
mod delay;
mod durable;
mod enqueue;
mod error;
mod events;
mod fan;
mod finish;
mod keys;
mod lease;
mod life;
mod link;
mod list;
mod live;
mod message;
mod missing;
mod notify;
mod outbox;
mod partition;
mod progress;
mod read;
mod redrive;
mod resolve;
mod rollout;
mod row;
mod script;
mod servers;
mod settle;
mod shared;
mod tend;
mod watch;

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::durable::Durable;
use self::keys::Keys;
use self::link::{Link, Mark};
use self::partition::Partition;
use self::resolve::{By, slot};
use super::{
    Advice, Buried, Caller, Cancelled, Change, Claim, Claimed, Conclusion, DeadLetter, Delivery, DeliveryRecord, Depth,
    Glance, Heartbeat, HistoryEntry, Holder, Lease, Listing, Meeting, Outcome, Page, Presence, Queue, Redriven,
    RolloutRecord, Settled, Settlement, SharedSecret, StoreError, StoredEvidence, TaskStore, Waiters,
};
use crate::config::{Durability, Store, StoreUrl};
use crate::task::{Life, Progress, Task, TaskId, TaskRecord, UnixMs};

/// A [`TaskStore`] on Redis, 7.0 or later, or Valkey: one partition, or several in a Cluster.
pub struct RedisStore {
    /// At least one.
    partitions: Vec<Partition>,
    /// This process's name, on whose channel it hears of its tasks' ends.
    name: String,
    waiters: Waiters,
    /// The partition that the next lease call begins with.
    turn: AtomicUsize,
    secret: OnceCell<SharedSecret>,
}

impl RedisStore {
    /// The store at `config.url`. Connects nowhere; connections live on the runtime of the first `run`.
    ///
    /// # Errors
    /// [`StoreError::Setup`] for a URL or a setting that this release cannot serve, with the way out.
    pub fn new(config: &Store) -> Result<Self, StoreError> {
        let (url, by): (_, fn(&Keys) -> By) = match &config.url {
            StoreUrl::Redis(url) => (url, |_| By::Address),
            StoreUrl::Sentinel(url) => (url, |_| By::Sentinel),
            StoreUrl::Cluster(url) => (url, |keys| By::Slot(slot(keys.hashed()))),
            StoreUrl::Sqlite(path) => {
                return Err(StoreError::Setup(format!("sqlite:{} is not a redis URL", path.display())));
            }
        };
        let (name, waiters) = (format!("{:08x}", rand::random::<u32>()), Waiters::default());
        let partition = |keys: Keys, mark: Option<Mark>| {
            let durable = match config.durability {
                Durability::Default => None,
                Durability::Wait => {
                    let link = Link::new(url, by(&keys), config.timeout, mark.clone())?;
                    Some(Durable::new(link, keys.durable(), config.timeout))
                }
            };
            let link = Link::new(url, by(&keys), config.timeout, mark)?;
            Ok(Partition::new(link, durable, keys, config.timeout, &name, &waiters))
        };
        let partitions = if matches!(config.url, StoreUrl::Cluster(_)) {
            let partitions = usize::from(config.partitions.max(1));
            let tagged = (0..partitions).map(Keys::of_partition);
            let marked = |keys: Keys| (Some(Mark { key: keys.partitions(), partitions }), keys);
            tagged.map(marked).map(|(mark, keys)| partition(keys, mark)).collect::<Result<_, StoreError>>()?
        } else {
            vec![partition(Keys::default(), None)?]
        };
        Ok(Self { partitions, name, waiters, turn: AtomicUsize::new(0), secret: OnceCell::new() })
    }
}

/// The longest time that can be added to the present, ms.
const LONGEST: u64 = 1 << 52;

fn now() -> UnixMs {
    jiff::Timestamp::now().into()
}

/// The milliseconds until `at`, by the clock of the process that chose it: what a script adds to its own time, so that
/// clocks need not agree.
fn until(at: UnixMs) -> u64 {
    millis(at.since(now())).min(LONGEST)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time to live as Redis takes it: at least a millisecond, and no more than it can add to the present.
fn ttl_ms(ttl: Duration) -> u64 {
    millis(ttl).clamp(1, LONGEST)
}

#[async_trait]
impl TaskStore for RedisStore {
    async fn run(&self, shutdown: CancellationToken) {
        self.run_notifications(shutdown).await;
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ping_all().await
    }

    async fn enqueue(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        self.enqueue_in_partition(task, queue).await
    }

    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.of(id).read_record(id).await
    }

    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        self.of(id).cancel_task(id, ttl).await
    }

    async fn lease(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.lease_tasks(process, queues, max, wait).await
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        self.of(&lease.task.id).settle_lease(lease, settlement).await
    }

    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        self.renew_everywhere(process, leases).await
    }

    async fn tend(&self, process: &str, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        self.tend_everywhere(process, queues, ttl).await
    }

    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        self.depths_everywhere(queues).await
    }

    async fn dead_letters(&self, queue: &Queue, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.dead_letters_everywhere(queue, None, limit).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        self.first().write_heartbeat(heartbeat).await
    }

    async fn leave(&self, process: &str) -> Result<(), StoreError> {
        self.first().remove_heartbeat(process).await
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.first().read_heartbeats().await
    }

    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.first().read_rollout(route).await
    }

    async fn save_rollout(&self, route: &str, record: &RolloutRecord, change: &Change) -> Result<bool, StoreError> {
        self.first().write_rollout(route, record, change).await
    }

    async fn meet(&self, presence: &Presence, routes: &[String]) -> Result<Meeting, StoreError> {
        self.first().meet_others(presence, routes).await
    }

    async fn resign(&self, process: &str) -> Result<(), StoreError> {
        self.first().leave_meeting(process).await
    }

    async fn rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.first().read_history(route, before, limit).await
    }

    async fn evidence(&self, route: &str, epochs: &[u64]) -> Result<Vec<StoredEvidence>, StoreError> {
        self.evidence_everywhere(route, epochs).await
    }

    async fn note_callers(&self, route: &str, calls: &[Caller]) -> Result<(), StoreError> {
        self.first().add_callers(route, calls).await
    }

    async fn callers(&self, route: &str) -> Result<Vec<Caller>, StoreError> {
        self.first().read_callers(route).await
    }

    async fn promote(&self, queues: &[Queue]) -> Result<(), StoreError> {
        self.promote_everywhere(queues).await
    }

    async fn take_deliveries(&self, max: usize, hold: Duration) -> Result<Vec<Delivery>, StoreError> {
        self.take_everywhere(max, hold).await
    }

    async fn settle_delivery(&self, delivery: &Delivery, outcome: &Outcome) -> Result<(), StoreError> {
        self.of(&delivery.task).settle_taken(delivery, outcome).await
    }

    async fn deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.of(id).read_deliveries(id).await
    }

    async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.outbox_everywhere().await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.of_claim(claim)?.claim_key(claim).await
    }

    async fn conclude(&self, claim: &Claim, conclusion: &Conclusion) -> Result<(), StoreError> {
        self.of_claim(claim)?.conclude_claim(claim, conclusion).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), StoreError> {
        self.of_claim(claim)?.abandon_claim(claim).await
    }

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    async fn report(&self, id: &TaskId, holder: &Holder, progress: &Progress) -> Result<bool, StoreError> {
        self.of(id).note_progress(id, holder, progress).await
    }

    async fn secret(&self) -> Result<SharedSecret, StoreError> {
        self.secret.get_or_try_init(|| self.first().read_secret()).await.cloned()
    }

    async fn glance(&self, ids: &[TaskId]) -> Result<Vec<Glance>, StoreError> {
        self.glance_everywhere(ids).await
    }

    async fn dead_letters_before(
        &self,
        queue: &Queue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.dead_letters_everywhere(queue, Some(before), limit).await
    }

    async fn redrive(&self, queue: &Queue, id: &str, now: UnixMs) -> Result<Redriven, StoreError> {
        self.redrive_anywhere(queue, id, now).await
    }

    async fn discard(&self, queue: &Queue, id: &str) -> Result<bool, StoreError> {
        self.discard_anywhere(queue, id).await
    }

    async fn attend(&self, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        self.attend_everywhere(queues, ttl).await
    }

    async fn life(&self, id: &TaskId) -> Result<Option<Life>, StoreError> {
        self.of(id).read_life(id).await
    }

    async fn list(&self, queues: &[Queue], listing: &Listing) -> Result<Page, StoreError> {
        self.list_everywhere(queues, listing).await
    }

    async fn advice(&self) -> Result<Vec<Advice>, StoreError> {
        self.advice_everywhere().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn opened(url: StoreUrl, durability: Durability) -> Result<RedisStore, StoreError> {
        RedisStore::new(&Store { url, timeout: Duration::from_secs(1), durability, partitions: 1 })
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_way_out_and_no_password() {
        for url in ["redis://:canary@", "redis://:canary@h:1/x", "nothing:canary"] {
            let error = opened(StoreUrl::Redis(Secret::new(url)), Durability::Default).err().expect("refused");
            let error = error.to_string();
            assert!(error.contains("redis://") && !error.contains("canary"), "{error}");
        }
        let url = StoreUrl::Redis(Secret::new("redis://h:1/2"));
        assert!(opened(url.clone(), Durability::Default).is_ok());
        assert!(opened(url, Durability::Wait).is_ok());
        let cluster = StoreUrl::Cluster(Secret::new("redis+cluster://h:1,i:2"));
        assert!(opened(cluster, Durability::Default).is_ok());
    }
}
