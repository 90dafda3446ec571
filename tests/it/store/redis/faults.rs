//! Redis dies, forgets, refuses and stalls; no task is lost, and the store comes back by itself.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use omnidaemon::config::{Secret, StoreConfig, StoreUrl};
use omnidaemon::store::{CancelResult, SettleResult, Settlement, StoreError, StoreRefusal};
use omnidaemon::task::TaskId;
use redis::AsyncCommands as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    QA_GROUP, QA_STREAM, RunningStore, TEST_PROCESS, WAIT_DEADLINE, age_pending, complete_lease,
    complete_settlement, enqueue_task, lease_available, lease_one, new_task, pending_entries,
    qa_queue, reap_queue, wait_until,
};
use crate::support::redis::server::RedisServer;

/// Leases and completes until all of `tasks` are completed, through any outage.
async fn drain(store: &RunningStore, tasks: &HashSet<TaskId>) {
    let mut done = HashSet::new();
    let draining = async {
        while done.len() < tasks.len() {
            let Ok(leases) =
                store.lease(TEST_PROCESS, &[qa_queue()], 5, Duration::from_millis(100)).await
            else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            for lease in leases {
                while store
                    .settle(&lease, &complete_settlement())
                    .await
                    .is_err_and(|error| error.is_outage())
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done.insert(lease.task.id);
            }
        }
    };
    tokio::time::timeout(WAIT_DEADLINE * 2, draining).await.expect("all tasks complete in time");
    assert_eq!(&done, tasks);
}

#[tokio::test]
async fn a_destroyed_group_is_made_anew_and_skips_nothing() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let mut ids = HashSet::new();
    for _ in 0..4 {
        ids.insert(enqueue_task(&store).await.id);
    }
    let held = lease_one(&store).await;
    let _: i64 = redis.xgroup_destroy(QA_STREAM, QA_GROUP).await.expect("destroyed");
    ids.insert(enqueue_task(&store).await.id);
    complete_lease(&store, &held).await;
    ids.remove(&held.task.id);
    drain(&store, &ids).await;
    assert_eq!(
        lease_available(&store).await,
        vec![],
        "what was completed meanwhile does not come again"
    );
}

#[tokio::test]
async fn a_flushed_server_serves_new_tasks_and_fences_old_leases() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let old = lease_one(&store).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut redis).await.expect("flushed");
    assert_eq!(store.settle(&old, &complete_settlement()).await, Ok(SettleResult::Fenced));
    let ids = HashSet::from([enqueue_task(&store).await.id, enqueue_task(&store).await.id]);
    drain(&store, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_no_task() {
    const TASKS: usize = 300;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let mut ids = HashSet::new();
    let killer = {
        let mut redis = server.connect().await;
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
                let _: i64 = kill.query_async(&mut redis).await.expect("killed");
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        })
    };
    for _ in 0..TASKS {
        let task = new_task();
        while let Err(error) = store.enqueue(&task, &qa_queue()).await {
            assert!(error.is_outage(), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ids.insert(task.id);
    }
    let draining = drain(&store, &ids);
    let (end, ()) = tokio::join!(killer, draining);
    end.expect("no panic");
    let gone = redis.ping::<String>().await.is_err(); // it was killed too
    let mut redis = if gone { server.connect().await } else { redis };
    assert_eq!(
        redis.xlen::<_, i64>(QA_STREAM).await,
        Ok(0),
        "each was queued once, and none is left"
    );
}

#[tokio::test]
async fn tasks_survive_a_killed_server_and_the_store_is_back_in_time() {
    let mut server = RedisServer::start().await;
    let store = RunningStore::start(&server);
    let mut ids = HashSet::new();
    for _ in 0..5 {
        ids.insert(enqueue_task(&store).await.id);
    }
    let held = lease_one(&store).await;
    let mut redis = server.connect().await;
    let fsynced = async || {
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("persistence").query_async(&mut redis).await.expect("answers");
        info.get::<i64>("aof_pending_bio_fsync") == Some(0)
            && info.get::<i64>("aof_buffer_length") == Some(0)
    };
    wait_until("the file is written", fsynced).await;
    server.kill();
    let down = store.enqueue(&new_task(), &qa_queue()).await.expect_err("down");
    assert!(down.is_outage(), "{down}");
    let down = store.enqueue(&new_task(), &qa_queue()).await.expect_err("down");
    assert!(matches!(down, StoreError::Unreachable(_)), "nothing was sent: {down:?}");
    server.restart().await;
    let back = Instant::now();
    while store.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    complete_lease(&store, &held).await;
    ids.remove(&held.task.id);
    drain(&store, &ids).await;
}

/// What a server answers first, however long it takes: one that loads looks at its connections now
/// and then.
async fn ping(address: &str) -> std::io::Result<[u8; 5]> {
    let (mut connection, mut answer) = (TcpStream::connect(address).await?, [0; 5]);
    connection.write_all(b"PING\r\n").await?;
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_server_that_loads_its_file_for_a_while_loses_no_task_and_is_an_outage() {
    // half a millisecond for each command of the file
    let slow = ["--key-load-delay", "500"];
    let mut server = RedisServer::start_with(&slow).await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let mut ids = HashSet::new();
    for _ in 0..1500 {
        ids.insert(enqueue_task(&store).await.id);
    }
    let held = lease_one(&store).await;
    let fsynced = async || {
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("persistence").query_async(&mut redis).await.expect("answers");
        info.get::<i64>("aof_pending_bio_fsync") == Some(0)
            && info.get::<i64>("aof_buffer_length") == Some(0)
    };
    wait_until("the file is written", fsynced).await;
    let address = server.addr();
    server.kill();
    let late = new_task();
    let loading = async {
        while !matches!(ping(&address).await.as_ref(), Ok(b"-LOAD")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Err(error) = store.enqueue(&late, &qa_queue()).await {
            assert!(error.is_outage(), "{error}");
        }
    };
    let ((), loaded) = tokio::join!(server.restart(), tokio::time::timeout(WAIT_DEADLINE, loading));
    loaded.expect("it is seen loading, and comes back");
    ids.insert(late.id);
    complete_lease(&store, &held).await;
    ids.remove(&held.task.id);
    drain(&store, &ids).await;
}

#[tokio::test]
async fn a_lease_whose_delivery_was_lost_is_found_again_unspent() {
    let server = RedisServer::start().await;
    let config = StoreConfig { timeout: Duration::from_millis(300), ..server.store_config() };
    let (store, mut redis) = (RunningStore::start_with_config(&config), server.connect().await);
    let task = enqueue_task(&store).await;
    let mut pause = redis::cmd("CLIENT");
    let _: () =
        pause.arg("PAUSE").arg(800).arg("ALL").query_async(&mut redis).await.expect("paused");
    let lost = store
        .lease(TEST_PROCESS, &[qa_queue()], 1, Duration::ZERO)
        .await
        .expect_err("no answer in time");
    assert!(matches!(lost, StoreError::OutcomeUnknown(_)), "{lost:?}");
    wait_until("the server goes on", async || store.ping().await.is_ok()).await;
    // what the server did with a call whose reply nobody got
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(QA_GROUP).arg(format!("consumer:omnidaemon-rs.{TEST_PROCESS}-1"));
    let _: redis::Value =
        read.arg("STREAMS").arg(QA_STREAM).arg(">").query_async(&mut redis).await.expect("read");
    assert_eq!(
        store.lease("testhost.2.boot", &[qa_queue()], 5, Duration::ZERO).await,
        Ok(vec![]),
        "it is not another's"
    );
    let found = lease_available(&store).await;
    assert_eq!((found.len(), &found[0].task.id, found[0].attempt), (1, &task.id, 1));
    assert_eq!(lease_available(&store).await, vec![], "once");
    complete_lease(&store, &found[0]).await;
    assert_eq!(pending_entries(&mut redis).await, vec![]);
}

#[tokio::test]
async fn who_gave_a_lease_back_is_fenced_from_the_next_of_the_same_attempt() {
    let server = RedisServer::start().await;
    let store = RunningStore::start(&server);
    enqueue_task(&store).await;
    let given_back = lease_one(&store).await;
    assert_eq!(store.settle(&given_back, &Settlement::Release).await, Ok(SettleResult::Applied));
    let current = lease_one(&store).await;
    assert_eq!((current.attempt, &current.task), (given_back.attempt, &given_back.task));
    assert_eq!(store.settle(&given_back, &complete_settlement()).await, Ok(SettleResult::Fenced));
    assert_eq!(store.settle(&given_back, &Settlement::Release).await, Ok(SettleResult::Fenced));
    assert_eq!(
        store.renew(TEST_PROCESS, std::slice::from_ref(&given_back)).await,
        Ok(vec![given_back.task.id])
    );
    complete_lease(&store, &current).await;
}

#[tokio::test]
async fn a_cancel_that_overtakes_its_enqueue_still_counts() {
    let server = RedisServer::start().await;
    let store = RunningStore::start(&server);
    let late = new_task();
    assert_eq!(store.cancel(&late.id, super::RESULT_TTL).await, Ok(CancelResult::NoSuchTask));
    assert_eq!(store.get_task(&late.id).await, Ok(None));
    store.enqueue(&late, &qa_queue()).await.expect("its connection was slow");
    assert_eq!(
        lease_available(&store).await,
        vec![],
        "it was cancelled, and another has served the request"
    );
    assert_eq!(store.get_task(&late.id).await, Ok(None));
}

#[tokio::test]
async fn an_orphan_behind_many_held_leases_is_not_starved() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for _ in 0..150 {
        enqueue_task(&store).await;
    }
    // a consumer of another make holds the head of the list
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("COUNT")
        .arg(149)
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let orphan = lease_one(&store).await;
    age_pending(&mut redis, Duration::from_mins(1)).await;
    reap_queue(&store).await;
    let again = lease_one(&store).await;
    assert_eq!((again.task.id, again.attempt), (orphan.task.id, 2));
}

#[tokio::test]
async fn consumers_of_processes_long_gone_are_forgotten_unless_they_hold_something() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    lease_one(&store).await;
    enqueue_task(&store).await;
    let done =
        store.lease("testhost.2.gone", &[qa_queue()], 1, Duration::ZERO).await.expect("answers");
    complete_lease(&store, &done[0]).await;
    reap_queue(&store).await;
    let names = async |redis: &mut redis::aio::MultiplexedConnection| {
        let found: redis::streams::StreamInfoConsumersReply =
            redis.xinfo_consumers(QA_STREAM, QA_GROUP).await.expect("answers");
        found.consumers.into_iter().map(|consumer| consumer.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut redis).await.len(), 2, "both were there a moment ago");
    let script = concat!(
        include_str!("../../../../src/store/redis/scripts/prelude.lua"),
        "local stream = KEYS[1]\nlocal group, consumer_mark, min_idle_ms = unpack(ARGV)\n",
        include_str!("../../../../src/store/redis/scripts/remove_idle_consumers.lua"),
    );
    let mut forget = redis::cmd("EVAL");
    // as if long had passed
    forget.arg(script).arg(1).arg(QA_STREAM).arg(QA_GROUP).arg("-rs.").arg(0);
    assert_eq!(forget.query_async::<i64>(&mut redis).await, Ok(1));
    assert_eq!(names(&mut redis).await, [format!("consumer:omnidaemon-rs.{TEST_PROCESS}-1")]);
}

#[tokio::test]
async fn a_server_that_says_no_is_a_refusal_and_nothing_is_queued() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let held = lease_one(&store).await;
    let mut set = async |name: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        let _: () =
            command.arg("SET").arg(name).arg(value).query_async(&mut redis).await.expect("set");
    };
    set("maxmemory", "1").await;
    let full = store.enqueue(&new_task(), &qa_queue()).await;
    assert!(matches!(full, Err(StoreError::Refused(StoreRefusal::StorageFull(_)))), "{full:?}");
    complete_lease(&store, &held).await; // what runs can end: that gives memory back
    set("maxmemory", "0").await;
    enqueue_task(&store).await;
    let mut redis = server.connect().await;
    let _: () = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg("1")
        .query_async(&mut redis)
        .await
        .expect("set");
    let replica = store.enqueue(&new_task(), &qa_queue()).await;
    assert!(matches!(replica, Err(StoreError::Refused(StoreRefusal::ReadOnly(_)))), "{replica:?}");
    let _: () =
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut redis).await.expect("set");
    enqueue_task(&store).await;
    assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(2));
}

#[tokio::test]
async fn a_password_is_in_no_error() {
    let server = RedisServer::start().await;
    let mut redis = server.connect().await;
    let mut set = redis::cmd("CONFIG");
    let _: () =
        set.arg("SET").arg("requirepass").arg("canary").query_async(&mut redis).await.expect("set");
    let url = |password: &str| server.url().replace("//", &format!("//:{password}@"));
    let with =
        |url| StoreConfig { url: StoreUrl::Redis(Secret::new(url)), ..server.store_config() };
    assert_eq!(RunningStore::start_with_config(&with(url("canary"))).ping().await, Ok(()));
    for url in [url("canary-wrong"), server.url(), "redis://:canary@127.0.0.1:1".into()] {
        let error = RunningStore::start_with_config(&with(url))
            .ping()
            .await
            .expect_err("refused")
            .to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn the_store_serves_runtimes_that_come_and_go() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let home = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (server, store) = home.block_on(async {
        let server = RedisServer::start().await;
        let store = RunningStore::start(&server);
        store.ping().await.expect("answers");
        (server, store)
    });
    for _ in 0..3 {
        let id = runtime().block_on(enqueue_task(&store)).id;
        let lease = runtime().block_on(lease_one(&store));
        assert_eq!(lease.task.id, id);
        runtime().block_on(complete_lease(&store, &lease));
    }
    drop((server, store));
}
