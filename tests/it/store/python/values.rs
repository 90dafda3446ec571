//! Values that Python agents get and write, NaN included.

use http::Method;
use redis::AsyncCommands as _;
use redis::Value as RedisValue;
use redis::streams::StreamReadReply;
use serde_json::{Value, json};

use super::start_server;
use crate::support::http::client::HttpResponse;
use crate::support::process::python::PythonOmnidaemon;
use crate::support::redis::server::RedisServer;
use crate::support::tasks::{submit_task, wait_for_task_end};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

/// The values of the tasks that an agent was given, each with the name of its type in Python.
async fn echo_values(omni: &Omnidaemon, topic: &str, values: &[Value]) -> Vec<(Value, String)> {
    let mut echoed = Vec::new();
    for value in values {
        let task = wait_for_task_end(omni, &submit_task(omni, topic, value).await).await;
        let kind = task["result"]["type"].as_str().unwrap_or_default().to_owned();
        echoed.push((task["result"]["content"].clone(), kind));
    }
    echoed
}

#[tokio::test]
async fn an_agent_gets_strings_that_look_like_json_as_strings_and_null_as_none() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let _agent = python.build_agent("objects", "analyst").set_option("echo", true).start().await;
    let values = [
        (json!("123"), "str"),
        (json!("{\"a\": 1}"), "str"),
        (json!("null"), "str"),
        (json!(null), "NoneType"),
        (json!(9_007_199_254_740_993_u64), "int"),
        (json!({"a": [1.5]}), "dict"),
    ];
    let given = values.each_ref().map(|(value, _)| value.clone());
    let echoed = echo_values(&omni, "objects", &given).await;
    assert_eq!(echoed, values.map(|(value, kind)| (value, kind.to_owned())));
}

/// That there is one warning about a task's result, after it was read several times.
async fn assert_warned_once(omni: &Omnidaemon, id: &str) {
    let count = || {
        let lines = omni.logs().lines();
        lines.iter().filter(|line| line.contains("is not JSON") && line.contains(id)).count()
    };
    wait_until(TEST_DEADLINE, "the result is warned about", async || count() > 0).await;
    assert_eq!(count(), 1, "{:?}", omni.logs().lines());
}

#[tokio::test]
async fn a_result_with_nan_ends_its_task_for_all_who_wait_and_is_null_with_a_note() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let _agent = python.build_agent("outside", "analyst").start().await;
    omni.wait_until_topic_has_slots("outside").await;
    let floats = json!({"floats": ["nan", "inf", "-inf", "1.5"]});
    let result = json!({"floats": [null, null, null, 1.5], "by": "analyst"});

    let waits = omni.data_client().post("/invoke", &floats).await;
    assert_eq!(
        (waits.status.as_u16(), waits.header("x-omnidaemon-path"), waits.json()),
        (200, Some("async"), result.clone())
    );

    let poll = submit_task(&omni, "outside", &floats).await;
    let held = omni.data_client().get(&format!("{poll}?wait=20s")).await;
    assert_eq!((held.status.as_u16(), &held.json()["status"]), (200, &json!("completed")));
    let task = wait_for_task_end(&omni, &poll).await;
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &result));
    assert!(task["note"].to_string().contains("NaN"), "{task}");

    let id = poll.trim_start_matches("/task/");
    let list = omni.admin_client().get("/admin/v1/tasks").await.json();
    let listed =
        list["tasks"].as_array().expect("a list").iter().find(|task| task["task_id"] == id);
    assert_eq!(listed.expect("listed")["status"], "completed", "{list}");
    let shown = omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await;
    assert_eq!((shown.status.as_u16(), &shown.json()["result"]), (200, &result));
    assert_warned_once(&omni, id).await;
    let health = omni.admin_client().get("/healthz").await;
    assert_eq!(health.status, 200, "a bad result is no outage: {}", health.text());
}

/// Takes the one task of a topic as an agent does, and saves these bytes as its result.
async fn end_with_bytes(server: &RedisServer, topic: &str, id: &str, result: &[u8]) {
    let (mut redis, stream) = (server.connect().await, format!("omni-stream:{topic}"));
    let group = format!("group:{topic}:analyst");
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(&group).arg("consumer:analyst-1").arg("COUNT").arg(1);
    read.arg("STREAMS").arg(&stream).arg(">");
    let entry = wait_for_some(TEST_DEADLINE, "the task is in the stream", async || {
        let read: StreamReadReply = read.query_async(&mut server.connect().await).await.ok()?;
        Some(read.keys.first()?.ids.first()?.id.clone())
    })
    .await;
    let _: () = redis.set_ex(format!("omni:result:{id}"), result, 86400).await.expect("saved");
    let _: RedisValue = redis.xack(&stream, &group, &[entry]).await.expect("acknowledged");
}

#[tokio::test]
async fn a_result_that_cannot_be_read_ends_its_task_as_a_failure_that_says_so() {
    let server = RedisServer::start().await;
    let omni = start_server(&server).await;
    let whole =
        |rest: &str| format!("{{\"task_id\":\"x\",\"result\":{{{rest}}},\"saved_at\":1.5}}");
    let cases: [(&[u8], &str, Value); 6] = [
        (b"{\"task_id\":", "failed", json!(null)),
        (b"", "failed", json!(null)),
        (b"[1]", "failed", json!(null)),
        (
            &whole("\"result\":1,\"created_at\":\"late\",\"topic\":7,\"agent\":[]").into_bytes(),
            "completed",
            json!(1),
        ),
        (
            &whole("\"result\":2,\"correlation_id\":\"\\ud800\",\"created_at\":1e999").into_bytes(),
            "completed",
            json!(2),
        ),
        (b"{\"result\":{\"result\":\"\xff\"}}", "completed", json!("\u{fffd}")),
    ];
    for (bytes, status, result) in cases {
        let poll = submit_task(&omni, "held", &json!({"n": 1})).await;
        let id = poll.trim_start_matches("/task/").to_owned();
        let client = omni.data_client();
        let path = format!("{poll}?wait=30s");
        let call = tokio::spawn(async move { client.get(&path).await });
        end_with_bytes(&server, "held", &id, bytes).await;
        let waited = call.await.expect("joined");
        let said = String::from_utf8_lossy(bytes);
        assert_eq!(waited.status, 200, "{said}: {}", waited.text());
        let task = waited.json();
        assert_eq!((&task["status"], &task["result"]), (&json!(status), &result), "{said}: {task}");
        if status == "failed" {
            assert!(task["error"].to_string().contains("cannot be read"), "{task}");
            assert_warned_once(&omni, &id).await;
        }
        let shown = omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await;
        assert_eq!((shown.status.as_u16(), &shown.json()["status"]), (200, &json!(status)));
    }
    let list = omni.admin_client().get("/admin/v1/tasks").await;
    assert_eq!(list.status, 200, "{}", list.text());
}

#[tokio::test]
async fn a_content_with_nan_is_a_dead_letter_that_says_so_and_not_an_outage() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let mut redis = server.connect().await;
    let data = "{\"content\": {\"a\": NaN}, \"topic\": \"count\", \"task_id\": \"not-finite\"}";
    let _: String = redis.xadd("omni-stream:count", "*", &[("data", data)]).await.expect("added");
    let task = wait_for_task_end(&omni, "/task/not-finite").await;
    assert_eq!(task["status"], "failed", "{task}");
    let request = omni.admin_client().request(Method::GET, "/admin/v1/dead-letters?topic=count");
    let letters = HttpResponse::from_request(request).await;
    assert!(letters.text().contains("NaN or Infinity"), "{}", letters.text());
    assert_eq!(letters.status, 200);
    drop(python);
}
