//! Shadow traffic: copies that run beside the sync path and are compared, and what clients notice
//! of it: nothing.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Route, Scenario, ScenarioBuilder, route, scenario, topic};
use crate::support::sink::WebhookSink;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

on_both_stores!(
    copies_are_compared_and_nobody_notices,
    a_copy_that_is_answered_otherwise_is_a_mismatch_told_by_its_place,
    at_the_first_backpressure_copies_are_dropped_and_clients_served,
    what_cannot_be_copied_or_compared_is_counted_by_why,
);

/// The route `invoke`, all of whose calls are copied onto the queue.
fn shadowed_route() -> Route {
    let shadow = json!({
        "percent": 100,
        "side_effects": "allowed",
        "compare": {"ignore": ["/execution_time_ms"]},
    });
    route("invoke")
        .yaml("topics", json!(["later"]))
        .rollout(json!({"mode": "manual", "shadow": shadow}))
}

/// A server whose copies are handled by the service at `copies`.
fn shadow_scenario(copies: &str, sink: &str, route: Route) -> ScenarioBuilder {
    let handler = format!("{copies}/invoke");
    scenario()
        .yaml("proxy.max_body", "64KiB")
        .yaml("proxy.threads", 1)
        .route(route)
        .topic(topic("t").http(&handler).timeout("30s").retries(3).retry_delay("50ms"))
        .topic(topic("later").http(&handler))
        .workers(2)
        .concurrency(2)
        .yaml("webhooks.hosts", json!([format!("private:{sink}")]))
        .yaml("results.max_result", "64KiB")
}

/// A shadowed server, the service that handles the copies, and a webhook sink.
struct ShadowScene {
    copies: TestUpstream,
    sink: WebhookSink,
    omni: Scenario,
}

impl ShadowScene {
    async fn start(store: &Store) -> Self {
        Self::start_with(store, shadowed_route(), |scenario| scenario).await
    }

    async fn start_with(
        store: &Store,
        route: Route,
        change: impl FnOnce(ScenarioBuilder) -> ScenarioBuilder,
    ) -> Self {
        let (copies, sink) = (TestUpstream::start().await, WebhookSink::start().await);
        let scenario = shadow_scenario(&copies.url(), sink.addr(), route).store(store);
        Self { omni: change(scenario).start().await, copies, sink }
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

    async fn wait_for_count(&self, outcome: &str, count: f64) {
        let what = format!("{count} × {outcome}");
        wait_until(TEST_DEADLINE, &what, async || self.count(outcome).await >= count).await;
        assert_eq!(self.count(outcome).await, count, "{outcome}");
    }
}

async fn copies_are_compared_and_nobody_notices(store: Store) {
    let scene = ShadowScene::start(&store).await;
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
    scene.wait_for_count("match", 11.0).await;

    let seen = scene.omni.upstream().fetch_requests().await.requests;
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
    scene.wait_for_count("queued", 11.0).await;
}

async fn a_copy_that_is_answered_otherwise_is_a_mismatch_told_by_its_place(store: Store) {
    let scene = ShadowScene::start(&store).await;
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
        scene.wait_for_count("mismatch", mismatches).await;
        let logged = scene.omni.logs().lines()[before..].join("\n");
        assert!(logged.contains(at) && !logged.contains("canary-secret"), "no {at} in {logged}");
    }
    scene.wait_for_count("match", 1.0).await;
    let seen = scene.copies.fetch_requests().await.requests;
    assert_eq!(seen.len(), 5, "a copy is tried once: {seen:?}");
    let dead = scene.omni.admin_client();
    wait_until(TEST_DEADLINE, "no dead letter is left", async || {
        dead.get("/admin/v1/dead-letters?topic=t").await.json() == json!([])
    })
    .await;
}

async fn at_the_first_backpressure_copies_are_dropped_and_clients_served(store: Store) {
    let mut scene = ShadowScene::start_with(&store, shadowed_route(), |scenario| {
        // a tenth of the backlog may be copies
        let scenario = scenario.workers(0).yaml("topics.t.max_backlog", 30);
        scenario.yaml("topics.t.timeout", "10m")
    })
    .await;
    for _ in 0..5 {
        assert_eq!(scene.call(json!({})).await.status, 200);
    }
    scene.wait_for_count("backpressure", 2.0).await;
    scene.wait_for_count("queued", 3.0).await;

    // more than a thread has under way
    scene.omni.apply_setting("topics.t.max_backlog", 10000).await;
    for _ in 0..260 {
        assert_eq!(scene.call(json!({})).await.status, 200);
    }
    scene.wait_for_count("queued", 256.0).await;
    scene.wait_for_count("crowded", 7.0).await;
    assert_eq!(scene.omni.upstream().fetch_requests().await.requests.len(), 265);
    scene.omni.send_sigterm();
    assert!(scene.omni.wait_for_exit().await.success(), "nobody waits for copies");
}

async fn what_cannot_be_copied_or_compared_is_counted_by_why(store: Store) {
    let scene = ShadowScene::start(&store).await;
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
    scene.wait_for_count("ineligible", 6.0).await;
    for arguments in [
        json!({"status": 500}),
        json!({"status": 429}),
        json!({"die": "before"}),
        json!({"bytes": 100_000}),
        json!({"headers": [["content-encoding", "x-odd"]]}),
    ] {
        scene.call(arguments).await;
    }
    scene.wait_for_count("unanswered", 3.0).await;
    scene.wait_for_count("too_large", 1.0).await;
    scene.wait_for_count("encoded", 1.0).await;
    scene.wait_for_count("queued", 0.0).await;

    // a copy tells nobody, whatever its envelope says
    let told = envelope(json!({"webhook": scene.sink.url("200"), "reply_to": "later"}));
    assert_eq!(
        HttpResponse::from_request(post(&told)).await.status,
        422,
        "the legacy endpoint knows no envelopes"
    );
    scene.wait_for_count("mismatch", 1.0).await;
    assert_eq!(scene.omni.metric_value("omnidaemon_deliveries_total", &[]).await, 0.0);
    assert_eq!(scene.omni.metric_value("omnidaemon_outbox_depth", &[]).await, 0.0);
    assert!(scene.sink.posts("200").is_empty());
    assert_eq!(scene.copies.fetch_requests().await.requests.len(), 1, "that of the envelope alone");
}

#[tokio::test]
async fn a_copy_that_does_not_end_in_time_is_a_mismatch() {
    let scene = ShadowScene::start_with(&Store::Sqlite, shadowed_route(), |scenario| {
        scenario.workers(0).yaml("topics.t.timeout", "1s")
    })
    .await;
    assert_eq!(scene.call(json!({})).await.status, 200);
    scene.wait_for_count("mismatch", 1.0).await;
    assert!(scene.omni.logs().contains("at=\"deadline\""), "{}", scene.omni.logs().to_text());
    let waiting =
        async || scene.omni.metric_value("omnidaemon_queue_depth", &[("topic", "t")]).await;
    wait_until(TEST_DEADLINE, "it is taken off the queue", async || waiting().await == 0.0).await;
}

#[tokio::test]
async fn a_program_is_told_that_it_runs_a_copy() {
    let script = "echo \"copy=$OMNIDAEMON_SHADOW\" >> <dir>/told; cat";
    let scene = ShadowScene::start_with(&Store::Sqlite, shadowed_route(), |scenario| {
        scenario.yaml("topics.t.handler", json!({"command": ["sh", "-c", script]}))
    })
    .await;
    assert_eq!(scene.call(json!({})).await.status, 200);
    scene.wait_for_count("mismatch", 1.0).await;
    let told = scene.omni.dir().join("told");
    wait_until(TEST_DEADLINE, "the program is told", async || {
        std::fs::read_to_string(&told).is_ok_and(|told| told == "copy=1\n")
    })
    .await;
}

#[tokio::test]
async fn what_goes_async_is_no_shadow_whatever_the_share() {
    let route = shadowed_route().percent(100);
    let scene = ShadowScene::start_with(&Store::Sqlite, route, |scenario| scenario).await;
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
    assert!(scene.omni.upstream().fetch_requests().await.requests.is_empty());
}

#[tokio::test]
async fn clients_that_are_kept_out_or_choose_their_path_are_not_copied() {
    let route = shadowed_route()
        .yaml("rollout.sticky", json!({"keys": ["header:x-client-id"]}))
        .yaml("rollout.pin", json!({"sync": ["billing"]}));
    let scene = ShadowScene::start_with(&Store::Sqlite, route, |scenario| {
        scenario.yaml("proxy.trusted", json!(["127.0.0.0/8"]))
    })
    .await;
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
    scene.wait_for_count("match", 1.0).await;
    scene.wait_for_count("queued", 1.0).await;
    assert_eq!(scene.omni.upstream().fetch_requests().await.requests.len(), 3);
}

#[tokio::test]
async fn a_copy_whose_store_goes_is_lost_and_no_mismatch() {
    let mut redis = RedisServer::start().await;
    let omni = shadow_scenario("http://127.0.0.1:9", "127.0.0.1:9", shadowed_route())
        .redis(&redis)
        .workers(0)
        .yaml("topics.t.timeout", "10s")
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
    let copies = TestUpstream::start().await;
    let omni =
        shadow_scenario(&copies.url(), "127.0.0.1:9", shadowed_route()).redis(&redis).start().await;
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
