//! What a client is told of the end of its task: answers in full, failures without what only
//! operators may know.

use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

async fn start(store: &Store) -> Scenario {
    scenario()
        .store(store)
        .route(route("invoke").wait("20s").percent(100))
        .route(route("built").topic("build").wait("20s").percent(100))
        .topic(topic("t").retries(0))
        .topic(topic("build").http("<upstream>/build").retries(0))
        .workers(4)
        .yaml("results.max_result", "64KiB")
        .start()
        .await
}

fn call(arguments: &Value) -> Value {
    json!({"task": "t", "arguments": arguments})
}

fn problem(answer: &HttpResponse) -> (u16, String) {
    let kind =
        answer.json()["type"].as_str().unwrap_or_default().replace("urn:omnidaemon:problem:", "");
    (answer.status.as_u16(), kind)
}

/// The one dead letter of `topic`.
async fn wait_for_dead_letter(omni: &Omnidaemon, topic: &str) -> Value {
    let path = format!("/admin/v1/dead-letters?topic={topic}");
    wait_for_some(TEST_DEADLINE, "the task is a dead letter", async || {
        let letters = omni.admin_client().get(&path).await.json();
        letters.as_array().and_then(|letters| letters.first().cloned())
    })
    .await
}

on_both_stores!(
    an_http_handlers_failure_is_no_200,
    an_answer_too_large_to_keep_reaches_the_client_that_waits,
    a_failed_answer_too_large_to_keep_reaches_it_too,
    addresses_are_for_operators,
);

async fn an_http_handlers_failure_is_no_200(store: Store) {
    let omni = start(&store).await;
    let failed = omni.data_client().post("/built", &json!({"status": 500, "name": "crm"})).await;
    assert_eq!(
        (failed.status.as_u16(), &failed.json()["built"]["name"]),
        (500, &json!("crm")),
        "{}",
        failed.text()
    );
    assert_eq!(failed.header("x-omnidaemon-path"), Some("async"));
    let built = omni.data_client().post("/built", &json!({"name": "crm"})).await;
    assert_eq!((built.status.as_u16(), &built.json()["built"]["name"]), (200, &json!("crm")));
}

async fn an_answer_too_large_to_keep_reaches_the_client_that_waits(store: Store) {
    let omni = start(&store).await;
    let whole = omni
        .data_client()
        .post("/invoke", &call(&json!({"bytes": 300_000, "headers": [["x-a", "1"]]})))
        .await;
    assert_eq!(
        (whole.status.as_u16(), whole.header("x-omnidaemon-path")),
        (200, Some("async")),
        "{}",
        whole.text()
    );
    assert_eq!(
        (whole.json()["result"].as_str().map(str::len), whole.header("x-a")),
        (Some(300_000), Some("1"))
    );

    let letter = wait_for_dead_letter(&omni, "t").await;
    let id = letter["id"].as_str().expect("an id");
    let task = omni.data_client().get(&format!("/task/{id}")).await.json();
    let error = task["error"].as_str().expect("an error");
    assert_eq!((&task["status"], task.get("result")), (&json!("failed"), None));
    assert!(error.contains("results.max_result") && error.contains("65536"), "{error}");
    assert!(!error.contains(&omni.upstream().addr()), "{error}");
}

async fn a_failed_answer_too_large_to_keep_reaches_it_too(store: Store) {
    let omni = start(&store).await;
    let whole =
        omni.data_client().post("/invoke", &call(&json!({"bytes": 300_000, "status": 503}))).await;
    assert_eq!(
        (whole.status.as_u16(), whole.json()["result"].as_str().map(str::len)),
        (503, Some(300_000))
    );
    let letter = wait_for_dead_letter(&omni, "t").await;
    assert!(letter["error"].as_str().is_some_and(|error| error.contains("503")), "{letter}");
}

async fn addresses_are_for_operators(store: Store) {
    let mut omni = start(&store).await;
    let broken = omni.data_client().post("/invoke", &call(&json!({"die": "before"}))).await;
    assert_eq!(problem(&broken), (502, "upstream-broke-off".into()), "{}", broken.text());
    omni.upstream_mut().stop();
    let gone = omni.data_client().post("/invoke", &call(&json!({}))).await;
    assert_eq!(problem(&gone), (502, "upstream-unreachable".into()), "{}", gone.text());
    for answer in [&broken, &gone] {
        let text = answer.text();
        assert!(!text.contains("127.0.0.1") && !text.contains("os error"), "{text}");
    }

    let accepted = omni.data_client().post("/invoke/async", &call(&json!({}))).await.json();
    let id = accepted["task_id"].as_str().expect("an id").to_owned();
    let failed = wait_for_some(TEST_DEADLINE, "the task fails", async || {
        let task = omni.data_client().get(&format!("/task/{id}")).await.json();
        (task["status"] == "failed").then_some(task)
    })
    .await;
    assert_eq!(failed["error"], "the task's handler cannot be reached");
    let shown = omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json();
    assert!(
        shown["error"].as_str().is_some_and(|error| error.contains(&omni.upstream().addr())),
        "{shown}"
    );
}
