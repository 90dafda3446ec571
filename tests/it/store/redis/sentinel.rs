//! Sentinel fails over under load: nothing fails, nothing that was replicated is lost, writes go to
//! the new master.

use std::collections::HashSet;

use redis::AsyncCommands as _;
use serde_json::json;

use crate::support::load::{Load, scenario_under_load};
use crate::support::redis::sentinel::SentinelDeployment;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

/// Queues tasks; the ids that were answered with 202.
pub(crate) async fn submit_tasks(omni: &Omnidaemon, count: usize) -> HashSet<String> {
    let client = omni.data_client();
    let mut ids = HashSet::new();
    while ids.len() < count {
        let answer = client.post("/invoke/async", &json!({"task": "t"})).await;
        if answer.status == 202 {
            ids.insert(answer.json()["task_id"].as_str().expect("an id").to_owned());
        }
    }
    ids
}

/// Waits until every task has ended, each as completed; `may_be_lost` also when it is not known any
/// more.
pub(crate) async fn wait_until_completed(
    omni: &Omnidaemon,
    ids: &HashSet<String>,
    may_be_lost: bool,
) {
    let client = omni.data_client();
    for id in ids {
        wait_until(TEST_DEADLINE, &format!("{id} ends as completed"), async || {
            let answer = client.get(&format!("/task/{id}")).await;
            match answer.status.as_u16() {
                200 => answer.json()["status"] == "completed",
                404 => may_be_lost,
                _ => false,
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_sentinel_failover_under_load_fails_no_call_and_loses_nothing_replicated() {
    let mut redis = SentinelDeployment::start().await;
    let omni = scenario_under_load(redis.url()).start().await;
    let load = Load::start(&omni, 4);
    load.wait_for_more("calls go async", &load.async_calls, 50).await;
    for killed in [false, true] {
        let kept = submit_tasks(&omni, 20).await;
        redis.wait_for_replication().await;
        if killed {
            redis.kill_master().await;
        } else {
            redis.fail_over_master().await;
        }
        load.wait_for_more("calls go async by the new master", &load.async_calls, 50).await;
        wait_until_completed(&omni, &kept, false).await;
        let mut master = redis.find_master().await.connect().await;
        wait_until(TEST_DEADLINE, "writes go to the new master", async || {
            let ids = submit_tasks(&omni, 1).await;
            let key = format!("omni:task:{}", ids.iter().next().expect("one"));
            master.exists::<_, bool>(key).await.expect("answers")
        })
        .await;
        wait_until_completed(&omni, &submit_tasks(&omni, 20).await, false).await;
    }
    load.finish().await;
}
