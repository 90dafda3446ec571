//! A legacy body is the legacy API's to judge, whatever it looks like; a submitted task names its
//! topic.

use serde_json::{Value, json};

use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TestUpstream};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  open: {path: /echo, topic: legacy, wait: 20s, rollout: {percent: 100, mode: manual}}
  listed: {path: /echo/listed, topic: legacy, topics: [pipe], wait: 20s, \
  rollout: {percent: 100, mode: manual}}
  built: {path: /built, topic: build, wait: 20s, rollout: {percent: 100, mode: manual}}
topics:
  legacy: {handler: upstream, retries: 0}
  pipe: {handler: {command: [cat]}, retries: 0}
  build: {handler: {http: '<upstream-build>'}, retries: 0}
workers: {count: 2}
";

async fn start(store: &Store, upstream: &TestUpstream) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("upstream-build", format!("{}/build", upstream.url()))
        .set_placeholder("store", store.url())
        .start()
        .await
}

on_both_stores!(
    a_legacy_body_with_a_topic_of_its_own_was_refused_or_held,
    a_payload_that_looks_like_an_envelope_reaches_an_http_handler_whole,
    a_listed_topic_makes_an_envelope_and_others_do_not,
    a_submission_names_any_topic_or_those_of_its_route,
);

fn lookalikes() -> [Value; 6] {
    [
        json!({"topic": "sports", "payload": "news"}),
        json!({"topic": "sports", "payload": "news", "delay": "1h"}),
        json!({"topic": "sports", "payload": "news", "webhook": "https://nobody.example/"}),
        json!({"topic": "sports", "payload": "news", "reply_to": 5, "delay": "soon"}),
        json!({"topic": "a/b", "payload": {}}),
        json!({"topic": 7, "payload": {}}),
    ]
}

async fn a_legacy_body_with_a_topic_of_its_own_was_refused_or_held(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    // A topic of the configuration that is not the route's own is the legacy API's too.
    let other = json!({"topic": "pipe", "payload": {"n": 1}});
    // An envelope of the route's own topic is replayed as it came.
    let own = json!({"topic": "legacy", "payload": {"n": 1}});
    for body in lookalikes().into_iter().chain([other, own]) {
        let direct = upstream.client().post("/echo", &body).await;
        let through = omni.data_client().post("/echo", &body).await;
        assert_eq!(through.header("x-omnidaemon-path"), Some("async"), "{body}");
        assert_eq!(through.status, direct.status, "{body}: {}", through.text());
        assert_eq!(through.json()["body"], direct.json()["body"], "{body}");
    }
}

async fn a_payload_that_looks_like_an_envelope_reaches_an_http_handler_whole(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    for body in lookalikes() {
        let answer = omni.data_client().post("/built", &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["built"]), (200, &body), "{body}");
    }
}

async fn a_listed_topic_makes_an_envelope_and_others_do_not(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let listed = json!({"topic": "pipe", "payload": {"n": 1}});
    let piped = omni.data_client().post("/echo/listed", &listed).await;
    assert_eq!(
        (piped.status.as_u16(), &piped.json()["topic"], &piped.json()["payload"]),
        (200, &json!("pipe"), &json!({"n": 1})),
        "{}",
        piped.text()
    );
    let unlisted = json!({"topic": "build", "payload": {"n": 1}});
    let direct = upstream.client().post("/echo/listed", &unlisted).await;
    let through = omni.data_client().post("/echo/listed", &unlisted).await;
    assert_eq!(
        (through.status, &through.json()["body"]),
        (direct.status, &direct.json()["body"]),
        "{}",
        through.text()
    );
}

async fn a_submission_names_any_topic_or_those_of_its_route(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    for (path, topic, status) in [
        ("/echo/async", "legacy", 202),
        ("/echo/async", "build", 202),
        ("/echo/async", "nowhere", 422),
        ("/echo/listed/async", "legacy", 202),
        ("/echo/listed/async", "pipe", 202),
        ("/echo/listed/async", "build", 422),
        ("/echo/listed/async", "nowhere", 422),
    ] {
        let answer = omni.data_client().post(path, &json!({"topic": topic, "payload": {}})).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {topic}: {}", answer.text());
        assert!(status == 202 || answer.text().contains(topic), "{}", answer.text());
    }
}
