//! Who is told of a task's end: sinks that are slow, broken or not allowed, replies, delays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::scenario::{Scenario, ScenarioBuilder, scenario, topic};
use crate::support::sink::WebhookSink;
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::publish_task;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

/// Prints its payload below this key.
fn echo_script(key: &str) -> String {
    format!("import json,sys; print(json.dumps({{\"{key}\": json.load(sys.stdin)[\"payload\"]}}))")
}

/// A server that may call these hosts.
fn calling(store: &Store, hosts: [&str; 2]) -> ScenarioBuilder {
    scenario()
        .no_upstream()
        .store(store)
        .no_routes()
        .topic(topic("echo").python(&echo_script("echo")))
        .topic(topic("fail").shell("exit 3").retries(0))
        .topic(topic("next").python(&echo_script("got")))
        .topic(topic("outside").external())
        .workers(4)
        .yaml("webhooks.hosts", json!(hosts))
        .yaml("webhooks.timeout", "2s")
        .yaml("webhooks.secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
}

async fn start(store: &Store, sink: &WebhookSink) -> Scenario {
    let public = format!("localhost:{}", sink.addr().rsplit(':').next().expect("a port"));
    calling(store, [&format!("private:{}", sink.addr()), &public]).start().await
}

async fn wait_for_delivery(omni: &Omnidaemon, id: &str, status: &str) -> Value {
    wait_for_some(TEST_DEADLINE, status, async || {
        let task = omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json();
        task["deliveries"].as_array()?.iter().find(|delivery| delivery["status"] == status).cloned()
    })
    .await
}

on_both_stores!(
    a_webhook_is_told_once_signed_and_as_python_would,
    a_sink_that_hangs_delays_no_task_and_no_other_sink,
    what_failed_is_tried_again_and_what_was_refused_is_not,
    a_sink_that_closes_after_its_answer_has_heard,
    only_listed_hosts_on_fit_addresses_are_called,
    a_reply_is_a_task_of_its_topic,
    a_delayed_task_waits_for_its_time,
);

async fn a_webhook_is_told_once_signed_and_as_python_would(store: Store) {
    let sink = WebhookSink::start().await;
    let omni = start(&store, &sink).await;
    let id = publish_task(
        &omni,
        &json!({
            "topic": "echo", "payload": {"n": 1}, "webhook": sink.url("200"),
            "correlation_id": "c"
        }),
    )
    .await;
    let told = sink.wait_for_post("200").await;
    assert_eq!(told.body.as_object().map(serde_json::Map::len), Some(1), "{}", told.body);
    let r = &told.body["payload"];
    assert_eq!(
        (&r["task_id"], &r["topic"], &r["status"]),
        (&json!(id), &json!("echo"), &json!("completed"))
    );
    assert_eq!((&r["result"], &r["correlation_id"]), (&json!({"echo": {"n": 1}}), &json!("c")));
    let header = |name: &str| told.headers[name].to_str().expect("ASCII").to_owned();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("webhook-id"), header("idempotency-key"));
    assert!(
        header("webhook-timestamp").parse::<u64>().is_ok()
            && header("webhook-signature").starts_with("v1,")
    );
    let delivered = wait_for_delivery(&omni, &id, "delivered").await;
    assert_eq!(
        (&delivered["event"], &delivered["attempts"]),
        (&json!(header("webhook-id")), &json!(1))
    );

    let failed =
        publish_task(&omni, &json!({"topic": "fail", "payload": 1, "webhook": sink.url("201")}))
            .await;
    let told = sink.wait_for_post("201").await.body["payload"].clone();
    assert_eq!((&told["task_id"], &told["status"]), (&json!(failed), &json!("failed")));
    assert!(told["error"].as_str().is_some_and(|error| error.contains('3')), "{told}");
    let queued =
        publish_task(&omni, &json!({"topic": "outside", "payload": 1, "webhook": sink.url("204")}))
            .await;
    omni.admin_client().post(&format!("/admin/v1/tasks/{queued}/cancel"), &()).await;
    assert_eq!(sink.wait_for_post("204").await.body["payload"]["status"], "cancelled");
    assert_eq!((sink.posts("200").len(), sink.posts("201").len()), (1, 1));
    let counted = [("kind", "webhook"), ("outcome", "delivered")];
    wait_until(TEST_DEADLINE, "all are counted", async || {
        omni.metric_value("omnidaemon_deliveries_total", &counted).await == 3.0
    })
    .await;
}

async fn a_sink_that_hangs_delays_no_task_and_no_other_sink(store: Store) {
    let (hung, sink) = (WebhookSink::start().await, WebhookSink::start().await);
    let hosts = [sink.addr(), hung.addr()].map(|addr| format!("private:{addr}"));
    let omni = calling(&store, hosts.each_ref().map(String::as_str))
        .yaml("webhooks.timeout", "1h")
        .start()
        .await;
    for n in 0..12 {
        let id = publish_task(
            &omni,
            &json!({"topic": "fail", "payload": n, "webhook": hung.url("hang")}),
        )
        .await;
        wait_until(TEST_DEADLINE, "the task ends", async || {
            omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json()["status"]
                == "failed"
        })
        .await;
    }
    wait_until(TEST_DEADLINE, "the sink has its share", async || hung.posts("hang").len() == 8)
        .await;
    let id =
        publish_task(&omni, &json!({"topic": "echo", "payload": 1, "webhook": sink.url("200")}))
            .await;
    assert_eq!(sink.wait_for_post("200").await.body["payload"]["task_id"], json!(id));
    assert_eq!(hung.posts("hang").len(), 8, "no more at a time");
}

async fn what_failed_is_tried_again_and_what_was_refused_is_not(store: Store) {
    let sink = WebhookSink::start().await;
    let omni = start(&store, &sink).await;
    let flaky =
        publish_task(&omni, &json!({"topic": "echo", "payload": 1, "webhook": sink.url("flaky")}))
            .await;
    let done = wait_for_delivery(&omni, &flaky, "delivered").await;
    let posts = sink.posts("flaky");
    assert_eq!((posts.len(), &done["attempts"]), (2, &json!(2)));
    assert_eq!(
        posts[0].headers["webhook-id"], posts[1].headers["webhook-id"],
        "the event keeps its id"
    );
    assert_eq!(posts[0].body, posts[1].body);
    for refused in ["410", "404", "302"] {
        let id = publish_task(
            &omni,
            &json!({"topic": "echo", "payload": 1, "webhook": sink.url(refused)}),
        )
        .await;
        let dropped = wait_for_delivery(&omni, &id, "dropped").await;
        assert!(
            dropped["error"].as_str().is_some_and(|error| error.contains(refused)),
            "{dropped}"
        );
        assert_eq!(sink.posts(refused).len(), 1);
    }
    assert!(sink.posts("redirected").is_empty(), "no redirect is followed");
    assert_eq!(
        omni.metric_value(
            "omnidaemon_deliveries_total",
            &[("kind", "webhook"), ("outcome", "dropped")]
        )
        .await,
        3.0
    );
}

/// Answers each post on a connection of its own, which it closes at once; gives their number.
async fn closing_sink() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let (addr, posts) =
        (listener.local_addr().expect("bound").to_string(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&posts);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            // the body is JSON, and nothing else in the request ends so
            while !read.ends_with(b"}}")
                && stream.read_buf(&mut read).await.is_ok_and(|read| read > 0)
            {}
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n").await;
        }
    });
    (addr, posts)
}

async fn a_sink_that_closes_after_its_answer_has_heard(store: Store) {
    let (sink, (addr, posts)) = (WebhookSink::start().await, closing_sink().await);
    let hosts = [sink.addr(), &addr].map(|addr| format!("private:{addr}"));
    let omni = calling(&store, hosts.each_ref().map(String::as_str)).start().await;
    // which of both is seen first is chance
    for n in 0..12 {
        let webhook = format!("http://{addr}/{n}");
        let id =
            publish_task(&omni, &json!({"topic": "fail", "payload": n, "webhook": webhook})).await;
        assert_eq!(wait_for_delivery(&omni, &id, "delivered").await["attempts"], 1);
    }
    assert_eq!(posts.load(Ordering::Relaxed), 12);
}

async fn only_listed_hosts_on_fit_addresses_are_called(store: Store) {
    let sink = WebhookSink::start().await;
    let mut omni = start(&store, &sink).await;
    for unlisted in [
        "http://127.1/x",
        "http://169.254.169.254/latest",
        "https://example.com/",
        "http://[::ffff:127.0.0.1]/",
    ] {
        let refused = omni
            .admin_client()
            .post("/admin/v1/tasks", &json!({"topic": "echo", "payload": 1, "webhook": unlisted}))
            .await;
        assert_eq!(refused.status, 422, "{unlisted}");
        assert!(refused.text().contains("webhooks.hosts"), "{}", refused.text());
    }
    // Listed by name, but not as one of a private network.
    let local = format!("http://localhost:{}/200", sink.addr().rsplit(':').next().expect("a port"));
    let id = publish_task(&omni, &json!({"topic": "echo", "payload": 1, "webhook": local})).await;
    let error = wait_for_some(TEST_DEADLINE, "it is refused", async || {
        let task = omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json();
        task["deliveries"][0]["error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(error.contains("private:localhost"), "{error}");
    assert!(sink.posts("200").is_empty());

    let id =
        publish_task(&omni, &json!({"topic": "outside", "payload": 1, "webhook": sink.url("200")}))
            .await;
    let hosts = ["hooks.example.com", "192.0.2.1", "private:192.0.2.2:1"];
    omni.apply_setting("webhooks.hosts", json!(hosts)).await;
    omni.admin_client().post(&format!("/admin/v1/tasks/{id}/cancel"), &()).await;
    let dropped = wait_for_delivery(&omni, &id, "dropped").await;
    assert!(
        dropped["error"].as_str().is_some_and(|error| error.contains("webhooks.hosts")),
        "{dropped}"
    );
}

async fn a_reply_is_a_task_of_its_topic(store: Store) {
    let sink = WebhookSink::start().await;
    let omni = start(&store, &sink).await;
    let id = publish_task(
        &omni,
        &json!({"topic": "echo", "payload": 7, "reply_to": "next", "correlation_id": "c"}),
    )
    .await;
    wait_for_delivery(&omni, &id, "delivered").await;
    wait_until(TEST_DEADLINE, "the reply ran", async || {
        omni.metric_value("omnidaemon_tasks_processed_total", &[("topic", "next")]).await == 1.0
    })
    .await;
    let failed =
        publish_task(&omni, &json!({"topic": "fail", "payload": 7, "reply_to": "next"})).await;
    wait_until(TEST_DEADLINE, "it failed", async || {
        omni.metric_value("omnidaemon_tasks_failed_total", &[("topic", "fail")]).await == 1.0
    })
    .await;
    let task = omni.admin_client().get(&format!("/admin/v1/tasks/{failed}")).await.json();
    assert_eq!(task["deliveries"], json!([]), "without a result there is no reply");
    assert_eq!(
        omni.metric_value("omnidaemon_tasks_received_total", &[("topic", "next")]).await,
        1.0
    );
}

async fn a_delayed_task_waits_for_its_time(store: Store) {
    let sink = WebhookSink::start().await;
    let omni = start(&store, &sink).await;
    let later = publish_task(&omni, &json!({"topic": "echo", "payload": 1, "delay": "1h"})).await;
    let soon = publish_task(
        &omni,
        &json!({"topic": "echo", "payload": 1, "delay": 1.5, "webhook": sink.url("200")}),
    )
    .await;
    let task = omni.admin_client().get(&format!("/admin/v1/tasks/{later}")).await.json();
    assert_eq!(task["status"], "queued");
    assert!(task["due_at"].as_str().is_some_and(|due| due.ends_with('Z')), "{task}");
    assert_eq!(sink.wait_for_post("200").await.body["payload"]["task_id"], json!(soon));
    let task = omni.admin_client().get(&format!("/admin/v1/tasks/{later}")).await.json();
    assert_eq!(task["status"], "queued");
}
