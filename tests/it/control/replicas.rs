//! Three processes on one Redis: one leads, all run the same weight, and whatever is killed or
//! stopped, no two of them ever decide.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::traffic::Traffic;
use super::{
    event_names, fetch_rollout, gated_rollout, rollout_route, rollout_scenario, send_command,
    wait_for_phase, wait_for_rollout, wait_for_weight,
};
use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_for_some, wait_until};

async fn start_three(upstream: &TestUpstream, redis: &RedisServer) -> Vec<Omnidaemon> {
    let one = || {
        rollout_scenario(rollout_route(gated_rollout()).yaml("rollout.soak", "2s"))
            .workers(2)
            .upstream(upstream)
            .redis(redis)
            .yaml("store.timeout", "500ms")
            .env("OMNIDAEMON_LEASE", "6s")
            .start_server()
    };
    let (a, b, c) = tokio::join!(one(), one(), one());
    vec![a, b, c]
}

/// Which of them leads, once all agree.
pub(super) async fn find_leader(replicas: &[&Omnidaemon]) -> usize {
    wait_for_some(TEST_DEADLINE, "one of them leads", async || {
        let mut leaders = BTreeSet::new();
        let mut mine = None;
        for (number, replica) in replicas.iter().enumerate() {
            let rollout = fetch_rollout(replica).await;
            let leader = rollout["leader"].as_str()?.to_owned();
            if name(&rollout) == leader {
                mine = Some(number);
            }
            leaders.insert(leader);
        }
        (leaders.len() == 1).then_some(mine).flatten()
    })
    .await
}

/// The replica that tells of the rollout.
fn name(rollout: &Value) -> &str {
    let mut replicas = rollout["replicas"].as_array().into_iter().flatten();
    let this = replicas.find(|replica| replica["this"] == true);
    this.and_then(|replica| replica["process"].as_str()).unwrap_or_default()
}

pub(super) async fn wait_until_all_at(replicas: &[&Omnidaemon], weight: f64) {
    for replica in replicas {
        wait_until(TEST_DEADLINE, &format!("all are at {weight} %"), async || {
            replica.metric_value("omnidaemon_rollout_weight", &[("route", "invoke")]).await
                == weight
        })
        .await;
    }
}

#[tokio::test]
async fn three_replicas_climb_together_and_the_evidence_is_all_of_theirs() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let replicas = start_three(&upstream, &redis).await;
    let all: Vec<&Omnidaemon> = replicas.iter().collect();
    find_leader(&all).await;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    for replica in &all {
        let is_told = |rollout: &Value| rollout["evidence"]["canaried"].as_u64() > Some(0);
        wait_for_rollout(replica, "told with its numbers by whomever one asks", is_told).await;
    }
    wait_for_phase(all[0], "healthy").await;
    wait_until_all_at(&all, 50.0).await;
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    assert_eq!(event_names(all[1]).await, ["step", "step", "step", "step"]);
    let rollout = fetch_rollout(all[2]).await;
    assert_eq!(rollout["replicas"].as_array().map(Vec::len), Some(3), "{rollout:#}");
}

#[tokio::test]
async fn a_killed_leader_is_followed_by_another_and_nothing_is_lost() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let mut replicas = start_three(&upstream, &redis).await;
    let first = find_leader(&replicas.iter().collect::<Vec<_>>()).await;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    let reached = wait_for_weight(&replicas[first], 10.0).await;
    let mut dead = replicas.remove(first);
    traffic.go_to(replicas.iter().map(Omnidaemon::data_client).collect());
    dead.kill();
    dead.wait_for_exit().await;
    let all: Vec<&Omnidaemon> = replicas.iter().collect();
    find_leader(&all).await;
    let now = fetch_rollout(all[0]).await;
    assert!(now["weight"].as_f64() >= reached["weight"].as_f64(), "{now:#}");
    wait_for_phase(all[0], "healthy").await;
    wait_until_all_at(&all, 50.0).await;
    traffic.stop().await;
    assert_eq!(event_names(all[0]).await, ["step", "step", "step", "step"], "each step once");
}

#[tokio::test]
async fn a_leader_that_was_stopped_decides_nothing_when_it_comes_back() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let mut replicas = start_three(&upstream, &redis).await;
    let first = find_leader(&replicas.iter().collect::<Vec<_>>()).await;
    let mut stopped = replicas.remove(first);
    let all: Vec<&Omnidaemon> = replicas.iter().collect();
    stopped.process().freeze().await;
    let second = find_leader(&all).await;
    let (status, _) =
        send_command(all[second], "abort", json!({"actor": "ann", "reason": "x"})).await;
    assert_eq!(status, 200);
    wait_for_phase(all[0], "degraded").await;
    stopped.process().send_signal(Signal::CONT);
    // it learns of the abort before it can decide anything
    wait_for_phase(&stopped, "degraded").await;
    wait_until_all_at(&[&stopped, all[0], all[1]], 0.0).await;
    assert_eq!(event_names(all[0]).await, ["step", "abort"]);
}

#[tokio::test]
async fn replicas_whose_files_differ_hold_the_step_and_are_named() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let mut replicas = start_three(&upstream, &redis).await;
    let first = find_leader(&replicas.iter().collect::<Vec<_>>()).await;
    let other = (first + 1) % 3;
    replicas[other].apply_setting("routes.invoke.rollout.percent", 5).await;
    // its own file counts for what it runs
    wait_until(TEST_DEADLINE, "it runs what its file allows", async || {
        let metric = replicas[other].scrape_metrics().await;
        metric.value("omnidaemon_rollout_percent", &[("route", "invoke")]) == 5.0
    })
    .await;
    let name = name(&fetch_rollout(&replicas[other]).await).to_owned();
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    let waiting = wait_for_rollout(&replicas[first], "waiting for the other", |rollout| {
        rollout.to_string().contains("its file differs")
    })
    .await;
    assert!(waiting.to_string().contains(&name), "{waiting:#}");
    for replica in &mut replicas {
        replica.save_setting("routes.invoke.rollout.percent", 25);
    }
    wait_for_rollout(&replicas[first], "healthy at 25 %", |rollout| {
        rollout["phase"] == "healthy" && rollout["weight"] == 25.0
    })
    .await;
    traffic.stop().await;
}

#[tokio::test]
async fn an_abort_with_redis_dead_holds_and_is_kept_when_it_returns() {
    let upstream = TestUpstream::start().await;
    let mut redis = RedisServer::start().await;
    let replicas = start_three(&upstream, &redis).await;
    let all: Vec<&Omnidaemon> = replicas.iter().collect();
    let first = find_leader(&all).await;
    wait_for_weight(all[first], 10.0).await;
    let follower = (first + 1) % 3;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    redis.kill();
    wait_until(TEST_DEADLINE, "the outage is noticed", async || {
        all[follower].admin_client().get("/readyz").await.json()["status"] == "degraded"
    })
    .await;
    let (status, said) = send_command(
        all[follower],
        "abort",
        json!({"actor": "ann", "reason": "no store, no canary"}),
    )
    .await;
    assert_eq!(
        (status, &said["weight"], &said["saved"]),
        (200, &json!(0.0), &json!(false)),
        "{said}"
    );
    let (status, said): (u16, Value) =
        send_command(all[follower], "set-weight", json!({"weight": 5})).await;
    assert!(status == 409 || status == 503, "{said}");
    redis.restart().await;
    for replica in &all {
        wait_for_phase(replica, "degraded").await;
    }
    wait_until_all_at(&all, 0.0).await;
    assert_eq!(event_names(all[first]).await.last().map(String::as_str), Some("abort"));
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
}

#[tokio::test]
async fn while_redis_is_gone_nothing_moves_and_then_it_goes_on() {
    let upstream = TestUpstream::start().await;
    let mut redis = RedisServer::start().await;
    let replicas = start_three(&upstream, &redis).await;
    let all: Vec<&Omnidaemon> = replicas.iter().collect();
    let first = find_leader(&all).await;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    wait_for_weight(all[first], 25.0).await;
    redis.kill();
    // longer than a soak: time that must not count
    tokio::time::sleep(Duration::from_secs(3)).await;
    let during = fetch_rollout(all[first]).await;
    assert_eq!(during["weight"], 25.0, "the desired weight stays: {during:#}");
    redis.restart().await;
    wait_for_phase(all[first], "healthy").await;
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    let events = event_names(all[first]).await;
    assert!(!events.iter().any(|event| event == "rollback"), "{events:?}");
}
