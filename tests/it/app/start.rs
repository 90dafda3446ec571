//! How the program starts: what it refuses, and with which words; what it takes from the
//! environment; which processes it becomes. The last reads `/proc`.

use std::fs;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli_output::cli_command;
use crate::support::http::client::HttpClient;
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{ScenarioBuilder, route, scenario, topic};
use crate::support::server::parse_listen_address;
use crate::support::{TEST_DEADLINE, TestUpstream, wait_for_some, wait_until};

fn echo_scenario() -> ScenarioBuilder {
    scenario()
        .route(route("invoke").topic("echo"))
        .topic(topic("echo").command(["cat"]))
        .workers(1)
        .yaml("workers.drain", "1s")
}

fn new_dir() -> TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

fn write(dir: &Path, yaml: &str) {
    // In one step: a process that starts meanwhile must not read half of it.
    let beside = dir.join("o.yaml.new");
    fs::write(&beside, yaml).expect("the config can be written");
    fs::rename(beside, dir.join("o.yaml")).expect("the config can be replaced");
}

/// Runs a command that must end by itself; its status and all that it printed.
async fn run_to_exit(command: &mut Command) -> (Option<i32>, String) {
    let mut process = ChildProcess::spawn("omnidaemon", command);
    let status = process.wait_for_exit().await;
    // Its streams end with it, after the last line.
    wait_until(TEST_DEADLINE, "its streams end", async || !process.logs().is_open()).await;
    (status.code(), process.logs().to_text())
}

fn assert_contains(printed: &str, parts: &[&str]) {
    for part in parts {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
}

#[tokio::test]
async fn a_second_serve_on_one_sqlite_file_is_refused_with_the_holders_pid_and_the_way_out() {
    let mut omni = echo_scenario().start().await;
    let config = omni.dir().join("config/omnidaemon.yaml").display().to_string();
    let (code, printed) =
        run_to_exit(&mut cli_command(omni.dir(), &["serve", "--config", &config])).await;
    assert_eq!(code, Some(1));
    assert_contains(&printed, &[&omni.process().pid().to_string(), "omnidaemon.db", "REDIS_URL"]);
    assert!(omni.process().is_running());
}

#[tokio::test]
async fn a_busy_port_is_refused_by_its_key() {
    let dir = new_dir();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    let serve = ["serve", "--upstream", "http://127.0.0.1:9"];
    for (busy, free, key) in
        [("PROXY", "ADMIN", "proxy.listen"), ("ADMIN", "PROXY", "admin.listen")]
    {
        let mut command = cli_command(dir.path(), &serve);
        command.env(format!("OMNIDAEMON__{busy}__LISTEN"), &taken);
        command.env(format!("OMNIDAEMON__{free}__LISTEN"), "127.0.0.1:0");
        let (code, printed) = run_to_exit(&mut command).await;
        assert_eq!(code, Some(1), "{printed}");
        assert_contains(&printed, &[&taken, key, "another process has the port"]);
    }
}

#[tokio::test]
async fn a_config_that_is_missing_unreadable_or_wrong_ends_with_2_and_names_every_problem() {
    let dir = new_dir();
    fs::create_dir(dir.path().join("directory.yaml")).expect("it is new");
    write(dir.path(), "upstream: {url: 'ftp://h'}\nworkers: {count: many, drian: 1s}\n");
    for (file, parts) in [
        (
            "missing.yaml",
            &["missing.yaml: no such file", "omnidaemon config init", "--upstream"][..],
        ),
        ("directory.yaml", &["directory.yaml: cannot be read"]),
        (
            "o.yaml",
            &[
                "o.yaml:1:",
                "upstream.url",
                "o.yaml:2:",
                "`many`",
                "did you mean `drain`",
                "3 problems",
            ],
        ),
    ] {
        for role in ["serve", "worker"] {
            let (code, printed) =
                run_to_exit(&mut cli_command(dir.path(), &[role, "--config", file])).await;
            assert_eq!(code, Some(2), "{printed}");
            assert_contains(&printed, parts);
        }
    }
}

#[tokio::test]
async fn an_upstream_whose_name_is_this_machine_and_port_is_refused() {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    // Where the machine's own name does not resolve, nobody can write it either.
    let name =
        if (name.as_str(), port).to_socket_addrs().is_ok() { name } else { "localhost".into() };
    let (dir, url) = (new_dir(), format!("http://{name}:{port}"));
    write(
        dir.path(),
        &format!("proxy: {{listen: '0.0.0.0:{port}'}}\nupstream: {{url: '{url}'}}\n"),
    );
    let (code, printed) =
        run_to_exit(&mut cli_command(dir.path(), &["serve", "--config", "o.yaml"])).await;
    assert_eq!(code, Some(2), "{printed}");
    assert_contains(
        &printed,
        &[
            &format!("{url} is the proxy itself, which listens on 0.0.0.0:{port}"),
            "legacy endpoint",
        ],
    );
}

/// `serve` without a file on free ports, once it is ready: the process and a client of its data
/// plane.
async fn serve_without_a_file(dir: &Path, args: &[&str]) -> (ChildProcess, HttpClient) {
    let mut command = cli_command(dir, &[&["serve"], args].concat());
    for plane in ["PROXY", "ADMIN"] {
        command.env(format!("OMNIDAEMON__{plane}__LISTEN"), "127.0.0.1:0");
    }
    let mut process = ChildProcess::spawn("omnidaemon", &mut command);
    let data = process
        .wait_for_log("the data plane's address", 0, |line| parse_listen_address(line, "data"))
        .await;
    let admin = process
        .wait_for_log("the admin plane's address", 0, |line| parse_listen_address(line, "admin"))
        .await;
    let admin = HttpClient::new(&format!("http://{admin}"));
    wait_until(TEST_DEADLINE, "/readyz says 200", async || {
        admin.get("/readyz").await.status == 200
    })
    .await;
    (process, HttpClient::new(&format!("http://{data}")))
}

#[tokio::test]
async fn without_a_file_requests_pass_and_percent_moves_them() {
    let upstream = TestUpstream::start().await;
    let body = json!({"task": "build", "agent": "meta"});
    for (args, path) in [(&[][..], "sync"), (&["--percent", "100"], "async")] {
        let dir = new_dir();
        let (_process, client) =
            serve_without_a_file(dir.path(), &[&["--upstream", &upstream.url()], args].concat())
                .await;
        let answer = client.post("/invoke", &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-omnidaemon-path")), (200, Some(path)));
        assert_eq!(answer.json()["result"], "build is done");
    }
}

#[tokio::test]
async fn the_environment_counts_at_start() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    for (name, value, workers) in
        [("WORKER_COUNT", "3", 3.0), ("OMNIDAEMON__WORKERS__COUNT", "2", 2.0)]
    {
        let omni = echo_scenario().upstream(&upstream).env(name, value).start().await;
        wait_until(TEST_DEADLINE, "the workers are counted", async || {
            omni.metric_value("omnidaemon_workers_active", &[]).await == workers
        })
        .await;
        assert!(
            omni.logs().contains(&format!("{name}={value} overrides this line")),
            "{}",
            omni.logs().to_text()
        );
    }
    let omni = echo_scenario().upstream(&upstream).env("REDIS_URL", redis.url()).start().await;
    assert_eq!(omni.admin_client().get("/admin/v1/status").await.json()["store"], redis.url());
}

#[tokio::test]
async fn a_redis_that_cannot_be_used_is_named_with_the_way_out_and_no_password() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    redis.run_command(&["CONFIG", "SET", "requirepass", "canary-right"]).await;
    let (addr, http) = (redis.addr(), upstream.addr());
    for (url, printed) in [
        (redis.url(), format!("Redis asks for a password: write redis://:PASSWORD@{addr}")),
        (
            format!("redis://:canary-wrong@{addr}"),
            "Redis refuses the user or password of store.url".into(),
        ),
        (
            format!("redis://{http}"),
            format!("{http} answers, but not as Redis does: check store.url"),
        ),
    ] {
        let omni =
            echo_scenario().upstream(&upstream).env("REDIS_URL", url).start_listening().await;
        wait_until(TEST_DEADLINE, &printed, async || {
            omni.admin_client().get("/readyz").await.text().contains(&printed)
        })
        .await;
        assert!(!omni.logs().to_text().contains("canary"), "{}", omni.logs().to_text());
    }
}

#[tokio::test]
async fn a_worker_on_sqlite_is_refused_with_the_way_out() {
    let dir = new_dir();
    write(dir.path(), &echo_scenario().no_upstream().config_text());
    for args in [&["worker"][..], &["runner", "--name", "worker-1"]] {
        let (code, printed) =
            run_to_exit(&mut cli_command(dir.path(), &[args, &["--config", "o.yaml"]].concat()))
                .await;
        assert_eq!(code, Some(1), "{printed}");
        assert_contains(&printed, &["sqlite:data/omnidaemon.db", "REDIS_URL", "workers.count"]);
    }
}

/// The command lines of a process's children, such as `/path/omnidaemon runner --name worker-1 …`.
fn child_commands(parent: u32) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("there is a /proc").filter_map(Result::ok);
    let child = |dir: &Path| {
        let status = fs::read_to_string(dir.join("status")).ok()?;
        let of_parent = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        let words = fs::read_to_string(dir.join("cmdline")).ok()?;
        of_parent.then(|| words.trim_end_matches('\0').replace('\0', " "))
    };
    let mut lines: Vec<String> = entries.filter_map(|entry| child(&entry.path())).collect();
    lines.sort();
    lines
}

/// Waits until the supervisor has these processes, by the names that `pgrep -f "omnidaemon runner"`
/// finds.
async fn wait_for_runners(supervisor: &ChildProcess, names: &[&str]) {
    let what = format!("the runners are {names:?}");
    wait_until(TEST_DEADLINE, &what, async || {
        let lines = child_commands(supervisor.pid());
        lines.len() == names.len()
            && lines
                .iter()
                .zip(names)
                .all(|(line, name)| line.contains(&format!("omnidaemon runner --name {name} ")))
    })
    .await;
}

/// A configuration file without an upstream that answers.
fn config_on_redis(redis: &RedisServer, workers: u32) -> String {
    let scenario = echo_scenario().no_upstream().redis(redis);
    let scenario = if workers == 1 { scenario } else { scenario.workers(workers) };
    scenario.config_text()
}

#[tokio::test]
async fn worker_processes_do_the_work_of_a_serve_that_has_none() {
    let redis = RedisServer::start().await;
    let omni = echo_scenario().redis(&redis).workers(0).start().await;
    let config = omni.dir().join("config/omnidaemon.yaml").display().to_string();
    let worker = ChildProcess::spawn(
        "worker",
        &mut cli_command(omni.dir(), &["worker", "--count", "2", "--config", &config]),
    );
    wait_for_runners(&worker, &["worker-1", "worker-2"]).await;

    for n in 0..2 {
        let accepted = omni.data_client().post("/invoke/async", &json!({"n": n})).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        let poll = accepted.header("location").expect("where to poll").to_owned();
        let task = wait_until_completed(&omni.data_client(), &poll).await;
        assert_eq!(task["result"]["payload"], json!({"n": n}));
    }
    wait_until(TEST_DEADLINE, "both workers are seen", async || {
        omni.admin_client().get("/admin/v1/status").await.json()["active_workers"] == 2
    })
    .await;
    assert_eq!(omni.metric_value("omnidaemon_workers_active", &[]).await, 0.0);
}

#[tokio::test]
async fn a_worker_opens_its_admin_plane_to_the_network_only_with_a_token() {
    let (dir, redis) = (new_dir(), RedisServer::start().await);
    write(dir.path(), &config_on_redis(&redis, 1));
    for command_of in ["worker", "runner"] {
        let mut args = vec![command_of, "--config", "o.yaml", "--admin-listen", "0.0.0.0:0"];
        args.extend((command_of == "runner").then_some(["--name", "r"]).into_iter().flatten());
        let mut refused = ChildProcess::spawn(command_of, &mut cli_command(dir.path(), &args));
        assert_eq!(refused.wait_for_exit().await.code(), Some(1));
        assert!(refused.logs().contains("there is no token"), "{}", refused.logs().to_text());
    }
}

#[tokio::test]
async fn a_worker_without_count_follows_the_configuration() {
    let (dir, redis) = (new_dir(), RedisServer::start().await);
    let save = |count| write(dir.path(), &config_on_redis(&redis, count));
    save(1);
    let worker = ChildProcess::spawn(
        "worker",
        &mut cli_command(dir.path(), &["worker", "--config", "o.yaml"]),
    );
    wait_for_runners(&worker, &["worker-1"]).await;
    save(3);
    wait_for_runners(&worker, &["worker-1", "worker-2", "worker-3"]).await;
    save(1);
    wait_for_runners(&worker, &["worker-1"]).await;
    // The last line may come a moment after the process is gone.
    wait_until(TEST_DEADLINE, "both are printed to have ended", async || {
        worker.logs().to_text().matches("worker ended").count() == 2
    })
    .await;
    assert!(!worker.logs().contains("died without being stopped"));
}

/// The task at `poll` once it has completed.
async fn wait_until_completed(client: &HttpClient, poll: &str) -> Value {
    wait_for_some(TEST_DEADLINE, "the task completes", async || {
        let task = client.get(poll).await.json();
        (task["status"] == "completed").then_some(task)
    })
    .await
}

#[tokio::test]
async fn the_library_example_runs_a_task_by_its_own_function() {
    let (dir, upstream) = (new_dir(), TestUpstream::start().await);
    // Where all tests are built, it is too: beside the program.
    let program =
        Path::new(env!("CARGO_BIN_EXE_omnidaemon")).with_file_name("examples").join("handler");
    assert!(program.exists(), "no {}: `cargo build --example handler` makes it", program.display());
    let mut example = Command::new(program);
    example.arg(upstream.url()).current_dir(dir.path()).env_remove("REDIS_URL");
    for plane in ["PROXY", "ADMIN"] {
        example.env(format!("OMNIDAEMON__{plane}__LISTEN"), "127.0.0.1:0");
    }
    let mut process = ChildProcess::spawn("handler", &mut example);
    let address =
        |line: &str| line.strip_prefix("listening on http://")?.parse::<SocketAddr>().ok();
    let client = HttpClient::new(&format!(
        "http://{}",
        process.wait_for_log("its address", 0, address).await
    ));

    let accepted = client.post("/invoke/async", &json!({"name": "ada"})).await;
    let poll = accepted.header("location").expect("where to poll").to_owned();
    assert_eq!(
        wait_until_completed(&client, &poll).await["result"],
        json!({"greeting": "hello, ada"})
    );
}
