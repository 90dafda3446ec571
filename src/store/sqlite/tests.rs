//! What is the embedded store's own; what it shares with the other store is in the contract suite.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::store::{CRASH_RERUN_LIMIT, EVIDENCE_RETENTION, LEASE_DURATION, StoreRefusal};
use crate::task::{Task, TaskAnswer, TaskStatus, UnixMs};

const TTL: Duration = Duration::from_hours(1);

/// A directory with a database that a test opens, and opens again.
struct TestDatabase(TempDir);

impl TestDatabase {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("tasks.db")
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path()).expect("opens")
    }

    fn open_error(&self) -> StoreError {
        SqliteStore::open(&self.path()).err().expect("it should be refused")
    }

    /// The file without the store around it.
    fn raw_connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).expect("opens")
    }
}

fn test_queue(topic: &str) -> TopicQueue {
    let topic = Topic::parse(topic).expect("a topic");
    TopicQueue { max_backlog: 1000, ..TopicQueue::with_default_settings(topic, "omnidaemon") }
}

fn test_task(queue: &TopicQueue) -> Task {
    let created = UnixMs(1_700_000_000_000);
    Task::new(TaskId::new(created, rand::random()), queue.topic.clone(), "{}", created)
}

async fn enqueue_test_task(store: &SqliteStore, queue: &TopicQueue) -> TaskId {
    let task = test_task(queue);
    store.enqueue(&task, queue).await.expect("enqueued");
    task.id
}

async fn lease_one_task(store: &SqliteStore, queue: &TopicQueue) -> Option<Lease> {
    let leases =
        store.lease("p", std::slice::from_ref(queue), 1, Duration::ZERO).await.expect("answers");
    leases.into_iter().next()
}

fn complete_settlement() -> Settlement {
    Settlement::Complete { answer: TaskAnswer::from_json("{}"), ttl: TTL }
}

async fn load_depth_counts(store: &SqliteStore, queue: &TopicQueue) -> (u64, u64, u64) {
    let depths = store.load_queue_depths(std::slice::from_ref(queue)).await.expect("answers");
    (depths[0].queued, depths[0].processing, depths[0].dead_letters)
}

// === the writer ===

#[tokio::test]
async fn a_change_that_fails_fails_alone_and_leaves_nothing() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    let (release, released) = mpsc::channel::<()>();
    let held_up = store.writer.submit_change(move |_| Ok(released.recv().ok()));
    let (first, last) = (test_task(&q), test_task(&q));
    let failing = store.writer.submit_change({
        let doomed = NewTaskRow::from_task(&test_task(&q)).expect("sealed");
        move |db| {
            ops::enqueue_task(db, &doomed, 1000)?.expect("no backlog");
            db.connection.execute("INSERT INTO tasks (seq) VALUES ('not a number')", [])
        }
    });
    // Polled in this order, all three wait behind the first and become one batch.
    let release = async move { drop(release) };
    let (freed, first_in, failed, last_in, ()) = tokio::join!(
        held_up,
        store.enqueue(&first, &q),
        failing,
        store.enqueue(&last, &q),
        release
    );
    assert!(freed.is_ok() && failed.is_err(), "{failed:?}");
    assert_eq!((first_in, last_in), (Ok(()), Ok(())));
    assert_eq!(
        load_depth_counts(&store, &q).await,
        (2, 0, 0),
        "what the failed change had counted is forgotten"
    );
    for expected in [first.id, last.id] {
        assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task.id), Some(expected));
    }
    assert!(lease_one_task(&store, &q).await.is_none());
}

#[tokio::test]
async fn a_full_disk_refuses_and_the_store_goes_on_when_there_is_room() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    let known = enqueue_test_task(&store, &q).await;
    let limit = async |pages: u32| {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        store
            .writer
            .submit_change(move |db| db.connection.query_row(&pragma, [], |_| Ok(())))
            .await
            .expect("limited");
    };
    limit(1).await; // SQLite makes it the present size
    let big = Task { payload: Bytes::from(vec![b' '; 1 << 20]), ..test_task(&q) };
    let refused = store.enqueue(&big, &q).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(StoreRefusal::StorageFull(_)))),
        "{refused:?}"
    );
    assert_eq!(store.get_task(&big.id).await, Ok(None));
    assert_eq!(load_depth_counts(&store, &q).await, (1, 0, 0));

    let running = lease_one_task(&store, &q).await.expect("a lease needs no room");
    let waiter = store.end_waiters().register_waiter(&known);
    let big_answer =
        Settlement::Complete { answer: TaskAnswer::from_json(big.payload.clone()), ttl: TTL };
    let refused = store.settle(&running, &big_answer).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(StoreRefusal::StorageFull(_)))),
        "{refused:?}"
    );
    assert_eq!(load_depth_counts(&store, &q).await, (0, 1, 0));
    assert!(store.end_waiters().has_waiter_for(&known), "nothing has ended");

    limit(100_000).await;
    assert_eq!(store.enqueue(&big, &q).await, Ok(()));
    assert_eq!(store.settle(&running, &big_answer).await, Ok(SettleResult::Applied));
    assert_eq!(waiter.await.map(|record| record.status), Some(TaskStatus::Completed));
}

#[tokio::test]
async fn a_database_that_became_read_only_refuses() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    store
        .writer
        .submit_change(|db| db.connection.execute_batch("PRAGMA query_only = ON"))
        .await
        .expect("set");
    let refused = store.enqueue(&test_task(&q), &q).await;
    assert!(matches!(refused, Err(StoreError::Refused(StoreRefusal::ReadOnly(_)))), "{refused:?}");
}

#[tokio::test]
async fn a_lease_call_that_was_dropped_takes_nothing() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    {
        let mut dropped =
            std::pin::pin!(store.writer.request_leases("p".into(), vec![q.topic.clone()], 1, TTL));
        assert!(futures_util::poll!(&mut dropped).is_pending());
        store.ping().await.expect("the writer has seen it");
    }
    let id = enqueue_test_task(&store, &q).await;
    assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task.id), Some(id));
}

// === tokens ===

#[tokio::test]
async fn a_repeated_release_does_not_end_the_lease_after_it() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    enqueue_test_task(&store, &q).await;
    let first = lease_one_task(&store, &q).await.expect("leased");
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Applied));
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Applied));
    let second = lease_one_task(&store, &q).await.expect("leased");
    assert_eq!(second.attempt, first.attempt, "the attempt was given back");
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Fenced));
    assert_eq!(store.settle(&second, &complete_settlement()).await, Ok(SettleResult::Applied));
}

#[tokio::test]
async fn the_id_of_an_expired_record_is_free_before_it_is_purged() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let clock = SqliteClock::default();
    let store = SqliteStore::open_with_clock(&place.path(), clock.clone()).expect("opens");
    let task = test_task(&q);
    store.enqueue(&task, &q).await.expect("enqueued");
    store.cancel(&task.id, TTL).await.expect("cancelled");
    clock.advance(TTL);
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task), Some(task));
}

#[tokio::test]
async fn a_task_that_cannot_be_read_back_is_a_dead_letter_and_holds_nobody_up() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    let (broken, sound) =
        (enqueue_test_task(&store, &q).await, enqueue_test_task(&store, &q).await);
    let spoil = format!(
        "UPDATE inputs SET request = '{{\"v\":9}}' WHERE seq = (SELECT seq FROM tasks WHERE id = '{broken}')"
    );
    store.writer.submit_change(move |db| db.connection.execute(&spoil, [])).await.expect("spoilt");
    let leases =
        store.lease("p", std::slice::from_ref(&q), 5, Duration::ZERO).await.expect("answers");
    assert_eq!(leases.iter().map(|lease| &lease.task.id).collect::<Vec<_>>(), [&sound]);
    let letters = store.list_dead_letters(&q, 5).await.expect("answers");
    assert_eq!((letters.len(), letters[0].id.as_str()), (1, broken.as_str()));
    assert_eq!(
        store.get_task(&broken).await.expect("answers").map(|record| record.status),
        Some(TaskStatus::Failed)
    );
}

#[tokio::test]
async fn a_process_that_stood_still_keeps_the_leases_of_its_running_tasks() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let clock = SqliteClock::default();
    let store = SqliteStore::open_with_clock(&place.path(), clock.clone()).expect("opens");
    enqueue_test_task(&store, &q).await;
    let held = lease_one_task(&store, &q).await.expect("leased");
    clock.advance(LEASE_DURATION * 3);
    store.reap_expired("p", std::slice::from_ref(&q), TTL).await.expect("tended");
    assert!(lease_one_task(&store, &q).await.is_none());
    assert_eq!(store.settle(&held, &complete_settlement()).await, Ok(SettleResult::Applied));
}

// === opening ===

#[tokio::test]
async fn a_second_opener_is_refused_with_the_holders_pid() {
    let place = TestDatabase::new();
    let store = place.open();
    let pid = std::process::id().to_string();
    let path = place.path().canonicalize().expect("it exists").display().to_string();
    assert_eq!(place.open_error(), StoreError::Locked { path, pid });
    drop(store);
    drop(place.open());
}

#[tokio::test]
async fn the_same_file_under_another_name_is_locked_too() {
    let place = TestDatabase::new();
    let store = place.open();
    let link = place.0.path().join("link.db");
    std::os::unix::fs::symlink(place.path(), &link).expect("linked");
    assert!(matches!(SqliteStore::open(&link), Err(StoreError::Locked { .. })));
    drop(store);
}

#[tokio::test]
async fn opening_releases_the_leases_of_an_earlier_boot_with_their_attempt_counted() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    let id = enqueue_test_task(&store, &q).await;
    let lost = lease_one_task(&store, &q).await.expect("leased");
    drop(store);
    let store = place.open();
    assert_eq!(load_depth_counts(&store, &q).await, (1, 0, 0));
    let again = lease_one_task(&store, &q).await.expect("leasable at once");
    assert_eq!((&again.task.id, again.attempt), (&id, 2));
    assert_eq!(store.settle(&lost, &complete_settlement()).await, Ok(SettleResult::Fenced));
    assert_eq!(store.settle(&again, &complete_settlement()).await, Ok(SettleResult::Applied));
}

#[tokio::test]
async fn a_task_that_kills_its_process_each_time_becomes_a_dead_letter() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let mut store = place.open();
    let id = enqueue_test_task(&store, &q).await;
    for attempt in 1..=CRASH_RERUN_LIMIT {
        assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.attempt), Some(attempt));
        drop(store);
        store = place.open();
    }
    assert!(lease_one_task(&store, &q).await.is_none(), "it has killed enough");
    store.reap_expired("p", std::slice::from_ref(&q), TTL).await.expect("tended");
    assert_eq!(
        store.get_task(&id).await.expect("answers").map(|record| record.status),
        Some(TaskStatus::Failed)
    );
    assert_eq!(load_depth_counts(&store, &q).await, (0, 0, 1));
}

#[tokio::test]
async fn what_is_remembered_is_what_a_new_start_counts() {
    let (place, q) = (TestDatabase::new(), test_queue("a"));
    let store = place.open();
    let failure = TaskFailure::new(FailureKind::HandlerError, "x");
    let ends = [
        Some(complete_settlement()),
        Some(Settlement::Release),
        Some(Settlement::Retry { failure: failure.clone(), retry_at: UnixMs(u64::MAX) }),
        Some(Settlement::Bury { failure, ttl: TTL }),
        None,
    ];
    for end in &ends {
        enqueue_test_task(&store, &q).await;
        let lease = lease_one_task(&store, &q).await.expect("leased");
        match end {
            Some(settlement) => drop(store.settle(&lease, settlement).await.expect("settled")),
            None => drop(store.cancel(&lease.task.id, TTL).await.expect("cancelled")),
        }
    }
    let remembered = store.queue_counts.counts_of_topic(q.topic.as_str());
    drop(store);
    assert_eq!(place.open().queue_counts.counts_of_topic(q.topic.as_str()), remembered);
    assert!(
        remembered.ready > 0 && remembered.delayed == 1 && remembered.dead_letters == 1,
        "{remembered:?}"
    );
}

fn replica_report(counted: &str) -> ReplicaReport {
    let counts = vec![("invoke".to_owned(), 1, counted.to_owned())];
    ReplicaReport {
        process: "p".into(),
        description_json: "{}".into(),
        wants_lead: true,
        epoch_counts: counts,
    }
}

#[tokio::test]
async fn a_replica_that_meets_without_news_writes_nothing() {
    let place = TestDatabase::new();
    let store = place.open();
    store.sync_replica(&replica_report("1"), &[]).await.expect("met");
    let log = || fs::metadata(place.0.path().join("tasks.db-wal")).expect("there").len();
    let before = log();
    for _ in 0..5 {
        store.sync_replica(&replica_report("1"), &["invoke".into()]).await.expect("met");
    }
    assert_eq!(log(), before);
    store.sync_replica(&replica_report("2"), &[]).await.expect("met");
    assert!(log() > before, "news is written");
    assert_eq!(
        store.load_evidence("invoke", &[1]).await.expect("answers")[0].replica_counts,
        [("p".into(), "2".into())]
    );
}

#[tokio::test]
async fn what_was_counted_goes_in_time_with_all_that_belongs_to_it() {
    let (place, clock) = (TestDatabase::new(), SqliteClock::default());
    let store = SqliteStore::open_with_clock(&place.path(), clock.clone()).expect("opens");
    let canaried = |epoch| Task {
        route: Some("invoke".into()),
        epoch: Some(epoch),
        ..test_task(&test_queue("a"))
    };
    store.enqueue(&canaried(1), &test_queue("a")).await.expect("enqueued");
    store.sync_replica(&replica_report("1"), &[]).await.expect("met");
    clock.advance(EVIDENCE_RETENTION / 2);
    store.enqueue(&canaried(2), &test_queue("a")).await.expect("enqueued");
    let known = async || {
        let known = store.load_evidence("invoke", &[1, 2]).await.expect("answers");
        known.iter().map(|known| (known.accepted, known.replica_counts.len())).collect::<Vec<_>>()
    };
    assert_eq!(known().await, [(1, 1), (1, 0)]);
    clock.advance(EVIDENCE_RETENTION / 2 + Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(known().await, [(0, 0), (1, 0)]);
        store.reap_expired("p", &[], TTL).await.expect("tended");
    }
    let rows = |table| {
        let sql = format!("SELECT count(*) FROM {table} WHERE epoch = 1");
        place.raw_connection().query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("counted")
    };
    assert_eq!(["epochs", "tallies", "counts"].map(rows), [0; 3]);
}

#[tokio::test]
async fn a_missing_directory_is_made_and_the_files_are_the_owners_alone() {
    let place = TestDatabase::new();
    let path = place.0.path().join("data/deep/tasks.db");
    let store = SqliteStore::open(&path).expect("opens");
    enqueue_test_task(&store, &test_queue("a")).await;
    let files: Vec<_> =
        fs::read_dir(path.parent().expect("has one")).expect("listed").flatten().collect();
    assert!(files.len() >= 4, "database, lock, log and its index: {files:?}");
    for file in files {
        let mode = file.metadata().expect("known").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = TestDatabase::new();
    drop(place.open());
    place.raw_connection().pragma_update(None, "user_version", 99).expect("set");
    let refusal = place.open_error().to_string();
    assert!(refusal.contains("has schema 99, this release reads 4"), "{refusal}");
    let version: i64 = place
        .raw_connection()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("read");
    assert_eq!(version, 99);
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused_and_left_alone() {
    let place = TestDatabase::new();
    place.raw_connection().execute_batch("CREATE TABLE theirs (x)").expect("made");
    let before = fs::read(place.path()).expect("readable");
    let refusal = place.open_error().to_string();
    assert!(refusal.contains("a database of another program"), "{refusal}");
    assert_eq!(fs::read(place.path()).expect("readable"), before);

    fs::write(
        place.path(),
        "a letter to my aunt, longer than the header of a database file is: ".repeat(20),
    )
    .expect("written");
    let refusal = place.open_error().to_string();
    assert!(refusal.contains("not a SQLite database"), "{refusal}");

    let refusal =
        SqliteStore::open(place.0.path()).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.contains("choose another store.url"), "{refusal}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let place = TestDatabase::new();
    fs::write(place.0.path().join("file"), "").expect("written");
    let path = place.0.path().join("file/below/omnidaemon.db");
    let refusal = SqliteStore::open(&path).err().map(|error| error.to_string()).unwrap_or_default();
    let directory =
        format!("the directory {} cannot be made: ", path.parent().expect("it has one").display());
    assert!(
        refusal.contains(&directory) && refusal.contains("choose another store.url"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_damaged_database_is_refused_with_a_way_out() {
    let place = TestDatabase::new();
    drop(place.open());
    let mut bytes = fs::read(place.path()).expect("readable");
    bytes[100..].fill(0x5a);
    fs::write(place.path(), bytes).expect("written");
    let refusal = place.open_error().to_string();
    assert!(refusal.contains("restore a backup"), "{refusal}");
}
