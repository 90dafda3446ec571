//! A request with an `Idempotency-Key` is run once, on either path.

use http::Method;
use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

async fn start(store: &Store, upstream: &TestUpstream, percent: u8) -> Scenario {
    let omni = scenario()
        .store(store)
        .upstream(upstream)
        .wait("20s")
        .percent(percent)
        .topic(topic("t").retries(0).timeout("30s"))
        .workers(4)
        .yaml("results.max_result", "64KiB")
        .start()
        .await;
    // A server that was killed on the same Redis before leads for another ten seconds.
    let weight =
        async || omni.metric_value("omnidaemon_rollout_weight", &[("route", "invoke")]).await;
    let applies = async || weight().await == f64::from(percent);
    wait_until(TEST_DEADLINE, "the configured percentage applies", applies).await;
    omni
}

/// `POST path` with a key.
async fn post_with_key(omni: &Omnidaemon, path: &str, key: &str, body: &Value) -> HttpResponse {
    HttpResponse::from_request(
        omni.data_client().request(Method::POST, path).header("idempotency-key", key).json(body),
    )
    .await
}

fn is_replayed(answer: &HttpResponse) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

async fn count_invoke_requests(upstream: &TestUpstream) -> usize {
    upstream
        .fetch_requests()
        .await
        .requests
        .iter()
        .filter(|request| request.path == "/invoke")
        .count()
}

on_both_stores!(
    a_repeat_gets_the_first_answer_on_either_path,
    a_repeat_in_flight_waits_for_the_first,
    a_repeated_submission_gets_the_same_task,
    what_failed_may_be_tried_again,
    an_answer_too_large_to_keep_is_not_run_again,
    a_request_that_is_given_up_frees_its_key,
);

async fn a_repeat_gets_the_first_answer_on_either_path(store: Store) {
    let upstream = TestUpstream::start().await;
    for (percent, path) in [(0, "sync"), (100, "async")] {
        upstream.clear_requests().await;
        let omni = start(&store, &upstream, percent).await;
        let ask = json!({"task": "t", "arguments": {"status": 201, "headers": [["x-tag", "a"]]}});
        let key = format!("key-{percent}");
        let first = post_with_key(&omni, "/invoke", &key, &ask).await;
        assert_eq!(
            (first.status.as_u16(), first.header("x-omnidaemon-path")),
            (201, Some(path)),
            "{}",
            first.text()
        );
        assert!(!is_replayed(&first));
        let again = post_with_key(&omni, "/invoke", &key, &ask).await;
        assert!(is_replayed(&again), "{again:?}");
        assert_eq!(
            (again.status, &again.body, again.header("x-tag")),
            (first.status, &first.body, Some("a"))
        );
        assert_eq!(again.header("x-omnidaemon-path"), Some(path));
        let other = post_with_key(&omni, "/invoke", &key, &json!({"task": "another"})).await;
        assert_eq!(
            (other.status.as_u16(), &other.json()["type"]),
            (422, &json!("urn:omnidaemon:problem:idempotency-key-reused"))
        );
        assert_eq!(count_invoke_requests(&upstream).await, 1);
        // Another API key's key is another key; so is another key, and none.
        let mine = omni
            .data_client()
            .request(Method::POST, "/invoke")
            .header("idempotency-key", &key)
            .header("x-api-key", "s");
        assert!(!is_replayed(&HttpResponse::from_request(mine.json(&ask)).await));
        assert!(!is_replayed(
            &post_with_key(&omni, "/invoke", &format!("another-{percent}"), &ask).await
        ));
        assert!(!is_replayed(&omni.data_client().post("/invoke", &ask).await));
        assert_eq!(count_invoke_requests(&upstream).await, 4);
        let counted = |outcome: &'static str| [("route", "invoke"), ("outcome", outcome)];
        let metrics = omni.scrape_metrics().await;
        for (outcome, count) in
            [("claimed", 3.0), ("replayed", 1.0), ("mismatch", 1.0), ("unclaimed", 0.0)]
        {
            assert_eq!(
                metrics.value("omnidaemon_idempotent_requests_total", &counted(outcome)),
                count,
                "{outcome}"
            );
        }
        drop(omni);
    }
}

async fn a_repeat_in_flight_waits_for_the_first(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, 0).await;
    let slow = json!({"task": "t", "arguments": {"sleep_ms": 1500}});
    let both = async || post_with_key(&omni, "/invoke", "k", &slow).await;
    let (one, two) = tokio::join!(both(), both());
    assert_eq!((one.status.as_u16(), &one.body), (200, &two.body));
    assert!(is_replayed(&one) != is_replayed(&two), "one ran, one was given its answer");
    assert_eq!(count_invoke_requests(&upstream).await, 1);

    let endless = json!({"task": "t", "arguments": {"sleep_ms": 20_000}});
    let client = omni.data_client();
    let (url, body) = (omni.data_url("/invoke"), endless.clone());
    let first = tokio::spawn(async move {
        client
            .request(Method::POST, "/invoke")
            .header("idempotency-key", "long")
            .json(&body)
            .send()
            .await
    });
    wait_until(TEST_DEADLINE, "the first is under way", async || {
        count_invoke_requests(&upstream).await == 2
    })
    .await;
    let impatient = omni
        .data_client()
        .request(Method::POST, "/invoke")
        .header("idempotency-key", "long")
        .header("prefer", "wait=1");
    let conflict = HttpResponse::from_request(impatient.json(&endless)).await;
    assert_eq!(
        (conflict.status.as_u16(), conflict.header("retry-after")),
        (409, Some("1")),
        "{url}"
    );
    first.abort();
}

async fn a_repeated_submission_gets_the_same_task(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, 0).await;
    let ask = json!({"task": "t"});
    let first = post_with_key(&omni, "/invoke/async", "k", &ask).await;
    assert_eq!(first.status, 202, "{}", first.text());
    let again = post_with_key(&omni, "/invoke/async", "k", &ask).await;
    assert_eq!((again.status.as_u16(), &again.body), (202, &first.body));
    assert!(is_replayed(&again) && !is_replayed(&first));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(post_with_key(&omni, "/invoke/async", "k", &json!({"task": "u"})).await.status, 422);
    let poll = first.header("location").expect("where to poll").to_owned();
    wait_until(TEST_DEADLINE, "the task ran", async || {
        omni.data_client().get(&poll).await.json()["status"] == "completed"
    })
    .await;
    assert_eq!(
        post_with_key(&omni, "/invoke/async", "k", &ask).await.body,
        first.body,
        "and after its end"
    );
    assert_eq!(count_invoke_requests(&upstream).await, 1);
    assert_eq!(
        upstream.fetch_requests().await.by_key["k"],
        1,
        "the upstream gets the client's key"
    );
}

async fn what_failed_may_be_tried_again(store: Store) {
    let upstream = TestUpstream::start().await;
    for percent in [0, 100] {
        upstream.clear_requests().await;
        let omni = start(&store, &upstream, percent).await;
        let ask = json!({"task": "t", "arguments": {"fail_first": 1}});
        let key = format!("key-{percent}");
        let first = post_with_key(&omni, "/invoke", &key, &ask).await;
        assert_eq!((first.status.as_u16(), is_replayed(&first)), (503, false), "{}", first.text());
        let second = post_with_key(&omni, "/invoke", &key, &ask).await;
        assert_eq!(
            (second.status.as_u16(), is_replayed(&second)),
            (200, false),
            "{}",
            second.text()
        );
        let third = post_with_key(&omni, "/invoke", &key, &ask).await;
        assert_eq!((third.status.as_u16(), is_replayed(&third)), (200, true), "{}", third.text());
        assert_eq!(count_invoke_requests(&upstream).await, 2);
    }
}

async fn an_answer_too_large_to_keep_is_not_run_again(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, 0).await;
    let ask = json!({"task": "t", "arguments": {"bytes": 100_000}});
    let first = post_with_key(&omni, "/invoke", "k", &ask).await;
    assert_eq!(first.status, 200);
    assert!(first.body.len() > 100_000, "the client gets it whole");
    let again = post_with_key(&omni, "/invoke", "k", &ask).await;
    assert_eq!(
        (again.status.as_u16(), &again.json()["type"]),
        (409, &json!("urn:omnidaemon:problem:idempotent-answer-not-kept"))
    );
    assert_eq!(count_invoke_requests(&upstream).await, 1);
}

async fn a_request_that_is_given_up_frees_its_key(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, 0).await;
    let broken = json!({"task": "t", "arguments": {"die": "body"}});
    let request = omni
        .data_client()
        .request(Method::POST, "/invoke")
        .header("idempotency-key", "k")
        .json(&broken);
    assert!(HttpResponse::try_from_request(request).await.is_err(), "the answer broke off");
    let request = omni
        .data_client()
        .request(Method::POST, "/invoke")
        .header("idempotency-key", "k")
        .json(&broken);
    assert!(
        HttpResponse::try_from_request(request).await.is_err(),
        "and is not given as a whole one"
    );
    assert_eq!(count_invoke_requests(&upstream).await, 2);
}

/// As an enqueue that was never answered leaves it, where the claim could not be given up either.
#[tokio::test]
async fn a_repeat_whose_task_was_cancelled_gets_a_new_one() {
    let (server, upstream) = (RedisServer::start().await, TestUpstream::start().await);
    let mut redis = server.connect().await;
    let store = Store::Redis(server);
    let omni = start(&store, &upstream, 100).await;
    for path in ["/invoke/async", "/invoke"] {
        let body = json!({"task": path, "arguments": {"sleep_ms": 20_000}});
        let submit = async || {
            let request =
                omni.data_client().request(Method::POST, path).header("idempotency-key", "k");
            let answer =
                HttpResponse::from_request(request.header("prefer", "wait=1").json(&body)).await;
            assert_eq!(answer.status, 202, "{path}: {}", answer.text());
            let poll = answer.header("location").expect("where to poll").to_owned();
            (poll, is_replayed(&answer))
        };
        let (poll, _) = submit().await;
        assert_eq!(submit().await, (poll.clone(), true));
        assert_eq!(omni.data_client().delete(&poll).await.status, 200);
        let claim: String =
            redis.keys::<_, Vec<String>>("omni:idem:*").await.expect("answers").remove(0);
        let _: i64 = redis.hdel(&claim, "state").await.expect("answers");
        let () = redis
            .hset_multiple(&claim, &[("holder", "dead"), ("lease", "0")])
            .await
            .expect("answers");
        let (anew, replayed) = submit().await;
        assert!(anew != poll && !replayed, "{path}: {anew}");
        assert_ne!(omni.data_client().get(&anew).await.json()["status"], "cancelled");
        assert_eq!(submit().await, (anew, true));
        let _: i64 = redis.del(&claim).await.expect("answers");
    }
}
