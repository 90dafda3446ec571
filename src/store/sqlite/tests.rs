//! Tests of what only the SQLite store promises; what both stores promise is in the contract suite
//! (`tests/it/store/contract/`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::row::NewTaskRow;
use super::sql::queue::{EnqueueLimits, enqueue_task};
use super::{SqliteClock, SqliteStore};
use crate::store::{
    CRASH_RERUN_LIMIT, DeadLetterQueue as _, EVIDENCE_RETENTION, LEASE_DURATION, Lease,
    ReplicaReport, RolloutStore as _, SettleResult, Settlement, StoreError, StoreRefusal,
    StoreService as _, TaskLeasing as _, TaskQueue as _, TaskReader as _, TopicQueue,
};
use crate::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskStatus, Topic, UnixMs};

const TTL: Duration = Duration::from_hours(1);

/// A directory with a database that a test can open several times.
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

    /// A plain connection to the file.
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
async fn a_failing_change_is_rolled_back_and_does_not_fail_its_batch() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    let (release, released) = mpsc::channel::<()>();
    let blocking = store.writer.submit_change(move |_| Ok(released.recv().ok()));
    let (first, last) = (test_task(&q), test_task(&q));
    let failing = store.writer.submit_change({
        let row = NewTaskRow::from_task(&test_task(&q)).expect("encoded");
        let limits = EnqueueLimits { max_backlog: 1000, max_open_tasks: None };
        move |db| {
            enqueue_task(db, &row, limits)?.expect("no backlog");
            db.connection.execute("INSERT INTO tasks (seq) VALUES ('not a number')", [])
        }
    });
    // Polled in this order, the three later changes wait behind the first and form one batch.
    let release = async move { drop(release) };
    let (freed, first_in, failed, last_in, ()) = tokio::join!(
        blocking,
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
        "the counts of the failed change are rolled back"
    );
    for expected in [first.id, last.id] {
        assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task.id), Some(expected));
    }
    assert!(lease_one_task(&store, &q).await.is_none());
}

#[tokio::test]
async fn a_full_disk_refuses_changes_until_there_is_room() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    let known = enqueue_test_task(&store, &q).await;
    let limit = async |pages: u32| {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        store
            .writer
            .submit_change(move |db| db.connection.query_row(&pragma, [], |_| Ok(())))
            .await
            .expect("limited");
    };
    limit(1).await; // SQLite raises it to the present size
    let big = Task { payload: Bytes::from(vec![b' '; 1 << 20]), ..test_task(&q) };
    let refused = store.enqueue(&big, &q).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(StoreRefusal::StorageFull(_)))),
        "{refused:?}"
    );
    assert_eq!(store.get_task(&big.id).await, Ok(None));
    assert_eq!(load_depth_counts(&store, &q).await, (1, 0, 0));

    let running = lease_one_task(&store, &q).await.expect("a lease needs no space");
    let waiter = store.end_waiters().register_waiter(&known);
    let big_answer =
        Settlement::Complete { answer: TaskAnswer::from_json(big.payload.clone()), ttl: TTL };
    let refused = store.settle(&running, &big_answer).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(StoreRefusal::StorageFull(_)))),
        "{refused:?}"
    );
    assert_eq!(load_depth_counts(&store, &q).await, (0, 1, 0));
    assert!(store.end_waiters().has_waiter_for(&known), "no task has ended");

    limit(100_000).await;
    assert_eq!(store.enqueue(&big, &q).await, Ok(()));
    assert_eq!(store.settle(&running, &big_answer).await, Ok(SettleResult::Applied));
    assert_eq!(waiter.await.map(|record| record.status), Some(TaskStatus::Completed));
}

#[tokio::test]
async fn a_read_only_database_refuses_changes() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    store
        .writer
        .submit_change(|db| db.connection.execute_batch("PRAGMA query_only = ON"))
        .await
        .expect("set");
    let refused = store.enqueue(&test_task(&q), &q).await;
    assert!(matches!(refused, Err(StoreError::Refused(StoreRefusal::ReadOnly(_)))), "{refused:?}");
}

#[tokio::test]
async fn a_dropped_lease_call_leases_no_task() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    {
        let mut dropped = std::pin::pin!(store.lease("p", std::slice::from_ref(&q), 1, TTL));
        assert!(futures_util::poll!(&mut dropped).is_pending());
        store.ping().await.expect("the writer has received it");
    }
    let id = enqueue_test_task(&store, &q).await;
    assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task.id), Some(id));
}

// === fencing ===

#[tokio::test]
async fn a_repeated_release_does_not_end_the_lease_after_it() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    enqueue_test_task(&store, &q).await;
    let first = lease_one_task(&store, &q).await.expect("leased");
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Applied));
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Applied));
    let second = lease_one_task(&store, &q).await.expect("leased");
    assert_eq!(second.attempt, first.attempt, "the released attempt is not counted");
    assert_eq!(store.settle(&first, &Settlement::Release).await, Ok(SettleResult::Fenced));
    assert_eq!(store.settle(&second, &complete_settlement()).await, Ok(SettleResult::Applied));
}

#[tokio::test]
async fn the_id_of_an_expired_record_is_free_before_it_is_purged() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let clock = SqliteClock::default();
    let store = SqliteStore::open_with_clock(&database.path(), clock.clone()).expect("opens");
    let task = test_task(&q);
    store.enqueue(&task, &q).await.expect("enqueued");
    store.cancel(&task.id, TTL).await.expect("cancelled");
    clock.advance(TTL);
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.task), Some(task));
}

#[tokio::test]
async fn a_task_that_cannot_be_decoded_becomes_a_dead_letter_and_the_others_are_leased() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    let (broken, sound) =
        (enqueue_test_task(&store, &q).await, enqueue_test_task(&store, &q).await);
    let damage = format!(
        "UPDATE inputs SET request = '{{\"v\":9}}'
         WHERE seq = (SELECT seq FROM tasks WHERE id = '{broken}')"
    );
    store
        .writer
        .submit_change(move |db| db.connection.execute(&damage, []))
        .await
        .expect("damaged");
    let leases =
        store.lease("p", std::slice::from_ref(&q), 5, Duration::ZERO).await.expect("answers");
    assert_eq!(leases.iter().map(|lease| &lease.task.id).collect::<Vec<_>>(), [&sound]);
    let letters = store.list_dead_letters(&q, None, 5).await.expect("answers");
    assert_eq!((letters.len(), letters[0].id.as_str()), (1, broken.as_str()));
    assert_eq!(
        store.get_task(&broken).await.expect("answers").map(|record| record.status),
        Some(TaskStatus::Failed)
    );
}

#[tokio::test]
async fn a_process_that_was_paused_keeps_the_leases_of_its_running_tasks() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let clock = SqliteClock::default();
    let store = SqliteStore::open_with_clock(&database.path(), clock.clone()).expect("opens");
    enqueue_test_task(&store, &q).await;
    let held = lease_one_task(&store, &q).await.expect("leased");
    clock.advance(LEASE_DURATION * 3);
    store.reap_expired("p", std::slice::from_ref(&q), TTL).await.expect("reaped");
    assert!(lease_one_task(&store, &q).await.is_none());
    assert_eq!(store.settle(&held, &complete_settlement()).await, Ok(SettleResult::Applied));
}

// === opening ===

#[tokio::test]
async fn opening_a_database_that_is_open_is_refused_with_the_pid_of_its_process() {
    let database = TestDatabase::new();
    let store = database.open();
    let pid = std::process::id().to_string();
    let path = database.path().canonicalize().expect("it exists").display().to_string();
    assert_eq!(database.open_error(), StoreError::Locked { path, pid });
    drop(store);
    drop(database.open());
}

#[tokio::test]
async fn the_lock_also_holds_for_another_name_of_the_same_file() {
    let database = TestDatabase::new();
    let store = database.open();
    let link = database.0.path().join("link.db");
    std::os::unix::fs::symlink(database.path(), &link).expect("linked");
    assert!(matches!(SqliteStore::open(&link), Err(StoreError::Locked { .. })));
    drop(store);
}

#[tokio::test]
async fn opening_releases_the_leases_of_an_earlier_boot_with_their_attempt_counted() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
    let id = enqueue_test_task(&store, &q).await;
    let lost = lease_one_task(&store, &q).await.expect("leased");
    drop(store);
    let store = database.open();
    assert_eq!(load_depth_counts(&store, &q).await, (1, 0, 0));
    let again = lease_one_task(&store, &q).await.expect("leasable at once");
    assert_eq!((&again.task.id, again.attempt), (&id, 2));
    assert_eq!(store.settle(&lost, &complete_settlement()).await, Ok(SettleResult::Fenced));
    assert_eq!(store.settle(&again, &complete_settlement()).await, Ok(SettleResult::Applied));
}

#[tokio::test]
async fn a_task_that_kills_its_process_each_time_becomes_a_dead_letter() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let mut store = database.open();
    let id = enqueue_test_task(&store, &q).await;
    for attempt in 1..=CRASH_RERUN_LIMIT {
        assert_eq!(lease_one_task(&store, &q).await.map(|lease| lease.attempt), Some(attempt));
        drop(store);
        store = database.open();
    }
    assert!(lease_one_task(&store, &q).await.is_none(), "the limit of crashes is reached");
    store.reap_expired("p", std::slice::from_ref(&q), TTL).await.expect("reaped");
    assert_eq!(
        store.get_task(&id).await.expect("answers").map(|record| record.status),
        Some(TaskStatus::Failed)
    );
    assert_eq!(load_depth_counts(&store, &q).await, (0, 0, 1));
}

#[tokio::test]
async fn the_queue_counts_in_memory_equal_those_of_a_new_start() {
    let (database, q) = (TestDatabase::new(), test_queue("a"));
    let store = database.open();
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
    let counts = store.queue_counts.counts_of_topic(q.topic.as_str());
    drop(store);
    assert_eq!(database.open().queue_counts.counts_of_topic(q.topic.as_str()), counts);
    assert!(counts.ready > 0 && counts.delayed == 1 && counts.dead_letters == 1, "{counts:?}");
}

fn replica_report(counts_json: &str) -> ReplicaReport {
    let epoch_counts = vec![("invoke".to_owned(), 1, counts_json.to_owned())];
    ReplicaReport {
        process: "p".into(),
        description_json: "{}".into(),
        wants_lead: true,
        epoch_counts,
    }
}

#[tokio::test]
async fn a_replica_report_with_unchanged_counts_writes_nothing() {
    let database = TestDatabase::new();
    let store = database.open();
    store.sync_replica(&replica_report("1"), &[]).await.expect("synced");
    let log_size = || fs::metadata(database.0.path().join("tasks.db-wal")).expect("there").len();
    let before = log_size();
    for _ in 0..5 {
        store.sync_replica(&replica_report("1"), &["invoke".into()]).await.expect("synced");
    }
    assert_eq!(log_size(), before);
    store.sync_replica(&replica_report("2"), &[]).await.expect("synced");
    assert!(log_size() > before, "changed counts are written");
    assert_eq!(
        store.load_evidence("invoke", &[1]).await.expect("answers")[0].replica_counts,
        [("p".into(), "2".into())]
    );
}

#[tokio::test]
async fn the_evidence_of_an_epoch_is_deleted_when_its_retention_ends() {
    let (database, clock) = (TestDatabase::new(), SqliteClock::default());
    let store = SqliteStore::open_with_clock(&database.path(), clock.clone()).expect("opens");
    let canaried = |epoch| Task {
        route: Some("invoke".into()),
        epoch: Some(epoch),
        ..test_task(&test_queue("a"))
    };
    store.enqueue(&canaried(1), &test_queue("a")).await.expect("enqueued");
    store.sync_replica(&replica_report("1"), &[]).await.expect("synced");
    clock.advance(EVIDENCE_RETENTION / 2);
    store.enqueue(&canaried(2), &test_queue("a")).await.expect("enqueued");
    let load_counts = async || {
        let evidence = store.load_evidence("invoke", &[1, 2]).await.expect("answers");
        evidence
            .iter()
            .map(|epoch| (epoch.accepted, epoch.replica_counts.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(load_counts().await, [(1, 1), (1, 0)]);
    clock.advance(EVIDENCE_RETENTION / 2 + Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(load_counts().await, [(0, 0), (1, 0)]);
        store.reap_expired("p", &[], TTL).await.expect("reaped");
    }
    let rows = |table| {
        let sql = format!("SELECT count(*) FROM {table} WHERE epoch = 1");
        database.raw_connection().query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("counted")
    };
    assert_eq!(["epochs", "tallies", "counts"].map(rows), [0; 3]);
}

#[tokio::test]
async fn a_missing_directory_is_created_and_only_the_owner_can_read_the_files() {
    let database = TestDatabase::new();
    let path = database.0.path().join("data/deep/tasks.db");
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
async fn a_newer_schema_is_refused_and_not_changed() {
    let database = TestDatabase::new();
    drop(database.open());
    database.raw_connection().pragma_update(None, "user_version", 99).expect("set");
    let refusal = database.open_error().to_string();
    assert!(refusal.contains("has schema 99, this release reads 5 and 4"), "{refusal}");
    let version: i64 = database
        .raw_connection()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("read");
    assert_eq!(version, 99);
}

#[tokio::test]
async fn files_of_other_programs_are_refused_and_not_changed() {
    let database = TestDatabase::new();
    database.raw_connection().execute_batch("CREATE TABLE other (x)").expect("made");
    let before = fs::read(database.path()).expect("readable");
    let refusal = database.open_error().to_string();
    assert!(refusal.contains("a database of another program"), "{refusal}");
    assert_eq!(fs::read(database.path()).expect("readable"), before);

    fs::write(
        database.path(),
        "text that is longer than the header of a database file: ".repeat(20),
    )
    .expect("written");
    let refusal = database.open_error().to_string();
    assert!(refusal.contains("not a SQLite database"), "{refusal}");

    let refusal = SqliteStore::open(database.0.path())
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(refusal.contains("choose another store.url"), "{refusal}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_created_is_named_in_the_error() {
    let database = TestDatabase::new();
    fs::write(database.0.path().join("file"), "").expect("written");
    let path = database.0.path().join("file/below/omnidaemon.db");
    let refusal = SqliteStore::open(&path).err().map(|error| error.to_string()).unwrap_or_default();
    let directory =
        format!("the directory {} cannot be made: ", path.parent().expect("it has one").display());
    assert!(
        refusal.contains(&directory) && refusal.contains("choose another store.url"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_damaged_database_is_refused_with_a_remedy() {
    let database = TestDatabase::new();
    drop(database.open());
    let mut bytes = fs::read(database.path()).expect("readable");
    bytes[100..].fill(0x5a);
    fs::write(database.path(), bytes).expect("written");
    let refusal = database.open_error().to_string();
    assert!(refusal.contains("restore a backup"), "{refusal}");
}
