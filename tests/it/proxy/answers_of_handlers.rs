//! What an `http` or `command` handler answers is what its waiting client gets.

use http::Method;
use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_for_some};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  built: {path: /built, topic: build, wait: 20s, rollout: {percent: 100, mode: manual}}
  short: {path: /short, topic: build, wait: 400ms, rollout: {percent: 100, mode: manual}}
  piped: {path: /piped, topic: pipe, wait: 20s, rollout: {percent: 100, mode: manual}}
topics:
  build: {handler: {http: '<upstream-build>'}, retries: 0}
  pipe: {handler: {command: [cat]}, retries: 0}
  stuck: {handler: {command: [sleep, '60']}, retries: 0}
workers: {count: 1}
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
    an_http_handlers_422_was_a_200_with_an_error_inside,
    an_http_handlers_text_was_a_json_string,
    a_running_task_was_called_queued_in_its_202,
    a_commands_result_is_200_and_json,
);

async fn an_http_handlers_422_was_a_200_with_an_error_inside(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    for status in [201, 204, 400, 404, 409, 422, 429, 500, 503] {
        let body = if status == 204 { json!("") } else { json!("refused: \u{e9}\n") };
        let call = json!({"status": status, "body": body, "headers": [["x-private", "1"]]});
        let direct = upstream.client().post("/build", &call).await;
        let through = omni.data_client().post("/built", &call).await;
        assert_eq!((through.status, through.text()), (direct.status, direct.text()), "{status}");
        assert_eq!(through.header("content-type"), direct.header("content-type"), "{status}");
        assert_eq!(through.header("x-private"), None, "{status}");
        assert_eq!(through.header("x-omnidaemon-path"), Some("async"), "{status}");
    }
}

async fn an_http_handlers_text_was_a_json_string(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let headers = json!([
        ["content-language", "de"],
        ["content-disposition", "attachment; filename=a.txt"],
        ["set-cookie", "handler=1"],
        ["cache-control", "public"],
    ]);
    let answer = omni
        .data_client()
        .post("/built", &json!({"body": "zwei  Zeilen\n", "headers": headers}))
        .await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "zwei  Zeilen\n".into()));
    for (name, value) in [
        ("content-type", Some("text/plain; charset=utf-8")),
        ("content-language", Some("de")),
        ("content-disposition", Some("attachment; filename=a.txt")),
        ("set-cookie", None),
        ("cache-control", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let id = answer.header("x-omnidaemon-task").expect("the answer names its task").to_owned();
    let polled = wait_for_some(TEST_DEADLINE, "the task is completed", async || {
        let task = omni.data_client().get(&format!("/task/{id}")).await.json();
        (task["status"] == "completed").then_some(task)
    })
    .await;
    assert_eq!(
        (&polled["http_status"], &polled["result"]),
        (&json!(200), &json!("zwei  Zeilen\n"))
    );
}

async fn a_running_task_was_called_queued_in_its_202(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let call = json!({"sleep_ms": 30_000});
    let running = omni.data_client().post("/short", &call).await;
    assert_eq!(
        (running.status.as_u16(), &running.json()["status"]),
        (202, &json!("processing")),
        "{}",
        running.text()
    );
    let prefer =
        omni.data_client().request(Method::POST, "/short").header("prefer", "respond-async");
    let at_once = HttpResponse::from_request(prefer.json(&call)).await;
    assert_eq!((at_once.status.as_u16(), &at_once.json()["status"]), (202, &json!("queued")));
    for accepted in [running, at_once] {
        let poll = accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned();
        assert_eq!(omni.data_client().delete(&poll).await.status, 200);
    }
}

async fn a_commands_result_is_200_and_json(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream).await;
    let answer = omni.data_client().post("/piped", &json!({"n": 7})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.json()["payload"], json!({"n": 7}));
}
