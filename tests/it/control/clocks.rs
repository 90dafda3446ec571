//! Three processes whose wall clocks are hours apart, on one Redis: they agree, and whoever leads
//! goes on from where the one before stood.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::replicas::{find_leader, wait_until_all_at};
use super::traffic::Traffic;
use super::{
    event_names, fetch_rollout, rollout_scenario, wait_for_phase, wait_for_rollout, wait_for_weight,
};
use crate::support::process::clock::ClockOffset;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::route;
use crate::support::{Omnidaemon, TestUpstream};

/// The hours of UTC around this machine's time in which a test can run, and neither of the clocks
/// that are off.
fn open_hours() -> String {
    let at =
        |minutes| TimeZone::UTC.to_datetime(Timestamp::now() + SignedDuration::from_mins(minutes));
    format!("{}-{}", at(-5).strftime("%H:%M"), at(30).strftime("%H:%M"))
}

/// One whose clock is right, one an hour ahead, one an hour behind.
async fn start_three(upstream: &TestUpstream, redis: &RedisServer, soak: &str) -> Vec<Omnidaemon> {
    let hours = open_hours();
    let one = || {
        let route = route("invoke").wait("20s").rollout(json!({
            "percent": 50,
            "steps": [10, 25, 50],
            "mode": "gated",
            "interval": "300ms",
            "soak": soak,
            "min_samples": {"async": 20, "sync": 20},
            "windows": [{"hours": hours, "tz": "UTC"}],
            "gates": [
                {"name": "errors", "type": "error_ratio", "max": "15%"},
                {"name": "slow", "type": "slow_ratio", "threshold": "20s", "max": "20%"},
            ],
        }));
        rollout_scenario(route)
            .workers(2)
            .upstream(upstream)
            .redis(redis)
            .yaml("store.timeout", "500ms")
            .env("OMNIDAEMON_LEASE", "6s")
    };
    let hour = Duration::from_hours(1);
    let (right, ahead, behind) = tokio::join!(
        one().start_server(),
        one().clock(ClockOffset::ahead(hour)).start_server(),
        one().clock(ClockOffset::behind(hour)).start_server()
    );
    vec![right, ahead, behind]
}

/// Kills the leader, and gives those who are left.
async fn kill_leader(mut replicas: Vec<Omnidaemon>, traffic: &Traffic) -> Vec<Omnidaemon> {
    let mut dead = replicas.remove(find_leader(&replicas.iter().collect::<Vec<_>>()).await);
    traffic.go_to(replicas.iter().map(Omnidaemon::data_client).collect());
    dead.kill();
    dead.wait_for_exit().await;
    find_leader(&replicas.iter().collect::<Vec<_>>()).await;
    replicas
}

/// Seconds that the step has been watched.
fn soaked(rollout: &Value) -> u64 {
    rollout["soak"]["done"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn replicas_whose_clocks_are_hours_apart_climb_as_one_whoever_leads() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let replicas = start_three(&upstream, &redis, "2s").await;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    wait_for_weight(&replicas[0], 25.0).await;
    let replicas = kill_leader(replicas, &traffic).await;
    wait_for_weight(&replicas[0], 50.0).await;
    let replicas = kill_leader(replicas, &traffic).await;
    wait_for_phase(&replicas[0], "healthy").await;
    wait_until_all_at(&replicas.iter().collect::<Vec<_>>(), 50.0).await;
    traffic.stop().await;
    assert_eq!(event_names(&replicas[0]).await, ["step", "step", "step", "step"], "each step once");
    let history = replicas[0].admin_client().get("/admin/v1/rollouts/invoke/history").await.json();
    let now = Timestamp::now();
    for event in history["events"].as_array().expect("a list") {
        let at =
            Timestamp::from_millisecond(event["at_ms"].as_i64().expect("a time")).expect("a time");
        let age = now.duration_since(at);
        assert!(
            (SignedDuration::from_secs(-5)..SignedDuration::from_mins(15)).contains(&age),
            "{age:?}: {event}"
        );
    }
}

#[tokio::test]
async fn a_soak_goes_on_under_a_leader_with_another_clock_and_no_hour_of_it_is_skipped() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let mut replicas = start_three(&upstream, &redis, "45m").await;
    let traffic = Traffic::on(replicas.iter().map(Omnidaemon::data_client).collect());
    let mut before = 0;
    loop {
        let goes_on = wait_for_rollout(&replicas[0], "soaking for longer", |rollout| {
            soaked(rollout) > before + 2
        })
        .await;
        assert_eq!(
            (&goes_on["phase"], &goes_on["weight"]),
            (&"soaking".into(), &10.0.into()),
            "{goes_on:#}"
        );
        before = soaked(&goes_on);
        assert!(before < 20 * 60, "{goes_on:#}");
        if replicas.len() == 1 {
            break;
        }
        replicas = kill_leader(replicas, &traffic).await;
        before = before.max(soaked(&fetch_rollout(&replicas[0]).await));
    }
    traffic.stop().await;
    assert_eq!(event_names(&replicas[0]).await, ["step"]);
}

#[tokio::test]
async fn an_order_is_written_down_at_the_time_of_the_store_whatever_the_clock_of_who_takes_it() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    for replica in start_three(&upstream, &redis, "45m").await {
        let (status, said) =
            super::send_command(&replica, "set-weight", json!({"weight": 5})).await;
        assert_eq!(status, 200, "{said}");
        let since =
            wait_for_rollout(&replica, "set", |rollout| rollout["held"] == true).await["since"]
                .clone();
        let since: Timestamp = since.as_str().and_then(|since| since.parse().ok()).expect("a time");
        let age = Timestamp::now().duration_since(since);
        assert!(age.abs() < SignedDuration::from_mins(10), "{age:?}");
        assert_eq!(super::send_command(&replica, "resume", json!({})).await.0, 200);
    }
}
