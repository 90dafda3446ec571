//! `GET /task/<id>?wait=…`: a long poll.

use serde_json::{Value, json};

use crate::support::http::client::{HttpClient, HttpResponse};
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::submit_task;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

async fn start(store: &Store, workers: u32) -> Scenario {
    scenario()
        .store(store)
        .route(route("invoke").topic("gate"))
        .topic(topic("gate").shell("until [ -e <dir>/go ]; do sleep 0.05; done; echo 7"))
        .topic(topic("outside").external())
        .workers(workers)
        .start()
        .await
}

fn spawn_get(client: HttpClient, path: String) -> tokio::task::JoinHandle<HttpResponse> {
    tokio::spawn(async move { client.get(&path).await })
}

async fn wait_until_processing(omni: &Omnidaemon, poll: &str) {
    let runs = async || omni.data_client().get(poll).await.json()["status"] == "processing";
    wait_until(TEST_DEADLINE, "the task runs", runs).await;
}

fn open_the_gate(omni: &Omnidaemon) {
    std::fs::write(omni.dir().join("go"), "").expect("it can be written");
}

fn assert_completed(answer: &HttpResponse) -> Value {
    let task = answer.json();
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!(7)), "{task}");
    task
}

on_both_stores!(
    a_wait_is_answered_when_the_task_ends,
    when_the_wait_is_over_the_task_is_given_as_it_stands,
    a_wait_that_is_no_duration_is_refused,
    a_server_that_drains_answers_who_waits,
);

async fn a_wait_is_answered_when_the_task_ends(store: Store) {
    let omni = start(&store, 1).await;
    let poll = submit_task(&omni, "gate", json!({})).await;
    wait_until_processing(&omni, &poll).await;
    let waits: Vec<_> =
        (0..3).map(|_| spawn_get(omni.data_client(), format!("{poll}?wait=60s"))).collect();
    let left = omni.data_client().request(http::Method::GET, &format!("{poll}?wait=60"));
    let left = tokio::spawn(HttpResponse::try_from_request(left));
    assert_eq!(
        omni.data_client().get(&format!("{poll}?wait=1ms")).await.json()["status"],
        "processing"
    );
    left.abort();
    assert!(waits.iter().all(|wait| !wait.is_finished()), "nothing has ended yet");
    open_the_gate(&omni);
    for wait in waits {
        assert_completed(&wait.await.expect("joined"));
    }
    let again = omni.data_client().get(&format!("{poll}?wait=60s")).await;
    assert_completed(&again);
    assert_eq!(
        (again.header("cache-control"), again.header("retry-after")),
        (Some("no-store"), None)
    );
}

async fn when_the_wait_is_over_the_task_is_given_as_it_stands(store: Store) {
    let omni = start(&store, 0).await;
    let poll = submit_task(&omni, "outside", json!({})).await;
    for wait in ["1", "300ms", "0"] {
        let task = omni.data_client().get(&format!("{poll}?wait={wait}")).await;
        assert_eq!((task.status.as_u16(), &task.json()["status"]), (200, &json!("queued")));
        assert_eq!(task.header("retry-after"), Some("1"));
    }
    assert_eq!(omni.data_client().get("/task/task_unknown?wait=60s").await.status, 404, "at once");
    let hidden =
        omni.data_client().request(http::Method::POST, "/invoke/async").header("x-api-key", "mine");
    let hidden =
        HttpResponse::from_request(hidden.json(&json!({"topic": "outside", "payload": 1})))
            .await
            .json();
    let path = format!("{}?wait=60s", hidden["poll_url"].as_str().expect("a poll URL"));
    assert_eq!(
        omni.data_client().get(&path).await.status,
        404,
        "another key's task is not waited for"
    );
}

async fn a_wait_that_is_no_duration_is_refused(store: Store) {
    let omni = start(&store, 0).await;
    let poll = submit_task(&omni, "outside", json!({})).await;
    for bad in ["", "-1", "soon", "1.5"] {
        let refused = omni.data_client().get(&format!("{poll}?wait={bad}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.header("content-type")),
            (400, Some("application/problem+json"))
        );
        assert!(refused.text().contains("bad-wait"), "{}", refused.text());
    }
}

async fn a_server_that_drains_answers_who_waits(store: Store) {
    let mut omni = start(&store, 0).await;
    let poll = submit_task(&omni, "outside", json!({})).await;
    // The first call shows that the second, on its own connection, has been accepted.
    let wait = spawn_get(omni.data_client(), format!("{poll}?wait=60s"));
    assert_eq!(
        omni.data_client().get(&format!("{poll}?wait=300ms")).await.json()["status"],
        "queued"
    );
    omni.send_sigterm();
    assert_eq!(wait.await.expect("joined").json()["status"], "queued");
    assert_eq!(omni.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn who_waits_at_another_server_is_told_too() {
    let store = Store::redis().await;
    let (here, there) = (start(&store, 1).await, start(&store, 0).await);
    let poll = submit_task(&here, "gate", json!({})).await;
    wait_until_processing(&there, &poll).await;
    let wait = spawn_get(there.data_client(), format!("{poll}?wait=60s"));
    open_the_gate(&here);
    assert_completed(&wait.await.expect("joined"));
}
