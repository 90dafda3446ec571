//! A config edit: applied without dropping a request, or refused without changing anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::server::SaveMethod;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke:
    path: /invoke
    topic: t
    rollout: {percent: 0, mode: manual, sticky: {keys: ['header:x-client-id']}}
topics:
  t: {handler: upstream}
workers: {count: 4, concurrency: 4}
";

async fn weight(omni: &Omnidaemon) -> f64 {
    omni.metric_value("omnidaemon_rollout_weight", &[("route", "invoke")]).await
}

/// How many of 200 clients go async.
async fn async_clients(omni: &Omnidaemon) -> Vec<usize> {
    let mut chosen = Vec::new();
    for client in 0..200 {
        let request =
            omni.data_client().request(http::Method::POST, "/invoke").json(&json!({"task": "t"}));
        let answer = crate::support::http::client::HttpResponse::from_request(
            request.header("x-client-id", format!("c{client}")),
        )
        .await;
        assert_eq!(answer.status, 200);
        if answer.header("x-omnidaemon-path") == Some("async") {
            chosen.push(client);
        }
    }
    chosen
}

#[tokio::test]
async fn traffic_moves_when_the_percentage_is_saved_and_clients_stay_on_their_side() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    assert_eq!(async_clients(&omni).await.len(), 0);
    let mut before: Vec<usize> = Vec::new();
    for (from, to) in [
        ("percent: 0", "percent: 25"),
        ("percent: 25", "percent: 50"),
        ("percent: 50", "percent: 100"),
    ] {
        omni.edit_config_with(SaveMethod::Rename, |yaml| yaml.replace(from, to));
        omni.wait_until_config_applied().await;
        wait_until(TEST_DEADLINE, "the weight follows", async || {
            format!("percent: {}", weight(&omni).await) == to
        })
        .await;
        let now = async_clients(&omni).await;
        assert!(before.iter().all(|client| now.contains(client)), "raising only adds clients");
        assert!(now.len() > before.len());
        before = now;
    }
    assert_eq!(before.len(), 200, "100 % is everybody");
}

#[tokio::test]
async fn pinned_clients_are_sent_first_or_kept_out_whatever_the_weight() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    let others = (0..200).filter(|client| ![1, 2].contains(client)).collect();
    let pinned = "mode: manual, pin: {sync: [c1, c2], async: [c3]}";
    omni.edit_config(|yaml| yaml.replace("mode: manual", pinned));
    omni.wait_until_config_applied().await;
    assert_eq!(async_clients(&omni).await, [0; 0], "0 % is nobody");
    for (from, to, expected) in
        [("percent: 0", "percent: 0.01", vec![3]), ("percent: 0.01", "percent: 100", others)]
    {
        omni.edit_config(|yaml| yaml.replace(from, to));
        omni.wait_until_config_applied().await;
        wait_until(TEST_DEADLINE, "the weight follows", async || {
            format!("percent: {}", weight(&omni).await) == to
        })
        .await;
        assert_eq!(async_clients(&omni).await, expected);
    }
}

#[tokio::test]
async fn a_config_map_swap_and_sighup_are_saves() {
    let upstream = TestUpstream::start().await;
    let mut omni =
        Omnidaemon::with_config(CONFIG).with_upstream(&upstream).with_config_map().start().await;
    omni.edit_config_with(SaveMethod::SymlinkSwap, |yaml| {
        yaml.replace("percent: 0", "percent: 25")
    });
    omni.wait_until_config_applied().await;
    wait_until(TEST_DEADLINE, "the weight follows", async || weight(&omni).await == 25.0).await;
    omni.send_sighup();
    omni.wait_until_config_applied().await;
    assert_eq!(weight(&omni).await, 25.0);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_everything_that_is_wrong() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    omni.edit_config(|yaml| {
        yaml.replace("percent: 0", "percent: 110").replace("count: 4", "cuont: 4")
    });
    let line = omni.wait_until_config_refused().await;
    assert!(
        line.contains("percent") || omni.logs().to_text().contains("routes.invoke.rollout.percent"),
        "{line}"
    );
    let text = omni.logs().to_text();
    assert!(text.contains("cuont") && text.contains("count"), "{text}");
    assert_eq!(omni.metric_value("omnidaemon_config_last_reload_successful", &[]).await, 0.0);
    let ready = omni.admin_client().get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("degraded")));
    assert_eq!(
        omni.data_client().post("/invoke", &json!({"task": "t"})).await.header("x-omnidaemon-path"),
        Some("sync")
    );

    omni.edit_config(|yaml| {
        yaml.replace("percent: 110", "percent: 100").replace("cuont: 4", "count: 4")
    });
    omni.wait_until_config_applied().await;
    assert_eq!(omni.metric_value("omnidaemon_config_last_reload_successful", &[]).await, 1.0);
    assert_eq!(
        omni.data_client().post("/invoke", &json!({"task": "t"})).await.header("x-omnidaemon-path"),
        Some("async")
    );
}

#[tokio::test]
async fn restart_only_keys_are_refused_by_name() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    omni.edit_config(|yaml| {
        yaml.replace("omnidaemon.db", "other.db").replace("percent: 0", "percent: 100")
    });
    let line = omni.wait_until_config_refused().await;
    assert!(line.contains("store.url"), "{line}");
    assert_eq!(weight(&omni).await, 0.0, "nothing of the edit counts");
}

#[tokio::test]
async fn a_reload_drops_no_request() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop, served) = (omni.data_client(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.post("/invoke", &json!({"task": "t"})).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for (from, to) in [
        ("percent: 0", "percent: 50"),
        ("percent: 50", "percent: 100"),
        ("percent: 100", "percent: 0"),
    ] {
        let so_far = served.load(Ordering::Relaxed);
        omni.edit_config(|yaml| yaml.replace(from, to));
        omni.wait_until_config_applied().await;
        wait_until(TEST_DEADLINE, "traffic goes on", async || {
            served.load(Ordering::Relaxed) > so_far + 50
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("every request was served");
    }
}
