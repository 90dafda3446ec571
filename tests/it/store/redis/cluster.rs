//! A Redis Cluster: masters fail over and slots move under load; nothing fails, and nothing that
//! was replicated is lost.

use omnidaemon::config::{Secret, StoreConfig, StoreDurability, StoreUrl};
use omnidaemon::store::{RedisStore, RolloutStore as _, StoreError, StoreService as _};

use crate::proxy::fail_open::Load;
use crate::store::redis::sentinel::{accepted, all_end};
use crate::support::redis::cluster::{RedisCluster, start_single_node_cluster};
use crate::support::redis::sentinel::wait_for_replication;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>', timeout: 500ms, partitions: 3}
routes:
  invoke: {path: /invoke, topic: t, wait: 3s, rollout: {percent: 100, mode: manual}}
topics:
  t: {handler: upstream}
workers: {count: 4, concurrency: 4}
";

/// The slot of the hash tag `omni-0`.
const SLOT: u16 = 6_694;

async fn start(upstream: &TestUpstream, redis: &RedisCluster) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", redis.url())
        .start()
        .await
}

#[tokio::test]
async fn a_cluster_failover_under_load_fails_no_call_and_loses_nothing_replicated() {
    let upstream = TestUpstream::start().await;
    let mut redis = RedisCluster::start().await;
    let omni = start(&upstream, &redis).await;
    let load = Load::start(&omni, 4);
    load.until("calls go async", &load.through, 50).await;
    for killed in [false, true] {
        let kept = accepted(&omni, 20).await;
        let (owner, _) = redis.find_slot_owner(SLOT).await;
        wait_for_replication(&mut redis.connect_to_node(owner).await.expect("connects")).await;
        if killed {
            redis.kill_slot_owner(SLOT).await;
        } else {
            redis.fail_over_slot(SLOT).await;
        }
        load.until("calls go async by the new master", &load.through, 50).await;
        all_end(&omni, &kept, false).await;
        all_end(&omni, &accepted(&omni, 20).await, false).await;
    }
    load.finish().await;
}

#[tokio::test]
async fn a_slot_that_moves_under_load_fails_no_call_and_loses_nothing() {
    let upstream = TestUpstream::start().await;
    let redis = RedisCluster::start().await;
    let omni = start(&upstream, &redis).await;
    let load = Load::start(&omni, 4);
    load.until("calls go async", &load.through, 50).await;
    for _ in 0..2 {
        let before = accepted(&omni, 20).await;
        let ((), during) = tokio::join!(redis.migrate_slot(SLOT), accepted(&omni, 20));
        load.until("calls go async to the new owner", &load.through, 50).await;
        for ids in [before, during, accepted(&omni, 20).await] {
            all_end(&omni, &ids, false).await;
        }
    }
    load.finish().await;
    let url = StoreUrl::Cluster(Secret::new(redis.url()));
    let config = StoreConfig {
        url,
        timeout: TEST_DEADLINE,
        durability: StoreDurability::Default,
        partitions: 3,
    };
    let store = RedisStore::new(&config).expect("a store");
    let rollout = omni.admin_client().get("/admin/v1/rollouts/invoke").await.json();
    let epoch = rollout["epoch"].as_u64().expect("a number");
    wait_until(TEST_DEADLINE, "each canaried task has one counted end", async || {
        let known = store.load_evidence("invoke", &[epoch]).await.expect("answers").remove(0);
        assert!(known.completed + known.failed + known.cancelled <= known.accepted, "{known:?}");
        known.accepted > 50 && known.completed + known.failed + known.cancelled == known.accepted
    })
    .await;
}

#[tokio::test]
async fn another_number_of_partitions_than_the_data_have_is_refused_with_the_way_out() {
    let redis = start_single_node_cluster().await;
    let store = |partitions| {
        let url = StoreUrl::Cluster(Secret::new(format!("redis+cluster://{}", redis.addr())));
        let timeout = std::time::Duration::from_secs(2);
        RedisStore::new(&StoreConfig {
            url,
            timeout,
            durability: StoreDurability::Default,
            partitions,
        })
        .expect("a store")
    };
    store(3).ping().await.expect("the first start decides");
    store(3).ping().await.expect("the same number is served");
    let Err(StoreError::InvalidSetup(refused)) = store(4).ping().await else {
        panic!("four partitions were served")
    };
    assert!(refused.contains("set store.partitions to 3"), "{refused}");
}
