//! `/admin/v1/rollouts`: how rollouts stand and why, what is ordered and refused, what is told of
//! changes, and who still calls.

use futures_util::StreamExt as _;
use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Scenario, route, scenario};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

async fn start(store: &Store) -> Scenario {
    let route = route("invoke")
        .percent(10)
        .yaml("rollout.sticky", json!({"keys": ["header:x-client-id"]}))
        .yaml("deprecation", json!({"mode": "none", "successor": "/invoke/async"}));
    scenario().store(store).route(route).start().await
}

async fn fetch_rollout(omni: &Omnidaemon) -> Value {
    omni.admin_client().get("/admin/v1/rollouts/invoke").await.json()
}

async fn send_command(omni: &Omnidaemon, verb: &str, body: Value) -> (u16, Value) {
    let answer =
        omni.admin_client().post(&format!("/admin/v1/rollouts/invoke/{verb}"), &body).await;
    (answer.status.as_u16(), answer.json())
}

async fn wait_for_weight(omni: &Omnidaemon, weight: f64) {
    wait_until(TEST_DEADLINE, "it runs the weight", async || {
        fetch_rollout(omni).await["weight"] == weight
    })
    .await;
}

on_both_stores!(
    orders_are_followed_recorded_and_refused_with_the_way_out,
    who_still_calls_a_deprecated_route_is_known_and_gone_warns_of_them,
);

async fn orders_are_followed_recorded_and_refused_with_the_way_out(store: Store) {
    let omni = start(&store).await;
    wait_for_weight(&omni, 10.0).await;

    let (status, done) = send_command(
        &omni,
        "set-weight",
        json!({"weight": 5, "reason": "half of it", "actor": "ada@ops"}),
    )
    .await;
    assert_eq!(
        (status, &done["weight"], &done["by"], &done["held"]),
        (200, &json!(5.0), &json!("ada@ops"), &json!(true)),
        "{done}"
    );
    wait_for_weight(&omni, 5.0).await;
    let held = fetch_rollout(&omni).await;
    assert_eq!((&held["waiting_for"], &held["held"]), (&json!("operator"), &json!(true)), "{held}");
    assert!(
        held["explain"]
            .as_str()
            .is_some_and(|text| text.contains("ada@ops set the weight to 5 % because half of it")),
        "{held}"
    );
    assert_eq!(held["to_do"], "omnidaemon rollout resume invoke --reason …");

    for (verb, body, expected, way_out) in [
        ("set-weight", json!({"weight": 50}), 409, "routes.invoke.rollout.percent"),
        ("set-weight", json!({"weight": 101}), 422, "from 0 to 100"),
        ("set-weight", json!({"weight": 5, "weigth": 6}), 422, "weigth"),
        ("pause", json!({"weight": 5}), 422, "set-weight does"),
        ("retry", json!({}), 409, "not rolled back"),
        ("push", json!({}), 404, "set-weight"),
    ] {
        let (status, problem) = send_command(&omni, verb, body).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == expected && detail.contains(way_out), "{verb}: {status} {problem}");
    }
    let elsewhere = omni.admin_client().post("/admin/v1/rollouts/nope/abort", &json!({})).await;
    assert_eq!(elsewhere.status, 404);
    assert!(elsewhere.text().contains("invoke"), "{}", elsewhere.text());

    let aborted = HttpResponse::from_request(
        omni.admin_client().request(Method::POST, "/admin/v1/rollouts/invoke/abort"),
    )
    .await;
    assert_eq!(
        (aborted.status.as_u16(), &aborted.json()["by"]),
        (200, &json!("unknown")),
        "no body is needed"
    );
    wait_for_weight(&omni, 0.0).await;
    let (status, problem) = send_command(&omni, "pause", json!({})).await;
    assert!(
        status == 409 && problem["detail"].as_str().is_some_and(|detail| detail.contains("retry")),
        "{problem}"
    );
    let (status, done) = send_command(&omni, "retry", json!({"reason": "fixed"})).await;
    assert_eq!(status, 200, "{done}");
    wait_for_weight(&omni, 10.0).await;

    let history = async |query: &str| {
        let answer =
            omni.admin_client().get(&format!("/admin/v1/rollouts/invoke/history{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let whole = history("").await;
    let events: Vec<(&str, &str, &str)> = whole["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| {
            ["event", "by", "reason"].map(|field| event[field].as_str().expect("a text")).into()
        })
        .collect();
    for expected in [
        ("set-weight", "ada@ops", "half of it"),
        ("abort", "unknown", ""),
        ("retry", "unknown", "fixed"),
    ] {
        assert!(events.contains(&expected), "no {expected:?} in {events:?}");
    }
    let newest = history("?limit=1").await;
    assert_eq!(newest["events"][0], whole["events"][0]);
    let next = newest["next"].as_str().expect("there is more");
    assert_eq!(history(&format!("?limit=1&before={next}")).await["events"][0], whole["events"][1]);
}

async fn who_still_calls_a_deprecated_route_is_known_and_gone_warns_of_them(store: Store) {
    let mut omni = start(&store).await;
    let call = async |omni: &Omnidaemon, header: &str, value: &str| {
        let request = omni
            .data_client()
            .request(Method::POST, "/invoke")
            .header(header, value)
            .json(&json!({"task": "t"}));
        HttpResponse::from_request(request).await.status.as_u16()
    };
    assert_eq!(call(&omni, "x-client-id", "before").await, 200);
    omni.apply_setting("routes.invoke.deprecation.mode", "announce").await;
    for (header, value) in [
        ("x-client-id", "billing"),
        ("x-client-id", "billing"),
        ("authorization", "Bearer canary-secret"),
        ("user-agent", "old-batch/1.2"),
    ] {
        assert_eq!(call(&omni, header, value).await, 200);
    }
    let clients = async |omni: &Omnidaemon| {
        omni.admin_client().get("/admin/v1/rollouts/invoke/clients").await
    };
    let known = wait_for_some(TEST_DEADLINE, "three callers are known", async || {
        let known = clients(&omni).await.json();
        known["clients"].as_array().is_some_and(|known| known.len() == 3).then_some(known)
    })
    .await;
    let calls = |who: &str| {
        let known = known["clients"].as_array().expect("a list");
        known
            .iter()
            .find(|client| client["client"].as_str().is_some_and(|name| name.contains(who)))
            .map(|client| client["calls"].clone())
    };
    assert_eq!(
        (calls("billing"), calls("old-batch/1.2 (127.0.0.1)"), calls("key ")),
        (Some(json!(2)), Some(json!(1)), Some(json!(1)))
    );
    assert!(!known.to_string().contains("canary-secret") && calls("before").is_none(), "{known}");

    let shown = omni.run_cli(&["rollout", "clients"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("billing") && shown.contains("CALLS"), "{shown}");
    let gone = omni.dir().join("gone.yaml");
    let mut config = omni.read_config();
    config.set("routes.invoke.deprecation.mode", "gone");
    std::fs::write(&gone, config.to_text()).expect("it can be written");
    let plan = omni.run_cli(&["rollout", "plan", gone.to_str().expect("UTF-8")]).await;
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        plan.contains("3 clients called it in the last 7 days") && plan.contains("billing"),
        "{plan}"
    );

    let before = omni.logs().len();
    omni.save_setting("routes.invoke.deprecation.mode", "gone");
    let warned = omni
        .process()
        .wait_for_log("the warning", before, |line| {
            line.contains("get 410 from now on").then(|| line.to_owned())
        })
        .await;
    assert!(warned.contains("clients=3") && warned.contains("billing"), "{warned}");
    assert_eq!(call(&omni, "x-client-id", "billing").await, 410);
    wait_until(TEST_DEADLINE, "calls of a gone route count as well", async || {
        let known = clients(&omni).await.json();
        known["clients"]
            .as_array()
            .is_some_and(|known| known.iter().any(|client| client["calls"] == 3))
    })
    .await;
}

#[tokio::test]
async fn a_rollout_is_shown_with_all_that_is_known_of_it() {
    let omni = start(&Store::Sqlite).await;
    wait_for_weight(&omni, 10.0).await;
    let told = fetch_rollout(&omni).await;
    for (field, value) in [
        ("route", json!("invoke")),
        ("mode", json!("manual")),
        ("phase", json!("manual")),
        ("weight", json!(10.0)),
        ("desired", json!(10.0)),
        ("percent", json!(10.0)),
        ("deprecation", json!("none")),
        ("waiting_for", json!("percent")),
        ("held", json!(false)),
        ("store", json!(true)),
        ("pause_reason", Value::Null),
    ] {
        assert_eq!(told[field], value, "{field} in {told:#}");
    }
    assert!(
        told["since"].as_str().is_some_and(|since| since.starts_with("20"))
            && told["epoch"].is_u64(),
        "{told:#}"
    );
    let gates: Vec<&Value> =
        told["gates"].as_array().expect("a list").iter().map(|gate| &gate["gate"]).collect();
    assert_eq!(gates, ["errors", "client_errors", "deferred", "latency"]);
    assert_eq!(told["plan"]["steps"].as_array().map(Vec::len), Some(4));
    wait_until(TEST_DEADLINE, "this process is a replica, and leads", async || {
        let replicas = fetch_rollout(&omni).await["replicas"].clone();
        replicas
            .as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["this"] == true && all[0]["leader"] == true)
    })
    .await;
    let list = omni.admin_client().get("/admin/v1/rollouts").await.json();
    assert_eq!(list[0]["route"], "invoke");
    let status = omni.admin_client().get("/admin/v1/status").await.json();
    assert_eq!(
        (&status["rollouts"][0]["phase"], &status["rollouts"][0]["weight"]),
        (&json!("manual"), &json!(10.0))
    );
    assert_eq!(
        omni.metric_value("omnidaemon_gate_verdict", &[("route", "invoke"), ("gate", "errors")])
            .await,
        0.0
    );

    let config = omni.admin_client().get("/admin/v1/config").await.json();
    assert_eq!(
        (&config["routes"][0]["rollout"]["percent"], &config["topics"][0]["handler"]),
        (&json!(10.0), &json!("upstream"))
    );
    assert!(
        config["file"].as_str().is_some_and(|file| file.ends_with("omnidaemon.yaml")),
        "{config}"
    );

    let text = omni.admin_client().get("/admin/v1/rollouts/invoke/explain").await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        text.text().contains("Next: edit routes.invoke.rollout.percent in "),
        "{}",
        text.text()
    );
    let asked = omni
        .admin_client()
        .request(Method::GET, "/admin/v1/rollouts/invoke/explain")
        .header("accept", "application/json");
    let document = HttpResponse::from_request(asked).await.json();
    assert_eq!(
        (&document["waiting_for"], document["explain"].as_str()),
        (&json!("percent"), Some(text.text().trim_end()))
    );
    assert_eq!(omni.admin_client().get("/admin/v1/rollouts/nope/explain").await.status, 404);
}

/// The next event of a stream: its data.
async fn next(
    stream: &mut (impl futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin),
    text: &mut String,
) -> Value {
    loop {
        if let Some((event, rest)) = text.split_once("\n\n") {
            let data =
                event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
            let named = event.lines().any(|line| line == "event: rollout");
            let rest = rest.to_owned();
            *text = rest;
            if let Some(data) = data.filter(|_| named) {
                return serde_json::from_str(&data).expect("JSON");
            }
        } else {
            let more = tokio::time::timeout(TEST_DEADLINE, stream.next())
                .await
                .expect("more comes in good time");
            text.push_str(
                std::str::from_utf8(&more.expect("it goes on").expect("it can be read"))
                    .expect("UTF-8"),
            );
        }
    }
}

#[tokio::test]
async fn changes_are_streamed_as_events_until_the_server_drains() {
    let mut omni = start(&Store::Sqlite).await;
    wait_for_weight(&omni, 10.0).await;
    let asked = omni.admin_client().request(Method::GET, "/admin/v1/rollouts/invoke/events");
    let response = asked.send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut stream, mut text) = (Box::pin(response.bytes_stream()), String::new());
    assert_eq!(
        next(&mut stream, &mut text).await["route"],
        "invoke",
        "how it stands is told at first"
    );
    assert_eq!(
        send_command(&omni, "set-weight", json!({"weight": 5, "actor": "ada"})).await.0,
        200
    );
    loop {
        let event = next(&mut stream, &mut text).await;
        if event["weight"] == 5.0 && event["by"] == "ada" {
            break;
        }
    }
    omni.send_sigterm();
    let rest = tokio::time::timeout(TEST_DEADLINE, async {
        while stream.next().await.is_some_and(|piece| piece.is_ok()) {}
    });
    rest.await.expect("the stream ends with the server");
    assert!(omni.wait_for_exit().await.success());
}
