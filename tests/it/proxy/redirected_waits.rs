//! `on_wait_timeout: redirect`: a client that follows redirects gets the legacy answer, up to eight
//! hops and however long the answer takes.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_for_some};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: t, wait: 300ms, on_wait_timeout: redirect, \
  rollout: {percent: 100, mode: manual}}
  impatient: {path: /echo, topic: stuck, wait: 20ms, on_wait_timeout: redirect, \
  rollout: {percent: 100, mode: manual}}
topics:
  t: {handler: upstream, retries: 0}
  stuck: {handler: {command: [sleep, '120']}, retries: 0}
workers: {count: 4}
";

async fn start(store: &Store, upstream: &TestUpstream) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", store.url())
        .start()
        .await
}

/// The relative URL of a redirect.
fn location(answer: &HttpResponse) -> String {
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.header("location").expect("a redirect says where to").to_owned()
}

async fn post(
    omni: &Omnidaemon,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> HttpResponse {
    let request = omni.data_client().request(Method::POST, path).json(body);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    HttpResponse::from_request(request).await
}

async fn get(omni: &Omnidaemon, path: &str, key: Option<&str>) -> HttpResponse {
    let request = omni.data_client().request(Method::GET, path);
    HttpResponse::from_request(match key {
        Some(key) => request.header("authorization", key),
        None => request,
    })
    .await
}

on_both_stores!(
    a_client_that_follows_redirects_gets_the_legacy_answer,
    only_the_owner_is_given_a_redirected_answer,
    eight_hops_end_in_a_202,
    a_client_that_prefers_a_202_is_not_redirected,
    a_repeat_with_the_same_key_is_redirected_to_the_same_task,
);

async fn a_client_that_follows_redirects_gets_the_legacy_answer(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    for (status, body) in [(200, Value::Null), (422, json!("not so")), (503, json!("busy"))] {
        let arguments = json!({"sleep_ms": 900, "status": status, "body": body, "headers": [
            ["x-a", "1"], ["x-a", "2"], ["set-cookie", "a=b"], ["cache-control", "public"]]});
        let call = json!({"task": "later", "arguments": arguments});
        let first = post(&omni, "/invoke", &call, &[]).await;
        let id = first.header("x-omnidaemon-task").expect("the answer names its task").to_owned();
        assert_eq!(location(&first), format!("/task/{id}/response?hop=1"));
        let mut answer = first;
        let mut hops = 0;
        while answer.status == 303 {
            hops += 1;
            let next = location(&answer);
            assert_eq!(next, format!("/task/{id}/response?hop={hops}"));
            answer = get(&omni, &next, None).await;
        }
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(answer.header("set-cookie"), Some("a=b"));
        assert_eq!(
            answer.headers.get_all("cache-control").iter().collect::<Vec<_>>(),
            ["no-store"]
        );
        match body.as_str() {
            Some(text) => assert_eq!(answer.text(), text),
            None => assert_eq!(answer.json()["result"], "later is done"),
        }
    }
    let seen = upstream.fetch_requests().await.requests.len();
    assert_eq!(seen, 3, "each call ran once");
    let deferred = [("route", "invoke"), ("outcome", "deferred")];
    assert_eq!(omni.metric_value("omnidaemon_task_outcomes_total", &deferred).await, 3.0);
}

async fn only_the_owner_is_given_a_redirected_answer(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let call = json!({"task": "mine", "arguments": {"sleep_ms": 600}});
    let url = location(&post(&omni, "/invoke", &call, &[("authorization", "Bearer mine")]).await);
    for stranger in [None, Some("Bearer other")] {
        let answer = get(&omni, &url, stranger).await;
        assert_eq!(answer.status, 404, "{}", answer.text());
        assert_eq!(answer.text(), get(&omni, "/task/task_unknown/response", stranger).await.text());
    }
    let mut answer = get(&omni, &url, Some("Bearer mine")).await;
    while answer.status == 303 {
        answer = get(&omni, &location(&answer), Some("Bearer mine")).await;
    }
    assert_eq!((answer.status.as_u16(), &answer.json()["result"]), (200, &json!("mine is done")));
    let wrong = omni.data_client().post(&url, &json!({})).await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, Some("GET, HEAD")));
}

async fn eight_hops_end_in_a_202(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let mut answer = post(&omni, "/echo", &json!({}), &[]).await;
    let mut hops = 0;
    while answer.status == 303 {
        hops += 1;
        assert!(hops <= 8, "the redirects do not end");
        answer = get(&omni, &location(&answer), None).await;
    }
    assert_eq!((hops, answer.status.as_u16()), (8, 202), "{}", answer.text());
    let accepted = answer.json();
    let poll = accepted["poll_url"].as_str().expect("a poll URL");
    assert_eq!(answer.header("location"), Some(poll));
    // A hop that nobody was redirected to is the last one.
    for query in ["?hop=9", "?hop=x"] {
        assert_eq!(get(&omni, &format!("{poll}/response{query}"), None).await.status, 202);
    }
    assert_eq!(omni.data_client().delete(poll).await.status, 200);
    let cancelled = get(&omni, &format!("{poll}/response"), None).await;
    assert_eq!(
        (cancelled.status.as_u16(), cancelled.json()["type"].as_str()),
        (409, Some("urn:omnidaemon:problem:task-cancelled"))
    );
}

async fn a_client_that_prefers_a_202_is_not_redirected(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let accepted = post(&omni, "/echo", &json!({}), &[("prefer", "respond-async")]).await;
    assert_eq!(
        (accepted.status.as_u16(), accepted.header("preference-applied")),
        (202, Some("respond-async"))
    );
    let deferred = [("route", "impatient"), ("outcome", "deferred")];
    assert_eq!(omni.metric_value("omnidaemon_task_outcomes_total", &deferred).await, 0.0);
}

async fn a_repeat_with_the_same_key_is_redirected_to_the_same_task(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let key = [("idempotency-key", "k")];
    let first = post(&omni, "/echo", &json!({}), &key).await;
    // The key is bound to the task beside the response; until then a repeat gets 409 after `wait`.
    let again = wait_for_some(TEST_DEADLINE, "the key is bound to its task", || async {
        let again = post(&omni, "/echo", &json!({}), &key).await;
        (again.status != 409).then_some(again)
    })
    .await;
    assert_eq!(location(&first), location(&again));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}
