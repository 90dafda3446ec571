//! `omnidaemon rollout …`, as an operator types it.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::cli_output::{json_output, stderr, stdout};
use crate::support::prometheus::PrometheusServer;
use crate::support::scenario::{Route, Scenario, route, scenario};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

/// The route `invoke` in a gated rollout towards 50 %.
fn gated_route() -> Route {
    route("invoke")
        .wait("100ms")
        .rollout(json!({"percent": 50, "mode": "gated", "interval": "1s", "soak": "30m"}))
}

/// Runs `omnidaemon rollout ARGS`, which must end with the exit status `code`.
async fn run_rollout(omni: &Omnidaemon, args: &[&str], code: i32) -> Output {
    let output = omni.run_cli(&[&["rollout"], args].concat()).await;
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}{}",
        stdout(&output),
        stderr(&output)
    );
    output
}

/// A server whose rollout soaks at 10 %.
async fn start_soaking() -> Scenario {
    let omni = scenario().route(gated_route()).start().await;
    wait_until(TEST_DEADLINE, "it soaks at 10 %", async || {
        stdout(&omni.run_cli(&["rollout", "status"]).await)
            .starts_with("invoke: soaking, 10 % of 50 %")
    })
    .await;
    omni
}

#[tokio::test]
async fn a_rollout_is_seen_moved_on_and_turned_back() {
    let omni = start_soaking().await;
    let page = stdout(&run_rollout(&omni, &["get"], 0).await);
    for part in [
        "soaking since",
        "10 % runs here, 10 % desired, 50 % allowed, next 25 %",
        "soak, about",
        "of 30 min",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    for part in [
        "GATE",
        "errors",
        "error_ratio",
        "INTERVAL",
        "REPLICA",
        "this one, leads",
        "Next: nothing to do",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains('\x1b'), "no colour where nobody looks: {page}");
    let shown = json_output(&run_rollout(&omni, &["get", "invoke", "--format", "json"], 0).await);
    assert_eq!(shown["waiting_for"], "soak");
    assert!(
        stdout(&run_rollout(&omni, &["explain"], 0).await)
            .starts_with("invoke is at 10 %, next 25 %, percent 50 %, soaking: ")
    );

    run_rollout(&omni, &["status", "--wait", "--until", "step=25", "--timeout", "300ms"], 124)
        .await;
    let promoted = run_rollout(&omni, &["promote", "--reason", "seen enough"], 0).await;
    assert!(stdout(&promoted).contains("weight 25 %"), "{}", stdout(&promoted));
    let reached = run_rollout(
        &omni,
        &["status", "--wait", "--until", "step=25", "--timeout", "30s", "--interval", "100ms"],
        0,
    )
    .await;
    assert!(stdout(&reached).contains("25 % of 50 %"), "{}", stdout(&reached));

    run_rollout(&omni, &["pause", "invoke", "--reason", "lunch"], 0).await;
    assert!(stdout(&run_rollout(&omni, &["status"], 3).await).contains("paused"));
    let refused = run_rollout(&omni, &["promote"], 1).await;
    assert!(stderr(&refused).contains("rollout resume"), "{}", stderr(&refused));
    run_rollout(&omni, &["resume"], 0).await;
    run_rollout(&omni, &["set-weight", "5", "--reason", "carefully"], 0).await;
    run_rollout(&omni, &["set-weight", "invoke", "12.5%"], 0).await;
    let above = run_rollout(&omni, &["set-weight", "60"], 1).await;
    assert!(stderr(&above).contains("routes.invoke.rollout.percent"), "{}", stderr(&above));
    run_rollout(&omni, &["set-weight", "101"], 2).await;
    run_rollout(&omni, &["set-weight", "many"], 2).await;
    run_rollout(&omni, &["abort", "--reason", "it burns"], 0).await;
    run_rollout(&omni, &["status"], 2).await;
    run_rollout(&omni, &["status", "--wait"], 2).await;
    wait_until(TEST_DEADLINE, "it is turned back everywhere, and says what is next", async || {
        let explained = stdout(&run_rollout(&omni, &["explain"], 0).await);
        explained.trim_end().ends_with("Next: omnidaemon rollout retry invoke --reason …")
    })
    .await;
    run_rollout(&omni, &["retry"], 0).await;

    let told = stdout(&run_rollout(&omni, &["history"], 0).await);
    for part in ["promote", "seen enough", "lunch", "carefully", "it burns", "retry", "EVENT", "@"]
    {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let events =
        json_output(&run_rollout(&omni, &["history", "--format", "json", "--limit", "3"], 0).await);
    assert_eq!(events.as_array().map(Vec::len), Some(3), "{events}");
    run_rollout(&omni, &["get", "nope"], 3).await;
    run_rollout(&omni, &["abort", "nope"], 3).await;
}

#[tokio::test]
async fn with_several_routes_one_must_be_named() {
    let omni = scenario().route(gated_route()).route(route("other")).start().await;
    let listed = stdout(&run_rollout(&omni, &["get"], 0).await);
    assert!(
        listed.contains("invoke") && listed.contains("other") && listed.contains("WAITING FOR"),
        "{listed}"
    );
    let unclear = run_rollout(&omni, &["pause"], 2).await;
    assert!(
        stderr(&unclear).contains("invoke") && stderr(&unclear).contains("other"),
        "{}",
        stderr(&unclear)
    );
    run_rollout(&omni, &["status", "other"], 0).await;
}

#[tokio::test]
async fn a_plan_says_what_an_edit_would_do_before_it_is_saved() {
    let omni = start_soaking().await;
    // Slower than `wait`, which is what canaried clients would notice.
    for _ in 0..3 {
        let call = json!({"task": "t", "arguments": {"sleep_ms": 300}});
        let request = omni
            .data_client()
            .request(http::Method::POST, "/invoke")
            .header("x-omnidaemon-path", "sync")
            .json(&call);
        crate::support::http::client::HttpResponse::from_request(request).await;
    }
    let file = omni.dir().join("edited.yaml");
    let path = file.to_str().expect("UTF-8");
    let edit = |key: &str, value: Value| {
        let mut config = omni.read_config();
        config.set(&format!("routes.invoke.rollout.{key}"), value);
        fs::write(&file, config.to_text()).expect("it can be written");
    };
    let plan = async |key: &str, value: Value| {
        edit(key, value);
        stdout(&run_rollout(&omni, &["plan", path], 0).await)
    };
    let same = stdout(&run_rollout(&omni, &["plan"], 0).await);
    assert!(same.contains("invoke: nothing changes"), "{same}");
    let up = plan("percent", json!(100)).await;
    for part in [
        "percent 50 % → 100 %: climbs 25 % (soak 30 min), then 50 %",
        "stays 10 % until its gates pass",
    ] {
        assert!(up.contains(part), "no {part:?} in {up}");
    }
    assert!(plan("percent", json!(5)).await.contains("from 10 % to 5 % at once"));
    assert!(
        plan("gates", json!([{"name": "e2e", "type": "error_ratio", "max": "1%"}]))
            .await
            .contains("+ e2e, - errors")
    );
    assert!(
        plan("mode", json!("manual")).await.contains("the weight jumps from 10 % to 50 % at once")
    );
    let slow = plan("percent", json!(60)).await;
    assert!(slow.contains("wait 100 ms: about") && slow.contains("would get a 202"), "{slow}");
    edit("percent", json!(500));
    assert!(
        stderr(&run_rollout(&omni, &["plan", path], 2).await)
            .contains("routes.invoke.rollout.percent")
    );
    assert_eq!(
        json_output(&run_rollout(&omni, &["get", "--format", "json"], 0).await)["percent"],
        50.0,
        "nothing was done"
    );
}

#[tokio::test]
async fn lint_tries_the_queries_and_names_what_is_not_there() {
    let prometheus = PrometheusServer::start().await;
    let omni = start_soaking().await;
    prometheus.scrape_targets(&[omni.admin_url("").trim_start_matches("http://").to_owned()]).await;
    let gates = |list: Value| {
        let mut config = omni.read_config();
        config.set("routes.invoke.rollout.prometheus", json!({"url": prometheus.url()}));
        config.set("routes.invoke.rollout.gates", list);
        fs::write(omni.dir().join("lint.yaml"), config.to_text()).expect("it can be written");
    };
    let lint = ["lint", "lint.yaml"];
    let gate = |name: &str, query: &str| {
        let mut gate = json!({"type": "prometheus", "max": 30});
        gate["name"] = json!(name);
        gate["query"] = json!(query);
        gate
    };
    let lag = gate("lag", "max(omnidaemon_queue_oldest_seconds)");
    gates(json!([lag]));
    let well = stdout(&run_rollout(&omni, &lint, 0).await);
    assert!(well.contains("lag") && well.contains("ok") && well.contains(" 0"), "{well}");

    let mut rare = gate("rare", "max(up{job=\"nobody\"})");
    rare["on_empty"] = json!("pass");
    gates(json!([
        lag,
        gate("typo", "max(omnidaemon_queue_oldest_second)"),
        gate("many", "omnidaemon_requests_total"),
        gate("syntax", "max("),
        gate("label", "max(up{job=\"nobody\"})"),
        rare,
    ]));
    let found =
        json_output(&run_rollout(&omni, &["lint", "lint.yaml", "--format", "json"], 1).await);
    let detail = |gate: &str| {
        let all = found.as_array().expect("a list");
        let one = all
            .iter()
            .find(|one| one["gate"] == gate)
            .unwrap_or_else(|| panic!("no {gate} in {found}"));
        (one["ok"].as_bool().expect("a bool"), one["detail"].as_str().expect("a text").to_owned())
    };
    assert_eq!(detail("lag"), (true, String::new()));
    let typo = detail("typo");
    assert!(
        !typo.0
            && typo.1.contains(
                "there is no metric omnidaemon_queue_oldest_second: did you mean \
                    omnidaemon_queue_oldest_seconds?"
            ),
        "{typo:?}"
    );
    assert!(!detail("many").0 && detail("many").1.contains("series"), "{:?}", detail("many"));
    assert!(
        !detail("syntax").0 && detail("syntax").1.contains("parse error"),
        "{:?}",
        detail("syntax")
    );
    assert!(!detail("label").0 && detail("label").1.contains("on_empty"), "{:?}", detail("label"));
    assert!(detail("rare").0, "{:?}", detail("rare"));

    let url = prometheus.url();
    drop(prometheus);
    let refused = stdout(&run_rollout(&omni, &lint, 1).await);
    assert!(refused.contains(&url) && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn the_exit_codes_of_status_are_in_its_help() {
    let output = crate::support::cli_output::cli_command(
        &std::env::temp_dir(),
        &["rollout", "status", "--help"],
    )
    .output()
    .expect("it runs");
    for part in ["124", "rolled back", "paused"] {
        assert!(stdout(&output).contains(part), "no {part:?} in {}", stdout(&output));
    }
}
