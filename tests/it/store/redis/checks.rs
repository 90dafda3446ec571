//! A Redis that is not set up to keep tasks is advised on; the documented user may call all that
//! the store does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use omnidaemon::config::{Secret, StoreConfig, StoreUrl};
use omnidaemon::store::{RedisStore, StoreService as _};
use redis::Value;
use serde_json::Value as Json;

use crate::arch::source_tree::collect_sources;
use crate::support::process::clock::ClockOffset;
use crate::support::redis::acl::set_documented_user;
use crate::support::redis::cluster::start_single_node_cluster;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{ScenarioBuilder, scenario};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A server all of whose calls go onto the queue of this Redis.
fn on_redis(redis: &RedisServer) -> ScenarioBuilder {
    scenario().redis(redis).yaml("store.timeout", "2s").wait("5s").percent(100)
}

/// What is advised as long as it is: the setting that it is about, and what to type.
async fn advice(omni: &Omnidaemon) -> Vec<(String, Vec<String>)> {
    let status = omni.admin_client().get("/admin/v1/status").await.json();
    let read = |advice: &Json| {
        let run = advice["run"].as_array().expect("commands").iter();
        let run = run.map(|command| command.as_str().expect("text").to_owned()).collect();
        (advice["about"].as_str().expect("text").to_owned(), run)
    };
    status["store_advice"].as_array().expect("a list").iter().map(read).collect()
}

/// How often the server was asked for its settings.
async fn asked(redis: &RedisServer) -> u64 {
    let info = redis::cmd("INFO").arg("commandstats").take();
    let info: String = info.query_async(&mut redis.connect().await).await.expect("answers");
    let calls =
        info.split("cmdstat_config|get:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

#[tokio::test]
async fn a_redis_that_may_lose_tasks_is_advised_on_until_what_it_says_is_typed() {
    let redis =
        RedisServer::start_with(&["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"]).await;
    let omni = on_redis(&redis).start().await;
    let told = || {
        let text = omni.logs().to_text();
        ["maxmemory-policy allkeys-lru deletes tasks", "a restart of Redis loses every task"]
            .map(|problem| text.matches(problem).count())
    };
    wait_until(TEST_DEADLINE, "the log tells of both", async || told() == [1, 1]).await;
    let before = asked(&redis).await;
    redis.run_command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    wait_until(TEST_DEADLINE, "the new connection is looked at", async || {
        asked(&redis).await > before
    })
    .await;

    let advised = wait_for_some(TEST_DEADLINE, "the store is back", async || {
        let advised = advice(&omni).await;
        (!advised.is_empty()).then_some(advised)
    })
    .await;
    let about: Vec<&str> = advised.iter().map(|(about, _)| about.as_str()).collect();
    assert_eq!(about, ["maxmemory-policy", "appendonly"]);
    assert_eq!(told(), [1, 1], "not again for a new connection");
    let shown = omni.run_cli(&["health", "--detailed"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("CONFIG SET appendonly yes") && shown.contains(&redis.addr()),
        "{shown}"
    );

    for command in advised.iter().flat_map(|(_, run)| run) {
        redis.run_command(&command.split(' ').collect::<Vec<_>>()).await;
    }
    assert_eq!(advice(&omni).await, []);
    assert!(
        !omni
            .run_cli(&["health", "--detailed"])
            .await
            .stdout
            .windows(10)
            .any(|text| text == b"CONFIG SET")
    );
}

#[tokio::test]
async fn a_process_whose_clock_is_an_hour_off_says_so_at_its_start() {
    let redis = RedisServer::start().await;
    for (off, side) in [
        (ClockOffset::ahead(Duration::from_hours(1)), "behind ours"),
        (ClockOffset::behind(Duration::from_hours(1)), "ahead of ours"),
    ] {
        let omni = on_redis(&redis).clock(off).start().await;
        wait_until(TEST_DEADLINE, "the log tells of it", async || omni.logs().contains(side)).await;
        assert_eq!(advice(&omni).await, [("clock".to_owned(), vec![])]);
        let shown = omni.run_cli(&["health", "--detailed"]).await;
        assert!(
            String::from_utf8_lossy(&shown.stdout).contains("timedatectl set-ntp true"),
            "{shown:?}"
        );
    }
}

/// The settings that a store at `url` is advised on.
async fn advised(server: &RedisServer, url: StoreUrl) -> Vec<&'static str> {
    let store = RedisStore::new(&StoreConfig { url, partitions: 3, ..server.store_config() })
        .expect("a store");
    store
        .check_server_settings()
        .await
        .expect("the server answers")
        .into_iter()
        .map(|advice| advice.setting)
        .collect()
}

#[tokio::test]
async fn what_a_user_may_not_ask_is_left_out_and_the_rest_is_advised_on() {
    let redis = RedisServer::start_with(&["--appendonly", "no", "--appendfsync", "no"]).await;
    set_documented_user(&redis, "resetpass", "canary").await;
    let url =
        || StoreUrl::Redis(Secret::new(format!("redis://omnidaemon:canary@{}", redis.addr())));
    assert_eq!(
        advised(&redis, StoreUrl::Redis(Secret::new(redis.url()))).await,
        ["appendonly", "appendfsync"]
    );
    assert_eq!(advised(&redis, url()).await, ["appendonly"]);
    redis.run_command(&["ACL", "SETUSER", "omnidaemon", "-info", "-time"]).await;
    assert_eq!(advised(&redis, url()).await, [""; 0]);
}

#[tokio::test]
async fn a_server_of_several_partitions_is_advised_on_once() {
    let redis = start_single_node_cluster().await;
    redis.run_command(&["CONFIG", "SET", "appendonly", "no"]).await;
    let url = StoreUrl::Cluster(Secret::new(format!("redis+cluster://{}", redis.addr())));
    assert_eq!(advised(&redis, url).await, ["appendonly"]);
}

/// The commands that a text names behind `before`, in capitals; with their subcommand where they
/// have one.
fn commands(text: &str, before: &str, quote: char) -> Vec<Vec<String>> {
    let words = |rest: &str| {
        let mut quoted = rest.split(quote).step_by(2).map(str::to_owned);
        let first = quoted.next().unwrap_or_default();
        let sub = ["CLIENT", "CLUSTER", "CONFIG", "XGROUP", "XINFO"].contains(&first.as_str());
        [first].into_iter().chain(quoted.next().filter(|_| sub)).collect()
    };
    text.split(before).skip(1).map(words).collect()
}

/// Every command that the store sends to a server of its data, or has a script call there.
fn all_commands() -> Vec<Vec<String>> {
    let (mut all, mut files) = (Vec::new(), Vec::new());
    collect_sources(&Path::new(ROOT).join("src/store/redis"), &mut files);
    for file in files {
        all.extend(commands(
            &fs::read_to_string(file).expect("it can be read"),
            "redis::cmd(\"",
            '"',
        ));
    }
    for file in fs::read_dir(Path::new(ROOT).join("src/store/redis/scripts")).expect("it is there")
    {
        let text = fs::read_to_string(file.expect("it is there").path()).expect("it can be read");
        let literal =
            [commands(&text, "redis.call('", '\''), commands(&text, "redis.pcall('", '\'')]
                .concat();
        let calls = text.matches("redis.call").count() + text.matches("redis.pcall").count();
        assert_eq!(literal.len(), calls, "every command stands there by name: {text}");
        all.extend(literal);
    }
    all.extend(["SUBSCRIBE", "EVAL", "EVALSHA", "HELLO"].map(|driven| vec![driven.to_owned()]));
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn the_documented_user_may_call_every_command_of_the_store_but_one() {
    let redis = RedisServer::start().await;
    set_documented_user(&redis, "resetpass", "canary").await;
    let (mut connection, mut refused) = (redis.connect().await, Vec::new());
    let commands = all_commands();
    assert!(
        commands.len() > 50 && commands.contains(&vec!["XGROUP".to_owned(), "CREATE".to_owned()]),
        "{commands:?}"
    );
    // sent to sentinels, under their own user
    for command in commands.into_iter().filter(|command| command[0] != "SENTINEL") {
        let may = may_call(&mut connection, &command).await;
        refused.extend((!may).then(|| command.join(" ")));
    }
    assert_eq!(refused, ["CONFIG GET"], "it would show passwords, and the store goes without");
}

/// Whether the documented user may call a command, whatever its arguments.
async fn may_call(redis: &mut redis::aio::MultiplexedConnection, command: &[String]) -> bool {
    for arguments in 0..8 {
        let mut run = redis::cmd("ACL");
        run.arg("DRYRUN").arg("omnidaemon").arg(command).arg(vec!["omni:x"; arguments]);
        let said = match run.query_async::<Value>(redis).await {
            Ok(said) => format!("{said:?}"), // ok, or why not
            Err(error) => error.to_string(),
        };
        if said.contains("not found") {
            assert_eq!(command[0], "WAITAOF", "only Redis 7.2 and later have that one: {said}");
            return true;
        }
        if !said.contains("wrong number of arguments") {
            assert!(said == "ok" || said.contains("permissions"), "{command:?}: {said}");
            return !said.contains("permissions to run");
        }
    }
    panic!("{command:?} wants more arguments");
}
