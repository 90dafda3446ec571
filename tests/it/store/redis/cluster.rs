//! A Redis Cluster: masters fail over and slots move under load; nothing fails, and nothing that
//! was replicated is lost.

use omnidaemon::config::{Secret, StoreConfig, StoreDurability, StoreUrl};
use omnidaemon::store::{RedisStore, RolloutStore as _, StoreError, StoreService as _};

use crate::store::redis::sentinel::{submit_tasks, wait_until_completed};
use crate::support::load::{Load, scenario_under_load};
use crate::support::redis::cluster::{RedisCluster, start_single_node_cluster};
use crate::support::redis::sentinel::wait_for_replication;
use crate::support::scenario::Scenario;
use crate::support::{TEST_DEADLINE, wait_until};

/// The slot of the hash tag `omni-0`.
const SLOT: u16 = 6_694;

async fn start(redis: &RedisCluster) -> Scenario {
    scenario_under_load(redis.url()).yaml("store.partitions", 3).start().await
}

#[tokio::test]
async fn a_cluster_failover_under_load_fails_no_call_and_loses_nothing_replicated() {
    let mut redis = RedisCluster::start().await;
    let omni = start(&redis).await;
    let load = Load::start(&omni, 4);
    load.wait_for_more("calls go async", &load.async_calls, 50).await;
    for killed in [false, true] {
        let kept = submit_tasks(&omni, 20).await;
        let (owner, _) = redis.find_slot_owner(SLOT).await;
        wait_for_replication(&mut redis.connect_to_node(owner).await.expect("connects")).await;
        if killed {
            redis.kill_slot_owner(SLOT).await;
        } else {
            redis.fail_over_slot(SLOT).await;
        }
        load.wait_for_more("calls go async by the new master", &load.async_calls, 50).await;
        wait_until_completed(&omni, &kept, false).await;
        wait_until_completed(&omni, &submit_tasks(&omni, 20).await, false).await;
    }
    load.finish().await;
}

#[tokio::test]
async fn a_slot_that_moves_under_load_fails_no_call_and_loses_nothing() {
    let redis = RedisCluster::start().await;
    let omni = start(&redis).await;
    let load = Load::start(&omni, 4);
    load.wait_for_more("calls go async", &load.async_calls, 50).await;
    for _ in 0..2 {
        let before = submit_tasks(&omni, 20).await;
        let ((), during) = tokio::join!(redis.migrate_slot(SLOT), submit_tasks(&omni, 20));
        load.wait_for_more("calls go async to the new owner", &load.async_calls, 50).await;
        for ids in [before, during, submit_tasks(&omni, 20).await] {
            wait_until_completed(&omni, &ids, false).await;
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
