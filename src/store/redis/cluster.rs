//! The partitions of the store, and which of them holds what.
//!
//! The id of a task decides its partition, so that a process that knows the id finds the task.
//! Everything that belongs to no single task (heartbeats, rollouts) lives in the first partition.
//! The hash is part of what is stored: it never changes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::OnceCell;

use crate::config::{Secret, StoreConfig, StoreDurability, StoreUrl};
use crate::store::redis::conn::durable::DurableWriter;
use crate::store::redis::conn::hash_slot::hash_slot;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::conn::partition_mark::PartitionCountMark;
use crate::store::redis::conn::topology::MasterDiscovery;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::partition::Partition;
use crate::store::redis::wire::keys::RedisKeys;
use crate::store::{IdempotencyClaim, SharedSecret, StoreError, TaskEndWaiters};
use crate::task::TaskId;

/// A [`TaskStore`](crate::store::TaskStore) on Redis, 7.0 or later, or Valkey: one partition, or
/// several in a Cluster.
pub struct RedisStore {
    /// At least one.
    pub(crate) partitions: Vec<Partition>,
    /// The random name of this process, on whose channel it is notified of the ends of tasks.
    pub(crate) instance_id: String,
    /// The callers in this process that wait for the ends of tasks.
    pub(crate) waiters: TaskEndWaiters,
    /// The partition that the next lease call begins with.
    pub(crate) next_partition: AtomicUsize,
    /// The open tasks of each consumer group, by partition, as they were last counted.
    pub(crate) open_tasks: ArcSwap<HashMap<String, Vec<u64>>>,
    /// The secret that all processes sign with, once it is read.
    pub(crate) shared_secret: OnceCell<SharedSecret>,
}

impl RedisStore {
    /// The store at `config.url`. Makes no connection; connections live on the runtime of the first
    /// `run_background`.
    ///
    /// # Errors
    /// [`StoreError::InvalidSetup`] for a URL or a setting that this release does not support, with
    /// what to write instead.
    pub fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let (url, discovery): (_, fn(&RedisKeys) -> MasterDiscovery) = match &config.url {
            StoreUrl::Redis(url) => (url, |_| MasterDiscovery::FixedAddress),
            StoreUrl::Sentinel(url) => (url, |_| MasterDiscovery::Sentinel),
            StoreUrl::Cluster(url) => {
                (url, |keys| MasterDiscovery::SlotOwner(hash_slot(keys.hash_tag_content())))
            }
            StoreUrl::Sqlite(path) => {
                return Err(StoreError::InvalidSetup(format!(
                    "sqlite:{} is not a redis URL",
                    path.display()
                )));
            }
        };
        let instance_id = format!("{:08x}", rand::random::<u32>());
        let waiters = TaskEndWaiters::default();
        let partitions = partition_keys(config)
            .into_iter()
            .map(|(keys, mark)| {
                let discovery = discovery(&keys);
                let large_write_link =
                    MasterLink::new(url, discovery, config.timeout, mark.clone())?
                        .for_large_writes();
                let (durable_writer, link) = open_links(config, url, discovery, &keys, mark)?;
                Ok(Partition::new(PartitionCore {
                    link,
                    large_write_link,
                    durable_writer,
                    keys,
                    timeout: config.timeout,
                    instance_id: instance_id.clone(),
                    waiters: waiters.clone(),
                    reported_defects: Mutex::default(),
                }))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            partitions,
            instance_id,
            waiters,
            next_partition: AtomicUsize::new(0),
            open_tasks: ArcSwap::default(),
            shared_secret: OnceCell::new(),
        })
    }

    /// The partition of a task.
    pub(crate) fn partition_of_task(&self, id: &TaskId) -> &Partition {
        &self.partitions[self.index_of_task(id)]
    }

    /// The index of the partition of a task.
    pub(crate) fn index_of_task(&self, id: &TaskId) -> usize {
        partition_index(id, self.partitions.len())
    }

    /// The partition of everything that belongs to no single task: heartbeats, rollouts, the shared
    /// secret.
    pub(crate) fn first_partition(&self) -> &Partition {
        &self.partitions[0]
    }

    /// Groups `items` by the partition of their tasks; leaves out partitions without items.
    pub(crate) fn group_by_partition<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &TaskId,
    ) -> Vec<(&Partition, Vec<T>)> {
        let mut grouped: Vec<_> =
            self.partitions.iter().map(|partition| (partition, Vec::new())).collect();
        for item in items {
            let index = partition_index(id(&item), self.partitions.len());
            grouped[index].1.push(item);
        }
        grouped.retain(|(_, items)| !items.is_empty());
        grouped
    }

    /// The partition of a claim, by the digest of its scope, which is hashed as a task id is.
    pub(crate) fn partition_of_claim(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<&Partition, StoreError> {
        TaskId::parse(&claim.scope_digest)
            .map(|name| self.partition_of_task(&name))
            .map_err(|error| StoreError::Malformed(error.to_string()))
    }
}

/// The keys of each partition, and in a cluster the mark that is checked on each connection.
fn partition_keys(config: &StoreConfig) -> Vec<(RedisKeys, Option<PartitionCountMark>)> {
    if !matches!(config.url, StoreUrl::Cluster(_)) {
        return vec![(RedisKeys::default(), None)];
    }
    let partitions = usize::from(config.partitions.max(1));
    let with_mark = |keys: RedisKeys| {
        let mark = PartitionCountMark { key: keys.partition_count_key(), partitions };
        (keys, Some(mark))
    };
    (0..partitions).map(RedisKeys::for_partition).map(with_mark).collect()
}

/// The durable writer, where the configuration asks for one, and the link of a partition.
fn open_links(
    config: &StoreConfig,
    url: &Secret,
    discovery: MasterDiscovery,
    keys: &RedisKeys,
    mark: Option<PartitionCountMark>,
) -> Result<(Option<DurableWriter>, MasterLink), StoreError> {
    let durable_writer = match config.durability {
        StoreDurability::Default => None,
        StoreDurability::WaitForReplica => {
            let link = MasterLink::new(url, discovery, config.timeout, mark.clone())?;
            Some(DurableWriter::new(link, keys.durability_probe_key(), config.timeout))
        }
    };
    Ok((durable_writer, MasterLink::new(url, discovery, config.timeout, mark)?))
}

/// The index of the partition that holds a task, of `partitions`.
fn partition_index(id: &TaskId, partitions: usize) -> usize {
    let hash = xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes());
    let index = hash % u64::try_from(partitions.max(1)).unwrap_or(u64::MAX);
    usize::try_from(index).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open_store(url: StoreUrl, durability: StoreDurability) -> Result<RedisStore, StoreError> {
        RedisStore::new(&StoreConfig {
            url,
            timeout: Duration::from_secs(1),
            durability,
            partitions: 1,
        })
    }

    #[test]
    fn an_unsupported_url_is_refused_with_the_right_form_and_without_its_password() {
        for url in ["redis://:canary@", "redis://:canary@h:1/x", "nothing:canary"] {
            let error = open_store(StoreUrl::Redis(Secret::new(url)), StoreDurability::Default)
                .err()
                .expect("refused");
            let error = error.to_string();
            assert!(error.contains("redis://") && !error.contains("canary"), "{error}");
        }
        let url = StoreUrl::Redis(Secret::new("redis://h:1/2"));
        assert!(open_store(url.clone(), StoreDurability::Default).is_ok());
        assert!(open_store(url, StoreDurability::WaitForReplica).is_ok());
        let cluster = StoreUrl::Cluster(Secret::new("redis+cluster://h:1,i:2"));
        assert!(open_store(cluster, StoreDurability::Default).is_ok());
    }

    #[test]
    fn a_task_id_is_in_the_same_partition_in_every_release() {
        let of =
            |id: &str, partitions| partition_index(&TaskId::parse(id).expect("an id"), partitions);
        assert_eq!(of("task_01HZX3J5Y8QKZ6V9W2M4N7P0RS", 1), 0);
        assert_eq!([of("task_a", 16), of("task_b", 16), of("task_c", 16)], [4, 9, 15]);
    }
}
