//! Shadow traffic: copies that run beside the sync path and are compared, and what clients notice
//! of it: nothing.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::redis::server::RedisServer;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};
use crate::worker::webhooks::Sink;

const CONFIG: &str = "
proxy: {listen: 127.0.0.1:0, max_body: 64KiB, threads: 1}
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke:
    path: /invoke
    topic: t
    topics: [later]
    rollout:
      mode: manual
      shadow: {percent: 100, side_effects: allowed, compare: {ignore: [/execution_time_ms]}}
topics:
  t: {handler: {http: '<copies>/invoke'}, timeout: 30s, retries: 3, retry_delay: 50ms}
  later: {handler: {http: '<copies>/invoke'}}
workers: {count: 2, concurrency: 2}
webhooks: {hosts: ['private:<sink>']}
results: {max_result: 64KiB}
";

on_both_stores!(
    copies_are_compared_and_nobody_notices,
    a_copy_that_is_answered_otherwise_is_a_mismatch_told_by_its_place,
    at_the_first_backpressure_copies_are_dropped_and_clients_served,
    what_cannot_be_copied_or_compared_is_counted_by_why,
);

struct Scene {
    upstream: TestUpstream,
    copies: TestUpstream,
    sink: Sink,
    omni: Omnidaemon,
}

impl Scene {
    async fn start(config: &str, store: &Store) -> Self {
        let (upstream, copies, sink) =
            (TestUpstream::start().await, TestUpstream::start().await, Sink::start().await);
        let addr = sink.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
        let config = config.replace("<copies>", &copies.url()).replace("<sink>", &addr);
        let omni = Omnidaemon::with_config(&config)
            .with_upstream(&upstream)
            .set_placeholder("store", store.url())
            .start()
            .await;
        Self { upstream, copies, sink, omni }
    }

    /// A client that is served as ever.
    async fn call(&self, arguments: Value) -> HttpResponse {
        let answer = self
            .omni
            .data_client()
            .post("/invoke", &json!({"task": "t", "arguments": arguments}))
            .await;
        assert_eq!(answer.header("x-omnidaemon-path"), Some("sync"), "{arguments}");
        assert_eq!(answer.header("x-omnidaemon-shadow"), None);
        answer
    }

    async fn count(&self, outcome: &str) -> f64 {
        self.omni
            .metric_value("omnidaemon_shadow_total", &[("route", "invoke"), ("outcome", outcome)])
            .await
    }

    async fn until(&self, outcome: &str, count: f64) {
        let what = format!("{count} × {outcome}");
        wait_until(TEST_DEADLINE, &what, async || self.count(outcome).await >= count).await;
        assert_eq!(self.count(outcome).await, count, "{outcome}");
    }
}

async fn copies_are_compared_and_nobody_notices(store: Store) {
    let scene = Scene::start(CONFIG, &store).await;
    for number in 0..10 {
        let answer = scene.call(json!({"tool": format!("tool {number}")})).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["tool"]),
            (200, &json!(format!("tool {number}")))
        );
    }
    let body = json!({"task": "t", "arguments": {"body": "not \u{e9} json"}});
    let forged = scene
        .omni
        .data_client()
        .request(Method::POST, "/invoke")
        .json(&body)
        .header("x-omnidaemon-shadow", "no");
    assert_eq!(HttpResponse::from_request(forged).await.text(), "not \u{e9} json");
    let forged = scene.omni.data_client().request(Method::POST, "/invoke/async").json(&body);
    let accepted =
        HttpResponse::from_request(forged.header("x-omnidaemon-shadow", "1")).await.json();
    let poll = format!("{}?wait=20s", accepted["poll_url"].as_str().expect("a URL"));
    assert_eq!(scene.omni.data_client().get(&poll).await.json()["status"], "completed");
    scene.until("match", 11.0).await;

    let seen = scene.upstream.fetch_requests().await.requests;
    assert_eq!(seen.len(), 11, "the upstream serves each request once");
    assert!(
        seen.iter().all(|request| request.shadow.is_none() && request.attempt.is_none()),
        "{seen:?}"
    );
    let seen = scene.copies.fetch_requests().await.requests;
    let shadows = seen.iter().filter(|request| request.shadow.as_deref() == Some("1")).count();
    assert_eq!((seen.len(), shadows), (12, 11), "all but the task that a client sent: {seen:?}");
    let outcomes =
        scene.omni.metric_value("omnidaemon_task_outcomes_total", &[("route", "invoke")]).await;
    assert_eq!(outcomes, 0.0, "no other gate hears of copies");
    scene.until("queued", 11.0).await;
}

async fn a_copy_that_is_answered_otherwise_is_a_mismatch_told_by_its_place(store: Store) {
    let scene = Scene::start(CONFIG, &store).await;
    let mut mismatches = 0.0;
    for (replayed, at) in [
        (json!({"tool": "canary-secret"}), Some("at=\"/tool\"")),
        (json!({"status": 500}), Some("at=\"status\" sync=200 copy=500")),
        (json!({"die": "before"}), Some("at=\"status\" sync=200 copy=502")),
        (json!({"status": 201}), Some("at=\"status\" sync=200 copy=201")),
        (json!({}), None),
    ] {
        let before = scene.omni.logs().len();
        let answer = scene.call(json!({"replayed": replayed})).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["tool"]), (200, &json!("echo")));
        let Some(at) = at else { continue };
        mismatches += 1.0;
        scene.until("mismatch", mismatches).await;
        let logged = scene.omni.logs().lines()[before..].join("\n");
        assert!(logged.contains(at) && !logged.contains("canary-secret"), "no {at} in {logged}");
    }
    scene.until("match", 1.0).await;
    let seen = scene.copies.fetch_requests().await.requests;
    assert_eq!(seen.len(), 5, "a copy is tried once: {seen:?}");
    let dead = scene.omni.admin_client();
    wait_until(TEST_DEADLINE, "no dead letter is left", async || {
        dead.get("/admin/v1/dead-letters?topic=t").await.json() == json!([])
    })
    .await;
}

async fn at_the_first_backpressure_copies_are_dropped_and_clients_served(store: Store) {
    let config = CONFIG.replace("workers: {count: 2, concurrency: 2}", "workers: {count: 0}");
    // a tenth of the backlog may be copies
    let few = config.replace("timeout: 30s", "timeout: 10m, max_backlog: 30");
    let mut scene = Scene::start(&few, &store).await;
    for _ in 0..5 {
        assert_eq!(scene.call(json!({})).await.status, 200);
    }
    scene.until("backpressure", 2.0).await;
    scene.until("queued", 3.0).await;

    // more than a thread has under way
    scene.omni.edit_config(|yaml| yaml.replace("max_backlog: 30", "max_backlog: 10000"));
    scene.omni.wait_until_config_applied().await;
    for _ in 0..260 {
        assert_eq!(scene.call(json!({})).await.status, 200);
    }
    scene.until("queued", 256.0).await;
    scene.until("crowded", 7.0).await;
    assert_eq!(scene.upstream.fetch_requests().await.requests.len(), 265);
    scene.omni.send_sigterm();
    assert!(scene.omni.wait_for_exit().await.success(), "nobody waits for copies");
}

async fn what_cannot_be_copied_or_compared_is_counted_by_why(store: Store) {
    let scene = Scene::start(CONFIG, &store).await;
    let client = scene.omni.data_client();
    let post = |body: &Value| client.request(Method::POST, "/invoke").json(body);
    let call = json!({"task": "t"});
    let long = json!({"task": "x".repeat(100_000)});
    let envelope = |more: Value| {
        let mut envelope = json!({"topic": "t", "payload": call});
        envelope
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        envelope
    };
    for (request, status) in [
        (post(&call).header("idempotency-key", "k"), 200),
        (post(&long), 200),
        (post(&call).header("accept", "text/event-stream"), 200),
        (post(&envelope(json!({"topic": "later"}))), 422),
        (post(&envelope(json!({"delay": 1}))), 422),
        (client.request(Method::POST, "/invoke").body("no json"), 422),
    ] {
        let answer = HttpResponse::from_request(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (status, Some("sync"))
        );
    }
    scene.until("ineligible", 6.0).await;
    for arguments in [
        json!({"status": 500}),
        json!({"status": 429}),
        json!({"die": "before"}),
        json!({"bytes": 100_000}),
        json!({"headers": [["content-encoding", "x-odd"]]}),
    ] {
        scene.call(arguments).await;
    }
    scene.until("unanswered", 3.0).await;
    scene.until("too_large", 1.0).await;
    scene.until("encoded", 1.0).await;
    scene.until("queued", 0.0).await;

    // a copy tells nobody, whatever its envelope says
    let told = envelope(json!({"webhook": scene.sink.url("200"), "reply_to": "later"}));
    assert_eq!(
        HttpResponse::from_request(post(&told)).await.status,
        422,
        "the legacy endpoint knows no envelopes"
    );
    scene.until("mismatch", 1.0).await;
    assert_eq!(scene.omni.metric_value("omnidaemon_deliveries_total", &[]).await, 0.0);
    assert_eq!(scene.omni.metric_value("omnidaemon_outbox_depth", &[]).await, 0.0);
    assert!(scene.sink.posts("200").is_empty());
    assert_eq!(scene.copies.fetch_requests().await.requests.len(), 1, "that of the envelope alone");
}

#[tokio::test]
async fn a_copy_that_does_not_end_in_time_is_a_mismatch() {
    let config = CONFIG.replace("workers: {count: 2, concurrency: 2}", "workers: {count: 0}");
    let scene = Scene::start(&config.replace("timeout: 30s", "timeout: 1s"), &Store::Sqlite).await;
    assert_eq!(scene.call(json!({})).await.status, 200);
    scene.until("mismatch", 1.0).await;
    assert!(scene.omni.logs().contains("at=\"deadline\""), "{}", scene.omni.logs().to_text());
    let waiting =
        async || scene.omni.metric_value("omnidaemon_queue_depth", &[("topic", "t")]).await;
    wait_until(TEST_DEADLINE, "it is taken off the queue", async || waiting().await == 0.0).await;
}

#[tokio::test]
async fn a_program_is_told_that_it_runs_a_copy() {
    let program =
        "{command: [sh, -c, 'echo \"copy=$OMNIDAEMON_SHADOW\" >> <dir>/told; cat']}, timeout: 30s";
    let config = CONFIG.replace("{http: '<copies>/invoke'}, timeout: 30s", program);
    let scene = Scene::start(&config, &Store::Sqlite).await;
    assert_eq!(scene.call(json!({})).await.status, 200);
    scene.until("mismatch", 1.0).await;
    let told = scene.omni.dir().join("told");
    wait_until(TEST_DEADLINE, "the program is told", async || {
        std::fs::read_to_string(&told).is_ok_and(|told| told == "copy=1\n")
    })
    .await;
}

#[tokio::test]
async fn what_goes_async_is_no_shadow_whatever_the_share() {
    let scene = Scene::start(
        &CONFIG.replace("mode: manual", "mode: manual\n      percent: 100"),
        &Store::Sqlite,
    )
    .await;
    for key in [None, Some("k")] {
        let request =
            scene.omni.data_client().request(Method::POST, "/invoke").json(&json!({"task": "t"}));
        let request =
            key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let answer = HttpResponse::from_request(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("async")),
            "{key:?}"
        );
    }
    assert_eq!(
        scene.omni.metric_value("omnidaemon_shadow_total", &[("route", "invoke")]).await,
        0.0
    );
    assert!(scene.upstream.fetch_requests().await.requests.is_empty());
}

#[tokio::test]
async fn clients_that_are_kept_out_or_choose_their_path_are_not_copied() {
    let config = CONFIG.replace("threads: 1}", "threads: 1, trusted: [127.0.0.0/8]}");
    let config = config.replace(
        "      shadow:",
        "      sticky: {keys: [header:x-client-id]}\n      pin: {sync: [billing]}\n      shadow:",
    );
    let scene = Scene::start(&config, &Store::Sqlite).await;
    let call = |name: &'static str, value: &'static str| {
        let request =
            scene.omni.data_client().request(Method::POST, "/invoke").json(&json!({"task": "t"}));
        HttpResponse::from_request(request.header(name, value))
    };
    for (name, value) in
        [("x-client-id", "billing"), ("x-omnidaemon-path", "sync"), ("x-client-id", "other")]
    {
        assert_eq!(call(name, value).await.status, 200);
    }
    scene.until("match", 1.0).await;
    scene.until("queued", 1.0).await;
    assert_eq!(scene.upstream.fetch_requests().await.requests.len(), 3);
}

#[tokio::test]
async fn a_copy_whose_store_goes_is_lost_and_no_mismatch() {
    let mut redis = RedisServer::start().await;
    let config = CONFIG.replace("workers: {count: 2, concurrency: 2}", "workers: {count: 0}");
    let config = config.replace("timeout: 30s", "timeout: 10s");
    let config = config.replace("<copies>", "http://127.0.0.1:9").replace("<sink>", "127.0.0.1:9");
    let upstream = TestUpstream::start().await;
    let omni = Omnidaemon::with_config(&config)
        .with_upstream(&upstream)
        .set_placeholder("store", redis.url())
        .start()
        .await;
    let count =
        async |outcome| omni.metric_value("omnidaemon_shadow_total", &[("outcome", outcome)]).await;
    assert_eq!(omni.data_client().post("/invoke", &json!({"task": "t"})).await.status, 200);
    wait_until(TEST_DEADLINE, "it is queued", async || count("queued").await == 1.0).await;
    redis.kill();
    wait_until(TEST_DEADLINE, "it is given up", async || count("lost").await == 1.0).await;
    assert_eq!(count("mismatch").await, 0.0);
}

#[tokio::test]
async fn without_the_store_clients_are_served_and_copies_dropped() {
    let mut redis = RedisServer::start().await;
    let store = redis.url();
    let (upstream, copies) = (TestUpstream::start().await, TestUpstream::start().await);
    let config = CONFIG.replace("<copies>", &copies.url()).replace("<sink>", "127.0.0.1:9");
    let omni = Omnidaemon::with_config(&config)
        .with_upstream(&upstream)
        .set_placeholder("store", store)
        .start()
        .await;
    redis.kill();
    let call = json!({"task": "t"});
    let dropped = async || {
        omni.metric_value("omnidaemon_shadow_total", &[("outcome", "store_unavailable")]).await
    };
    wait_until(TEST_DEADLINE, "copies are dropped", async || {
        let answer = omni.data_client().post("/invoke", &call).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("sync"))
        );
        dropped().await >= 3.0
    })
    .await;
    redis.restart().await;
    wait_until(TEST_DEADLINE, "copies are compared again", async || {
        assert_eq!(omni.data_client().post("/invoke", &call).await.status, 200);
        omni.metric_value("omnidaemon_shadow_total", &[("outcome", "match")]).await >= 1.0
    })
    .await;
}
