//! Tasks as operators see them: published in bulk, listed, and each one's life.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::cli_output::{json_output, stderr, stdout};
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

/// Fails at its first attempt.
const FLAKY_SCRIPT: &str =
    "[ $OMNIDAEMON_ATTEMPT = 2 ] && echo 1 || { echo out of cheese >&2; exit 3; }";

async fn start(store: &Store) -> Scenario {
    scenario()
        .store(store)
        .yaml("proxy.max_body", "2KiB")
        .route(route("invoke").topic("echo"))
        .topic(topic("echo").command(["cat"]))
        .topic(topic("flaky").shell(FLAKY_SCRIPT).retries(2).retry_delay("20ms"))
        .topic(topic("outside").external().max_backlog(2))
        .workers(2)
        .start()
        .await
}

async fn wait_for_task_end(omni: &Omnidaemon, id: &str) -> Value {
    omni.data_client().get(&format!("/task/{id}?wait=60s")).await.json()
}

on_both_stores!(
    many_tasks_are_published_in_one_request_and_each_fate_is_told,
    a_file_of_tasks_is_published_line_by_line,
    tasks_are_listed_and_a_tasks_life_is_shown,
);

async fn many_tasks_are_published_in_one_request_and_each_fate_is_told(store: Store) {
    let omni = start(&store).await;
    let good = |n: u32| json!({"topic": "echo", "payload": {"n": n}, "correlation_id": "c"});
    let all =
        omni.admin_client().post("/admin/v1/tasks", &json!({"tasks": [good(1), good(2)]})).await;
    assert_eq!((all.status.as_u16(), &all.json()["queued"]), (202, &json!(2)), "{}", all.text());
    let mixed =
        json!({"tasks": [good(1), {"topic": "nope", "payload": 1}, 7, good(2), {"payload": 1}]});
    let answer = omni.admin_client().post("/admin/v1/tasks", &mixed).await;
    let told = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &told["queued"], &told["refused"]),
        (207, &json!(2), &json!(3)),
        "{told}"
    );
    let tasks = told["tasks"].as_array().expect("a list");
    assert!(tasks[1]["error"].as_str().is_some_and(|error| error.contains("nope")), "{told}");
    for (index, n) in [(0, 1), (3, 2)] {
        let task = wait_for_task_end(&omni, tasks[index]["task_id"].as_str().expect("an id")).await;
        assert_eq!(task["result"]["payload"]["n"], n, "in their order");
    }
    let three = vec![json!({"topic": "outside", "payload": 1}); 3];
    let full = omni.admin_client().post("/admin/v1/tasks", &json!({"tasks": three})).await.json();
    assert_eq!((&full["queued"], &full["refused"]), (&json!(2), &json!(1)), "{full}");
    let over = omni
        .admin_client()
        .post("/admin/v1/tasks", &json!({"topic": "outside", "payload": 1}))
        .await;
    assert_eq!(
        (over.status.as_u16(), over.header("retry-after")),
        (429, Some("1")),
        "{}",
        over.text()
    );
    assert!(over.text().contains("topics.outside.max_backlog"), "{}", over.text());
    assert_eq!(
        omni.metric_value("omnidaemon_tasks_received_total", &[("topic", "echo")]).await,
        4.0
    );
    let empty = omni.admin_client().post("/admin/v1/tasks", &json!({"tasks": []})).await;
    assert_eq!(empty.status, 202);
}

async fn a_file_of_tasks_is_published_line_by_line(store: Store) {
    let omni = start(&store).await;
    let file = omni.dir().join("tasks.jsonl");
    // More than one request may carry, by lines and by proxy.max_body.
    let lines: Vec<_> =
        (0..250).map(|n| format!("{{\"topic\":\"echo\",\"payload\":{{\"n\":{n}}}}}")).collect();
    std::fs::write(&file, lines.join("\n")).expect("it can be written");
    let path = file.to_str().expect("UTF-8");
    let done = omni.run_cli(&["task", "publish", "--bulk", path]).await;
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let ids: Vec<String> = stdout(&done).lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), 250);
    assert!(stderr(&done).contains("250 queued, 0 not"), "{}", stderr(&done));
    assert_eq!(
        wait_for_task_end(&omni, &ids[249]).await["result"]["payload"]["n"],
        249,
        "ids come in the lines' order"
    );

    std::fs::write(&file, "{\"n\":1}\n\nnonsense\n\"two\"\n").expect("it can be written");
    let partial = omni.run_cli(&["task", "publish", "--bulk", path, "--topic", "echo"]).await;
    assert_eq!(
        (partial.status.code(), stdout(&partial).lines().count()),
        (Some(6), 2),
        "{}",
        stderr(&partial)
    );
    assert!(stderr(&partial).contains("line 3: the payload is not JSON"), "{}", stderr(&partial));

    let mut command = Command::new(env!("CARGO_BIN_EXE_omnidaemon"));
    command
        .args(["task", "publish", "--bulk", "-", "--format", "json"])
        .env("OMNIDAEMON_ADMIN_URL", omni.admin_url(""));
    command
        .current_dir(omni.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary can be run");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"{\"topic\":\"nope\",\"payload\":1}\n").expect("it reads");
    drop(stdin);
    let failed = tokio::task::spawn_blocking(|| child.wait_with_output())
        .await
        .expect("joined")
        .expect("ended");
    assert_eq!(
        (failed.status.code(), &json_output(&failed)["line"]),
        (Some(1), &json!(1)),
        "{failed:?}"
    );
    assert_eq!(
        omni.run_cli(&["task", "publish", "--bulk", "/no/such/file"]).await.status.code(),
        Some(1)
    );
    assert_eq!(
        omni.run_cli(&["task", "publish", "--topic", "echo"]).await.status.code(),
        Some(2),
        "a payload is needed"
    );
}

async fn tasks_are_listed_and_a_tasks_life_is_shown(store: Store) {
    let omni = start(&store).await;
    let publish = async |topic: &str| {
        let args =
            ["task", "publish", "--topic", topic, "--payload", "1", "--correlation-id", "order-7"];
        stdout(&omni.run_cli(&args).await).trim().to_owned()
    };
    let (flaky, waiting) = (publish("flaky").await, publish("outside").await);
    assert_eq!(wait_for_task_end(&omni, &flaky).await["status"], "completed");

    let life = omni.admin_client().get(&format!("/admin/v1/tasks/{flaky}")).await.json();
    assert_eq!(
        (&life["attempts"], &life["correlation_id"]),
        (&json!(2), &json!("order-7")),
        "{life}"
    );
    let history = life["history"].as_array().expect("a list");
    assert_eq!(
        history.iter().map(|run| &run["attempt"]).collect::<Vec<_>>(),
        [&json!(1), &json!(2)]
    );
    assert!(
        history[0]["error"].as_str().is_some_and(|error| error.contains("out of cheese")),
        "{life}"
    );
    assert!(history[1]["error"].is_null() && history[1]["worker"].is_string(), "{life}");
    for run in history {
        assert!(
            run["began_ms"].is_u64() && run["ended_ms"].is_u64() && run["waited_ms"].is_u64(),
            "{run}"
        );
    }
    let shown = stdout(&omni.run_cli(&["task", "show", &flaky]).await);
    for part in ["completed", "order-7", "ATTEMPT", "out of cheese"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let result = json_output(&omni.run_cli(&["task", "result", &flaky, "--format", "json"]).await);
    assert_eq!(
        (&result["result"], result.get("history")),
        (&json!(1), None),
        "a result says what it always said"
    );

    wait_until(TEST_DEADLINE, "both are listed", async || {
        json_output(&omni.run_cli(&["task", "list", "--format", "json"]).await)
            .as_array()
            .map(Vec::len)
            == Some(2)
    })
    .await;
    let completed = json_output(
        &omni.run_cli(&["task", "list", "--status", "completed", "--format", "json"]).await,
    );
    assert_eq!(
        (completed.as_array().map(Vec::len), &completed[0]["task_id"]),
        (Some(1), &json!(flaky))
    );
    let listed = stdout(&omni.run_cli(&["task", "list", "--topic", "outside"]).await);
    assert!(
        listed.contains(&waiting) && listed.contains("queued") && !listed.contains(&flaky),
        "{listed}"
    );
    assert_eq!(omni.run_cli(&["task", "list", "--status", "odd"]).await.status.code(), Some(2));
    assert_eq!(omni.run_cli(&["task", "show", "task_unknown"]).await.status.code(), Some(3));
    for bad in ["status=odd", "topic=a%20b", "after=!!"] {
        let answer = omni.admin_client().get(&format!("/admin/v1/tasks?{bad}")).await;
        assert_eq!(answer.status, 422, "{bad}: {}", answer.text());
    }
    let page = omni.admin_client().get("/admin/v1/tasks?limit=1").await.json();
    assert_eq!(page["tasks"].as_array().map(Vec::len), Some(1));
    let next =
        format!("/admin/v1/tasks?limit=1&after={}", page["next"].as_str().expect("there is more"));
    assert_ne!(
        omni.admin_client().get(&next).await.json()["tasks"][0]["task_id"],
        page["tasks"][0]["task_id"]
    );
}
