//! The commands that operators type: what they print, where, and with which status they end.

use std::fs;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::cli_output::{cli_command, json_output, stderr};
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, ScenarioBuilder, route, scenario, topic};
use crate::support::{TEST_DEADLINE, TestUpstream, cli_output, wait_for_some, wait_until};

fn three_topics() -> ScenarioBuilder {
    scenario()
        .route(route("invoke").topic("echo").percent(10))
        .topic(topic("echo").command(["cat"]).retries(0))
        .topic(topic("broken").command(["false"]).retries(0))
        .topic(topic("slow").command(["sleep", "600"]).retries(0))
        .workers(3)
        .yaml("workers.drain", "1s")
}

async fn start() -> Scenario {
    three_topics().start().await
}

fn run(dir: &Path, args: &[&str]) -> Output {
    cli_command(dir, args).output().expect("the binary can be run")
}

/// What a command printed, without the end of its last line.
fn stdout(output: &Output) -> String {
    cli_output::stdout(output).trim().to_owned()
}

fn new_dir() -> TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

#[test]
fn what_config_init_writes_passes_config_check_and_is_not_overwritten() {
    let dir = new_dir();
    assert_eq!(run(dir.path(), &["config", "init"]).status.code(), Some(0));
    assert!(dir.path().join("config/omnidaemon.yaml").exists());

    let checked = run(dir.path(), &["config", "check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", stdout(&checked));
    for part in ["http://127.0.0.1:8000", "/invoke", "10 %", "genesis.meta.orchestrate"] {
        assert!(stdout(&checked).contains(part), "no {part} in {}", stdout(&checked));
    }
    let said = stdout(&checked);
    assert!(
        !said.contains("warning") && !said.contains("examples/"),
        "nothing that is not here is needed: {said}"
    );
    let route =
        &json_output(&run(dir.path(), &["config", "check", "--format", "json"]))["routes"][0];
    assert_eq!((&route["route"], &route["percent"]), (&json!("invoke"), &json!(10.0)));

    let again = run(dir.path(), &["config", "init"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
}

#[test]
fn config_check_warns_of_programs_and_scripts_that_are_not_there() {
    let dir = new_dir();
    let yaml = "upstream: {url: 'http://127.0.0.1:9000'}\n\
                topics:\n  a: {handler: {command: [no-such-program, x]}}\n  \
                b: {handler: {command: [sh, scripts/agent.sh]}}\n";
    fs::write(dir.path().join("o.yaml"), yaml).expect("it can be written");
    let checked = run(dir.path(), &["config", "check", "o.yaml"]);
    assert_eq!(checked.status.code(), Some(0), "it may be right on another machine");
    for part in [
        "o.yaml:3:",
        "`no-such-program` is not found in PATH",
        "o.yaml:4:",
        "`scripts/agent.sh` does not exist",
    ] {
        assert!(stdout(&checked).contains(part), "no {part} in {}", stdout(&checked));
    }
    fs::create_dir(dir.path().join("scripts")).expect("a new directory is empty");
    fs::write(dir.path().join("scripts/agent.sh"), "").expect("it can be written");
    assert!(
        !stdout(&run(dir.path(), &["config", "check", "o.yaml"]))
            .contains("agent.sh` does not exist")
    );
}

#[test]
fn config_check_names_every_problem_with_its_line_and_ends_with_2() {
    let dir = new_dir();
    let yaml = "upstream: {url: 'http://127.0.0.1:9000'}\n\
                store: {url: 'redis://:canary-secret@127.0.0.1:6379', timout: 1s}\n\
                routes:\n  invoke:\n    path: /invoke\n    topic: t\n    rollout: {percent: 110, \
                mode: manual}\n\
                topics: {t: {handler: upstream}}\n";
    fs::write(dir.path().join("bad.yaml"), yaml).expect("it can be written");

    let checked = run(dir.path(), &["config", "check", "bad.yaml"]);
    assert_eq!(checked.status.code(), Some(2));
    let said = stdout(&checked);
    assert!(said.contains("bad.yaml:2:") && said.contains("timout"), "{said}");
    assert!(
        said.contains("bad.yaml:7:") && said.contains("routes.invoke.rollout.percent"),
        "{said}"
    );
    assert!(!said.contains("canary-secret"), "{said}");

    let checked = run(dir.path(), &["config", "check", "bad.yaml", "--format", "json"]);
    assert_eq!((checked.status.code(), &json_output(&checked)["valid"]), (Some(2), &json!(false)));
    assert_eq!(json_output(&checked)["problems"][1]["line"], 7);
}

#[tokio::test]
async fn health_is_one_line_to_grep_and_details_on_request() {
    let mut omni = start().await;
    let expected = "status=healthy, active_workers=3, queue_depth=0, uptime=";
    wait_until(TEST_DEADLINE, "three workers are seen", async || {
        let health = omni.run_cli(&["health"]).await;
        health.status.success()
            && stdout(&health).starts_with(expected)
            && stdout(&health).lines().count() == 1
    })
    .await;

    let detailed = stdout(&omni.run_cli(&["health", "--detailed"]).await);
    for part in ["upstream", "echo", "DEAD_LETTERS", "invoke", "ACTIVE"] {
        assert!(detailed.contains(part), "no {part} in {detailed}");
    }
    assert_eq!(
        json_output(&omni.run_cli(&["health", "--format", "json"]).await)["active_workers"],
        3
    );

    omni.upstream_mut().stop();
    let degraded = omni.run_cli(&["health"]).await;
    assert_eq!(degraded.status.code(), Some(1));
    assert!(
        stdout(&degraded).starts_with("status=degraded, active_workers=3"),
        "{}",
        stdout(&degraded)
    );
}

#[test]
fn without_a_server_commands_say_how_to_find_one() {
    let dir = new_dir();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound")
        .port();
    let nowhere = format!("http://127.0.0.1:{port}");

    let health = run(dir.path(), &["health", "--admin", &nowhere]);
    assert_eq!((health.status.code(), stdout(&health).as_str()), (Some(1), "status=unreachable"));
    assert!(
        stderr(&health).contains(&nowhere) && stderr(&health).contains("omnidaemon serve"),
        "{}",
        stderr(&health)
    );

    let result = run(dir.path(), &["task", "result", "task_x", "--admin", &nowhere]);
    assert_eq!(result.status.code(), Some(5));
    assert!(stderr(&result).contains("--admin"), "{}", stderr(&result));
}

#[tokio::test]
async fn a_published_task_is_read_by_its_id_and_the_status_says_how_it_ended() {
    let omni = start().await;
    let payload = omni.dir().join("payload.json");
    fs::write(&payload, "{\"n\": 1}").expect("it can be written");
    let from_file = format!("@{}", payload.display());

    let id = stdout(
        &omni.run_cli(&["task", "publish", "--topic", "echo", "--payload", &from_file]).await,
    );
    let result = omni.run_cli(&["task", "result", &id, "--wait", "30s", "--format", "json"]).await;
    assert_eq!(result.status.code(), Some(0), "{}", stderr(&result));
    assert_eq!(json_output(&result)["result"]["payload"], json!({"n": 1}));

    let waited = omni
        .run_cli(&["task", "publish", "--topic", "broken", "--payload", "1", "--wait=30s"])
        .await;
    assert_eq!(waited.status.code(), Some(1), "{}", stdout(&waited));
    assert!(stdout(&waited).contains("failed"), "{}", stdout(&waited));

    let id = stdout(&omni.run_cli(&["task", "publish", "--topic", "slow", "--payload", "1"]).await);
    assert_eq!(omni.run_cli(&["task", "result", &id]).await.status.code(), Some(4));
    assert_eq!(omni.run_cli(&["task", "result", "task_unknown"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_task_for_no_topic_and_one_that_makes_no_sense_are_told_apart() {
    let omni = start().await;

    let strange =
        omni.run_cli(&["task", "publish", "--topic", "unheard.of", "--payload", "1"]).await;
    assert_eq!(strange.status.code(), Some(3));
    assert!(stderr(&strange).contains("unheard.of"), "{}", stderr(&strange));
    let large = omni.dir().join("large.json");
    let from_file = format!("@{}", large.display());
    for (megabytes, code) in [(3, 0), (8, 1)] {
        fs::write(&large, format!("\"{}\"", "x".repeat(megabytes << 20)))
            .expect("it can be written");
        let sent =
            omni.run_cli(&["task", "publish", "--topic", "echo", "--payload", &from_file]).await;
        assert_eq!(sent.status.code(), Some(code), "{megabytes} MiB: {}", stderr(&sent));
        assert_eq!(stderr(&sent).contains("over proxy.max_body"), code == 1, "{}", stderr(&sent));
    }
    let no_json = omni.run_cli(&["task", "publish", "--topic", "echo", "--payload", "hello"]).await;
    assert_eq!(no_json.status.code(), Some(2));
    assert!(stderr(&no_json).contains("JSON"), "{}", stderr(&no_json));
}

#[tokio::test]
async fn a_server_that_is_no_omnidaemon_is_called_that() {
    let (dir, upstream) = (new_dir(), TestUpstream::start().await);
    let said =
        format!("{} answers, but is no omnidaemon admin plane: check --admin", upstream.url());
    let health = run(dir.path(), &["health", "--admin", &upstream.url()]);
    assert_eq!(health.status.code(), Some(1));
    assert!(stderr(&health).contains(&said), "{}", stderr(&health));
    let result = run(dir.path(), &["task", "result", "task_x", "--admin", &upstream.url()]);
    assert_eq!(result.status.code(), Some(5));
    assert!(stderr(&result).contains(&said), "{}", stderr(&result));
}

#[tokio::test]
async fn the_token_comes_from_the_arguments_or_the_file() {
    let omni = three_topics().yaml("admin.token", "canary-secret").start().await;

    let refused = omni.run_cli(&["health", "--config", "none.yaml"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("OMNIDAEMON_ADMIN_TOKEN"), "{}", stderr(&refused));
    let given =
        omni.run_cli(&["health", "--config", "none.yaml", "--token", "canary-secret"]).await;
    assert!(stdout(&given).starts_with("status="), "{}", stderr(&given));
    let by_file = omni.run_cli(&["health"]).await;
    assert!(stdout(&by_file).starts_with("status="), "{}", stderr(&by_file));
}

#[tokio::test]
async fn without_a_server_a_shared_redis_is_asked_and_stderr_says_so() {
    let redis = RedisServer::start().await;
    let dir = new_dir();
    let config = three_topics().no_upstream().redis(&redis).yaml("admin.listen", "127.0.0.1:1");
    fs::write(dir.path().join("o.yaml"), config.config_text()).expect("it can be written");
    let run = |args: &[&str]| run(dir.path(), &[args, &["--config", "o.yaml"]].concat());

    let published = run(&["task", "publish", "--topic", "echo", "--payload", "[1]"]);
    assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
    assert!(
        stderr(&published).contains(&format!("asking {}", redis.url())),
        "{}",
        stderr(&published)
    );
    let result = run(&["task", "result", &stdout(&published)]);
    assert_eq!(result.status.code(), Some(4), "{}", stderr(&result));
    assert!(stdout(&result).contains("queued"), "{}", stdout(&result));
    let health = run(&["health"]);
    assert_eq!(health.status.code(), Some(1), "nobody works");
    assert_eq!(stdout(&health), "status=degraded, active_workers=0, queue_depth=1");
    assert_eq!(run(&["task", "result", "task_unknown"]).status.code(), Some(3));
    assert_eq!(
        run(&["task", "publish", "--topic", "unheard.of", "--payload", "1"]).status.code(),
        Some(3)
    );
}

/// The demo in `dir`, on free ports.
fn demo(dir: &Path, args: &[&str]) -> ChildProcess {
    let ports = ["--port", "0", "--admin-port", "0", "--legacy-port", "0"];
    ChildProcess::spawn("demo", &mut cli_command(dir, &[&["demo"], &ports[..], args].concat()))
}

/// Waits for a line of the demo's that contains `text`.
async fn line(demo: &mut ChildProcess, text: &str) -> String {
    demo.wait_for_log(text, 0, |line| line.contains(text).then(|| line.trim().to_owned())).await
}

/// Runs what the demo suggests, as a shell would.
async fn pasted(script: &str) -> String {
    let output = tokio::process::Command::new("sh")
        .args(["-c", script])
        .output()
        .await
        .expect("there is a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn what_the_demo_says_to_try_works_when_pasted() {
    let dir = new_dir();
    let mut demo = demo(dir.path(), &[]);
    let legacy = line(&mut demo, "curl -si").await;
    let publish = line(&mut demo, "task=$(curl").await;
    let poll = line(&mut demo, "sleep 1; curl").await;
    let file = line(&mut demo, "omnidaemon.yaml, line").await;

    // Now and then the legacy API says 429 or 5xx, as it should: then again.
    let called = wait_for_some(TEST_DEADLINE, "an answer of the legacy API", async || {
        let answer = pasted(&legacy).await;
        answer.contains("200 OK").then_some(answer)
    })
    .await;
    assert!(
        called.contains("x-omnidaemon-path: ") && called.contains("qa did it: test it"),
        "{called}"
    );
    let script = format!("{publish}\n{poll}");
    wait_until(TEST_DEADLINE, "a task's result", async || {
        pasted(&script).await.contains("build did it: build it")
    })
    .await;

    let (path, rest) = file.split_once(", line ").expect("the demo names file and line");
    let (number, percent) = rest.split_once(": `").expect("and what stands there");
    let path = dir.path().join(path);
    let text = fs::read_to_string(&path).expect("it is there");
    let found = text
        .lines()
        .nth(number.parse::<usize>().expect("a number") - 1)
        .expect("the line is there");
    assert!(found.contains(percent.trim_end_matches('`')), "{found}");
    fs::write(&path, text.replace("percent: 10", "percent: 35")).expect("it can be edited");
    line(&mut demo, "weight 10 % -> 35 %").await;

    demo.send_signal(Signal::INT);
    assert!(demo.wait_for_exit().await.success());
    line(&mut demo, "stopped after").await;
}

#[tokio::test]
async fn a_second_demo_in_a_directory_names_the_first_and_a_later_one_keeps_the_edits() {
    let dir = new_dir();
    let mut first = demo(dir.path(), &[]);
    line(&mut first, "Ctrl-C").await;

    let second =
        run(dir.path(), &["demo", "--port", "0", "--admin-port", "0", "--legacy-port", "0"]);
    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    assert!(said.contains(&first.pid().to_string()) && said.contains("--dir"), "{said}");

    first.send_signal(Signal::TERM);
    assert!(first.wait_for_exit().await.success());
    let file = dir.path().join("data/demo/omnidaemon.yaml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, text.replace("percent: 10", "percent: 100")).expect("it can be edited");

    let mut again = demo(dir.path(), &["--for", "5s"]);
    line(&mut again, "weight 100 %").await;
    assert!(again.wait_for_exit().await.success(), "--for ends it");
}
