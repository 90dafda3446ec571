//! `omnidaemon rollout …`, as an operator types it.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::prometheus::PrometheusServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke:
    path: /invoke
    topic: t
    wait: 100ms
    rollout: {percent: 50, mode: gated, interval: 1s, soak: 30m}
topics:
  t: {handler: upstream}
";

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}

/// Runs a command and wants this exit status.
async fn ended(omni: &Omnidaemon, args: &[&str], code: i32) -> Output {
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

/// One that soaks at 10 %.
async fn soaking() -> (TestUpstream, Omnidaemon) {
    let upstream = TestUpstream::start().await;
    let omni = Omnidaemon::with_config(CONFIG).with_upstream(&upstream).start().await;
    wait_until(TEST_DEADLINE, "it soaks at 10 %", async || {
        stdout(&omni.run_cli(&["rollout", "status"]).await)
            .starts_with("invoke: soaking, 10 % of 50 %")
    })
    .await;
    (upstream, omni)
}

#[tokio::test]
async fn a_rollout_is_seen_moved_on_and_turned_back() {
    let (_upstream, omni) = soaking().await;
    let page = stdout(&ended(&omni, &["get"], 0).await);
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
    assert_eq!(
        json_of(&ended(&omni, &["get", "invoke", "--format", "json"], 0).await)["waiting_for"],
        "soak"
    );
    assert!(
        stdout(&ended(&omni, &["explain"], 0).await)
            .starts_with("invoke is at 10 %, next 25 %, percent 50 %, soaking: ")
    );

    ended(&omni, &["status", "--wait", "--until", "step=25", "--timeout", "300ms"], 124).await;
    let promoted = ended(&omni, &["promote", "--reason", "seen enough"], 0).await;
    assert!(stdout(&promoted).contains("weight 25 %"), "{}", stdout(&promoted));
    let reached = ended(
        &omni,
        &["status", "--wait", "--until", "step=25", "--timeout", "30s", "--interval", "100ms"],
        0,
    )
    .await;
    assert!(stdout(&reached).contains("25 % of 50 %"), "{}", stdout(&reached));

    ended(&omni, &["pause", "invoke", "--reason", "lunch"], 0).await;
    assert!(stdout(&ended(&omni, &["status"], 3).await).contains("paused"));
    let refused = ended(&omni, &["promote"], 1).await;
    assert!(stderr(&refused).contains("rollout resume"), "{}", stderr(&refused));
    ended(&omni, &["resume"], 0).await;
    ended(&omni, &["set-weight", "5", "--reason", "carefully"], 0).await;
    ended(&omni, &["set-weight", "invoke", "12.5%"], 0).await;
    let above = ended(&omni, &["set-weight", "60"], 1).await;
    assert!(stderr(&above).contains("routes.invoke.rollout.percent"), "{}", stderr(&above));
    ended(&omni, &["set-weight", "101"], 2).await;
    ended(&omni, &["set-weight", "many"], 2).await;
    ended(&omni, &["abort", "--reason", "it burns"], 0).await;
    ended(&omni, &["status"], 2).await;
    ended(&omni, &["status", "--wait"], 2).await;
    wait_until(TEST_DEADLINE, "it is turned back everywhere, and says what is next", async || {
        let explained = stdout(&ended(&omni, &["explain"], 0).await);
        explained.trim_end().ends_with("Next: omnidaemon rollout retry invoke --reason …")
    })
    .await;
    ended(&omni, &["retry"], 0).await;

    let told = stdout(&ended(&omni, &["history"], 0).await);
    for part in ["promote", "seen enough", "lunch", "carefully", "it burns", "retry", "EVENT", "@"]
    {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let events = json_of(&ended(&omni, &["history", "--format", "json", "--limit", "3"], 0).await);
    assert_eq!(events.as_array().map(Vec::len), Some(3), "{events}");
    ended(&omni, &["get", "nope"], 3).await;
    ended(&omni, &["abort", "nope"], 3).await;
}

#[tokio::test]
async fn with_several_routes_one_must_be_named() {
    let upstream = TestUpstream::start().await;
    let second =
        "routes:\n  other: {path: /other, topic: t, rollout: {percent: 0, mode: manual}}\n";
    let omni = Omnidaemon::with_config(&CONFIG.replace("routes:\n", second))
        .with_upstream(&upstream)
        .start()
        .await;
    let listed = stdout(&ended(&omni, &["get"], 0).await);
    assert!(
        listed.contains("invoke") && listed.contains("other") && listed.contains("WAITING FOR"),
        "{listed}"
    );
    let unclear = ended(&omni, &["pause"], 2).await;
    assert!(
        stderr(&unclear).contains("invoke") && stderr(&unclear).contains("other"),
        "{}",
        stderr(&unclear)
    );
    ended(&omni, &["status", "other"], 0).await;
}

#[tokio::test]
async fn a_plan_says_what_an_edit_would_do_before_it_is_saved() {
    let (_upstream, omni) = soaking().await;
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
    let yaml = fs::read_to_string(omni.dir().join("config/omnidaemon.yaml")).expect("it is there");
    let plan = async |from: &str, to: &str| {
        fs::write(&file, yaml.replace(from, to)).expect("it can be written");
        stdout(&ended(&omni, &["plan", path], 0).await)
    };
    let same = stdout(&ended(&omni, &["plan"], 0).await);
    assert!(same.contains("invoke: nothing changes"), "{same}");
    let up = plan("percent: 50", "percent: 100").await;
    for part in [
        "percent 50 % → 100 %: climbs 25 % (soak 30 min), then 50 %",
        "stays 10 % until its gates pass",
    ] {
        assert!(up.contains(part), "no {part:?} in {up}");
    }
    assert!(plan("percent: 50", "percent: 5").await.contains("from 10 % to 5 % at once"));
    assert!(
        plan("soak: 30m", "soak: 30m, gates: [{name: e2e, type: error_ratio, max: 1%}]")
            .await
            .contains("+ e2e, - errors")
    );
    assert!(
        plan("mode: gated", "mode: manual")
            .await
            .contains("the weight jumps from 10 % to 50 % at once")
    );
    let slow = plan("percent: 50", "percent: 60").await;
    assert!(slow.contains("wait 100 ms: about") && slow.contains("would get a 202"), "{slow}");
    fs::write(&file, yaml.replace("percent: 50", "percent: 500")).expect("it can be written");
    assert!(
        stderr(&ended(&omni, &["plan", path], 2).await).contains("routes.invoke.rollout.percent")
    );
    assert_eq!(
        json_of(&ended(&omni, &["get", "--format", "json"], 0).await)["percent"],
        50.0,
        "nothing was done"
    );
}

#[tokio::test]
async fn lint_tries_the_queries_and_names_what_is_not_there() {
    let prometheus = PrometheusServer::start().await;
    let (_upstream, omni) = soaking().await;
    prometheus.scrape_targets(&[omni.admin_url("").trim_start_matches("http://").to_owned()]).await;
    let gates = |list: &str| {
        let rollout =
            format!("soak: 30m, prometheus: {{url: '{}'}}, gates: [{list}]", prometheus.url());
        let yaml =
            fs::read_to_string(omni.dir().join("config/omnidaemon.yaml")).expect("it is there");
        fs::write(omni.dir().join("lint.yaml"), yaml.replace("soak: 30m", &rollout))
            .expect("it can be written");
    };
    let lint = ["lint", "lint.yaml"];
    let lag =
        "{name: lag, type: prometheus, query: 'max(omnidaemon_queue_oldest_seconds)', max: 30}";
    gates(lag);
    let well = stdout(&ended(&omni, &lint, 0).await);
    assert!(well.contains("lag") && well.contains("ok") && well.contains(" 0"), "{well}");

    let bad = [
        "{name: typo, type: prometheus, query: 'max(omnidaemon_queue_oldest_second)', max: 30}",
        "{name: many, type: prometheus, query: 'omnidaemon_requests_total', max: 30}",
        "{name: syntax, type: prometheus, query: 'max(', max: 30}",
        "{name: label, type: prometheus, query: 'max(up{job=\"nobody\"})', max: 30}",
        "{name: rare, type: prometheus, query: 'max(up{job=\"nobody\"})', max: 30, on_empty: pass}",
    ];
    gates(&format!("{lag}, {}", bad.join(", ")));
    let found = json_of(&ended(&omni, &["lint", "lint.yaml", "--format", "json"], 1).await);
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
                "there is no metric omnidaemon_queue_oldest_second: \
                    omnidaemon_queue_oldest_seconds is meant?"
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
    let refused = stdout(&ended(&omni, &lint, 1).await);
    assert!(refused.contains(&url) && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn the_exit_codes_of_status_are_in_its_help() {
    let output =
        crate::cli::commands::command(&std::env::temp_dir(), &["rollout", "status", "--help"])
            .output()
            .expect("it runs");
    for part in ["124", "rolled back", "paused"] {
        assert!(stdout(&output).contains(part), "no {part:?} in {}", stdout(&output));
    }
}
