//! Dead letters through the admin API and the command line.

use std::fs;

use serde_json::{Value, json};

use crate::support::Omnidaemon;
use crate::support::scenario::{Scenario, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::{publish_task, wait_for_task_status};

on_both_stores!(
    a_dead_letter_is_listed_reprocessed_and_done_by_the_command_line,
    the_admin_api_reprocesses_retries_and_discards_and_says_why_not,
);

async fn start(store: &Store) -> Scenario {
    scenario()
        .store(store)
        .no_routes()
        .topic(topic("flaky").shell("test -e mended && cat").retries(0))
        .topic(topic("fine").command(["cat"]).retries(0))
        .workers(2)
        .yaml("workers.drain", "1s")
        .start()
        .await
}

/// A task of `flaky` that has failed.
async fn publish_failing_task(omni: &Omnidaemon, n: u32) -> String {
    let id = publish_task(omni, &json!({"topic": "flaky", "payload": {"n": n}})).await;
    wait_for_task_status(omni, &id, "failed").await;
    id
}

/// Runs a command on dead letters; its exit status, stdout and stderr.
async fn run_dlq_command(omni: &Omnidaemon, args: &[&str]) -> (Option<i32>, String, String) {
    let output = omni.run_cli(&[&["bus", "dlq"], args].concat()).await;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn a_dead_letter_is_listed_reprocessed_and_done_by_the_command_line(store: Store) {
    let omni = start(&store).await;
    let ids = [
        publish_failing_task(&omni, 1).await,
        publish_failing_task(&omni, 2).await,
        publish_failing_task(&omni, 3).await,
    ];

    let (code, table, _) = run_dlq_command(&omni, &["--topic", "flaky"]).await;
    assert!(code == Some(0) && ids.iter().all(|id| table.contains(id)), "{table}");
    let (_, listed, _) = run_dlq_command(&omni, &["--topic", "flaky", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (listed[0]["id"].as_str(), &listed[0]["payload"]),
        (Some(ids[2].as_str()), &json!({"n": 3}))
    );
    let (_, newest, more) = run_dlq_command(&omni, &["--topic", "flaky", "--limit", "1"]).await;
    assert!(
        newest.contains(&ids[2]) && !newest.contains(&ids[0]) && more.contains("--limit 3"),
        "{newest} {more}"
    );
    assert_eq!(run_dlq_command(&omni, &["--topic", "flaky", "--count"]).await.1, "3");
    assert_eq!(run_dlq_command(&omni, &["--topic", "nope", "--count"]).await.0, Some(3));

    fs::write(omni.dir().join("mended"), "").expect("it can be written");
    let (code, printed, error) = run_dlq_command(&omni, &["reprocess", "--task-id", &ids[0]]).await;
    assert_eq!((code, printed), (Some(0), format!("{} is queued", ids[0])), "{error}");
    let done = wait_for_task_status(&omni, &ids[0], "completed").await;
    assert_eq!((&done["result"]["payload"], &done["attempts"]), (&json!({"n": 1}), &json!(1)));
    let (code, _, error) = run_dlq_command(&omni, &["reprocess", "--task-id", &ids[0]]).await;
    assert!(code == Some(3) && error.contains("omnidaemon bus dlq"), "{error}");

    let (code, printed, _) =
        run_dlq_command(&omni, &["discard", "--task-id", &ids[1], "--topic", "flaky"]).await;
    assert_eq!((code, printed), (Some(0), format!("{} is discarded", ids[1])));
    assert_eq!(run_dlq_command(&omni, &["--topic", "flaky", "--count"]).await.1, "1");
    let (code, _, error) = run_dlq_command(&omni, &["reprocess", "--task-id", "a b"]).await;
    assert!(code == Some(2) && error.contains("a task id is"), "{error}");
}

async fn the_admin_api_reprocesses_retries_and_discards_and_says_why_not(store: Store) {
    let omni = start(&store).await;
    let (admin, ids) = (
        omni.admin_client(),
        [publish_failing_task(&omni, 1).await, publish_failing_task(&omni, 2).await],
    );
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
    wait_for_task_status(&omni, &ids[0], "completed").await;
    let again = admin.post(&format!("/admin/v1/tasks/{}/retry", ids[0]), &json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(again.text().contains("only a failed task"), "{}", again.text());

    let of_another = format!("/admin/v1/dead-letters/{}/reprocess?topic=fine", ids[1]);
    assert_eq!(admin.post(&of_another, &json!({})).await.status, 404);
    let path = format!("/admin/v1/dead-letters/{}", ids[1]);
    let reprocessed = admin.post(&format!("{path}/reprocess"), &json!({})).await;
    assert_eq!(reprocessed.json()["task_id"], json!(ids[1]), "{}", reprocessed.text());
    wait_for_task_status(&omni, &ids[1], "completed").await;
    assert_eq!(admin.delete(&path).await.status, 404, "it is none any more");
}
