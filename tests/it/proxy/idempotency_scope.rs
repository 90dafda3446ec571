//! An idempotency key belongs to its caller: no user gets an answer that was stored for another.

use http::Method;
use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TestUpstream};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
idempotency: {<cookies>}
routes:
  sync: {path: /invoke, topic: t, rollout: {percent: 0, mode: manual}}
  async: {path: /build, topic: t, wait: 20s, rollout: {percent: 100, mode: manual}}
topics:
  t: {handler: upstream, retries: 0}
workers: {count: 2}
";

async fn start(store: &Store, upstream: &TestUpstream, cookies: &str) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", store.url())
        .set_placeholder("cookies", cookies)
        .start()
        .await
}

/// Posts under one key as the user with these headers; whether the answer was a stored one.
async fn is_replayed(omni: &Omnidaemon, path: &str, user: &[(&str, &str)]) -> bool {
    let body = json!({"task": "t", "arguments": {}});
    let request = omni.data_client().request(Method::POST, path).header("idempotency-key", "k");
    let request = user.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = HttpResponse::from_request(request.json(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("idempotent-replayed") == Some("true")
}

on_both_stores!(
    two_users_who_differ_by_cookie_shared_a_stored_answer,
    a_named_cookie_alone_tells_callers_apart,
    http2_cookies_in_parts_are_one_user,
);

async fn two_users_who_differ_by_cookie_shared_a_stored_answer(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, "").await;
    for path in ["/invoke", "/build"] {
        let users: [&[(&str, &str)]; 8] = [
            &[],
            &[("cookie", "sid=a")],
            &[("cookie", "sid=b")],
            &[("cookie", "sid=a; sid=b")],
            &[("cookie", "sid=b; sid=a")],
            &[("cookie", "sid=a"), ("authorization", "Bearer one")],
            &[("authorization", "Bearer one")],
            &[("authorization", "Bearer one"), ("x-api-key", "two")],
        ];
        for user in users {
            assert!(!is_replayed(&omni, path, user).await, "{path} {user:?}: first call");
        }
        for user in users {
            assert!(is_replayed(&omni, path, user).await, "{path} {user:?}: repeated call");
        }
        // The same user, whose client sends the cookies otherwise.
        assert!(!is_replayed(&omni, path, &[("cookie", "sid=c; lang=de")]).await);
        for same in [
            &[("cookie", "lang=de; sid=c")][..],
            &[("cookie", "lang=de"), ("cookie", "sid=c")],
            &[("cookie", "sid=c;lang=de")],
        ] {
            assert!(is_replayed(&omni, path, same).await, "{path} {same:?}");
        }
    }
}

async fn a_named_cookie_alone_tells_callers_apart(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, "cookies: [sid]").await;
    let user = |cookie: &'static str| [("cookie", cookie)];
    assert!(!is_replayed(&omni, "/invoke", &user("track=1; sid=a")).await);
    assert!(is_replayed(&omni, "/invoke", &user("sid=a; track=2")).await);
    assert!(!is_replayed(&omni, "/invoke", &user("sid=b; track=1")).await);
    assert!(!is_replayed(&omni, "/invoke", &user("sidx=a")).await, "it has no such cookie");
    assert!(is_replayed(&omni, "/invoke", &[]).await, "nor has this one");
}

async fn http2_cookies_in_parts_are_one_user(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(&store, &upstream, "").await;
    let http2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client without TLS can be built");
    let echo = http2
        .post(omni.data_url("/echo"))
        .header("cookie", "sid=a")
        .header("cookie", "lang=de")
        .body("x");
    let echo = HttpResponse::from_request(echo).await.json();
    let arrived: Vec<_> = echo["headers"]
        .as_array()
        .expect("headers")
        .iter()
        .filter(|pair| pair[0] == "cookie")
        .map(|pair| pair[1].clone())
        .collect();
    assert_eq!(arrived, ["sid=a; lang=de"], "an HTTP/1.1 server reads the first field alone");

    let body = json!({"task": "t", "arguments": {}});
    let call = |cookies: &[&str]| {
        let request = http2.post(omni.data_url("/invoke")).header("idempotency-key", "k");
        let request = cookies.iter().fold(request, |request, one| request.header("cookie", *one));
        HttpResponse::from_request(request.json(&body))
    };
    assert_eq!(call(&["sid=a", "lang=de"]).await.header("idempotent-replayed"), None);
    for same in [&["lang=de", "sid=a"][..], &["sid=a; lang=de"]] {
        assert_eq!(call(same).await.header("idempotent-replayed"), Some("true"), "{same:?}");
    }
    assert_eq!(call(&["sid=b", "lang=de"]).await.header("idempotent-replayed"), None);
}
