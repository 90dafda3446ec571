//! Dead letters through the admin API and the command line.

use std::fs;

use serde_json::{Value, json};

use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
topics:
  flaky: {handler: {command: [sh, -c, 'test -e mended && cat']}, retries: 0}
  fine: {handler: {command: [cat]}, retries: 0}
workers: {count: 2, drain: 1s}
";

on_both_stores!(
    a_dead_letter_is_listed_reprocessed_and_done_by_the_command_line,
    the_admin_api_reprocesses_retries_and_discards_and_says_why_not,
);

async fn serve(upstream: &TestUpstream, store: &Store) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", store.url())
        .start()
        .await
}

/// A task of `flaky` that has failed.
async fn failed(omni: &Omnidaemon, n: u32) -> String {
    let published = omni
        .admin_client()
        .post("/admin/v1/tasks", &json!({"topic": "flaky", "payload": {"n": n}}))
        .await
        .json();
    let id = published["task_id"].as_str().expect("an id").to_owned();
    until(omni, &id, "failed").await;
    id
}

async fn until(omni: &Omnidaemon, id: &str, status: &str) -> Value {
    let path = format!("/admin/v1/tasks/{id}");
    wait_until(TEST_DEADLINE, &format!("{id} is {status}"), async || {
        omni.admin_client().get(&path).await.json()["status"] == status
    })
    .await;
    omni.admin_client().get(&path).await.json()
}

/// What a command ends with: its code, stdout and stderr.
async fn bus(omni: &Omnidaemon, args: &[&str]) -> (Option<i32>, String, String) {
    let output = omni.run_cli(&[&["bus", "dlq"], args].concat()).await;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn a_dead_letter_is_listed_reprocessed_and_done_by_the_command_line(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = serve(&upstream, &store).await;
    let ids = [failed(&omni, 1).await, failed(&omni, 2).await, failed(&omni, 3).await];

    let (code, table, _) = bus(&omni, &["--topic", "flaky"]).await;
    assert!(code == Some(0) && ids.iter().all(|id| table.contains(id)), "{table}");
    let (_, listed, _) = bus(&omni, &["--topic", "flaky", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (listed[0]["id"].as_str(), &listed[0]["payload"]),
        (Some(ids[2].as_str()), &json!({"n": 3}))
    );
    let (_, newest, more) = bus(&omni, &["--topic", "flaky", "--limit", "1"]).await;
    assert!(
        newest.contains(&ids[2]) && !newest.contains(&ids[0]) && more.contains("--limit 3"),
        "{newest} {more}"
    );
    assert_eq!(bus(&omni, &["--topic", "flaky", "--count"]).await.1, "3");
    assert_eq!(bus(&omni, &["--topic", "nope", "--count"]).await.0, Some(3));

    fs::write(omni.dir().join("mended"), "").expect("it can be written");
    let (code, said, wrong) = bus(&omni, &["reprocess", "--task-id", &ids[0]]).await;
    assert_eq!((code, said), (Some(0), format!("{} is queued", ids[0])), "{wrong}");
    let done = until(&omni, &ids[0], "completed").await;
    assert_eq!((&done["result"]["payload"], &done["attempts"]), (&json!({"n": 1}), &json!(1)));
    let (code, _, wrong) = bus(&omni, &["reprocess", "--task-id", &ids[0]]).await;
    assert!(code == Some(3) && wrong.contains("omnidaemon bus dlq"), "{wrong}");

    let (code, said, _) = bus(&omni, &["discard", "--task-id", &ids[1], "--topic", "flaky"]).await;
    assert_eq!((code, said), (Some(0), format!("{} is discarded", ids[1])));
    assert_eq!(bus(&omni, &["--topic", "flaky", "--count"]).await.1, "1");
    let (code, _, wrong) = bus(&omni, &["reprocess", "--task-id", "a b"]).await;
    assert!(code == Some(2) && wrong.contains("a task id is"), "{wrong}");
}

async fn the_admin_api_reprocesses_retries_and_discards_and_says_why_not(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = serve(&upstream, &store).await;
    let (admin, ids) = (omni.admin_client(), [failed(&omni, 1).await, failed(&omni, 2).await]);
    let page = admin.get("/admin/v1/dead-letters?topic=flaky&limit=1").await.json();
    let next = format!(
        "/admin/v1/dead-letters?topic=flaky&before={}",
        page[0]["cursor"].as_str().expect("a cursor")
    );
    assert_eq!(
        (&page[0]["id"], &admin.get(&next).await.json()[0]["id"]),
        (&json!(ids[1]), &json!(ids[0]))
    );
    for before in ["x", "1-", "-1-0"] {
        let refused =
            admin.get(&format!("/admin/v1/dead-letters?topic=flaky&before={before}")).await;
        assert_eq!(refused.status, 422, "{before}: {}", refused.text());
        assert!(refused.text().contains("before is no cursor"), "{}", refused.text());
    }

    fs::write(omni.dir().join("mended"), "").expect("it can be written");
    let retried = admin.post(&format!("/admin/v1/tasks/{}/retry", ids[0]), &json!({})).await;
    assert_eq!(
        (retried.status.as_u16(), &retried.json()["status"]),
        (200, &json!("queued")),
        "{}",
        retried.text()
    );
    until(&omni, &ids[0], "completed").await;
    let again = admin.post(&format!("/admin/v1/tasks/{}/retry", ids[0]), &json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(again.text().contains("only a failed task"), "{}", again.text());

    let of_another = format!("/admin/v1/dead-letters/{}/reprocess?topic=fine", ids[1]);
    assert_eq!(admin.post(&of_another, &json!({})).await.status, 404);
    let path = format!("/admin/v1/dead-letters/{}", ids[1]);
    let reprocessed = admin.post(&format!("{path}/reprocess"), &json!({})).await;
    assert_eq!(reprocessed.json()["task_id"], json!(ids[1]), "{}", reprocessed.text());
    until(&omni, &ids[1], "completed").await;
    assert_eq!(admin.delete(&path).await.status, 404, "it is none any more");
}
