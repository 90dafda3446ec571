//! What was submitted is what a handler gets, and what a handler answered is what is polled.

use http::Method;

use crate::store::contract::values::ambiguous_values;
use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

/// `cat` answers with its input, the task as JSON with the payload in it.
const CONFIG: &str = "
upstream: {url: 'http://127.0.0.1:9'}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: strings, rollout: {percent: 0, mode: manual}}
topics:
  strings: {handler: {command: [cat]}, concurrency: 8, content: string}
  objects: {handler: {command: [cat]}, concurrency: 8, content: object}
workers: {count: 2}
";

on_both_stores!(
    a_payload_reaches_its_handler_and_comes_back_byte_for_byte,
    a_body_that_is_no_text_is_refused_and_not_changed,
);

async fn submit(omni: &Omnidaemon, envelope: Vec<u8>) -> HttpResponse {
    let request = omni
        .data_client()
        .request(Method::POST, "/invoke/async")
        .header("content-type", "application/json")
        .body(envelope);
    HttpResponse::from_request(request).await
}

async fn ended(omni: &Omnidaemon, poll: &str) -> String {
    wait_for_some(TEST_DEADLINE, "the task ends", async || {
        // not every number here fits into one of the test's
        let task = omni.data_client().get(poll).await.text();
        task.contains("\"status\":\"completed\"").then_some(task)
    })
    .await
}

async fn a_payload_reaches_its_handler_and_comes_back_byte_for_byte(store: Store) {
    let omni = Omnidaemon::with_config(CONFIG).set_placeholder("store", store.url()).start().await;
    for topic in ["strings", "objects"] {
        // one level is taken by the envelope
        let values = ambiguous_values().into_iter().filter(|value| !value.starts_with("[[["));
        for value in values {
            let envelope = format!("{{\"topic\":\"{topic}\",\"payload\":{value}}}");
            let accepted = submit(&omni, envelope.into_bytes()).await;
            assert_eq!(accepted.status, 202, "{value}: {}", accepted.text());
            let poll = accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned();
            let task = ended(&omni, &poll).await;
            let given = format!("\"payload\":{value},\"correlation_id\":");
            assert!(task.contains(&given), "{topic} got {task} and not {value}");
        }
    }
}

async fn a_body_that_is_no_text_is_refused_and_not_changed(store: Store) {
    let omni = Omnidaemon::with_config(CONFIG).set_placeholder("store", store.url()).start().await;
    for value in [&b"\"\xff\""[..], b"NaN", b"-Infinity", b"01", b"\"\\ud8\"", b"[1,]", b"\"\n\""] {
        let envelope = [b"{\"topic\":\"objects\",\"payload\":", value, b"}"].concat();
        let refused = submit(&omni, envelope).await;
        assert_eq!(refused.status, 400, "{value:?}: {}", refused.text());
        assert!(refused.text().contains("not JSON"), "{value:?}: {}", refused.text());
    }
}
