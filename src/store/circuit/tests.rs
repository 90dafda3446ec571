//! Tests of the circuit over a store that a test makes unreachable.

use super::*;
use crate::store::testing::FaultyStore;
use crate::store::{SqliteStore, StoreService as _, TopicQueue};
use crate::task::{Task, TaskStatus, Topic, UnixMs};

const TTL: Duration = Duration::from_hours(1);

fn open_test_circuit(dir: &tempfile::TempDir) -> (Arc<FaultyStore>, Arc<Circuit>) {
    let sqlite = SqliteStore::open(&dir.path().join("tasks.db")).expect("opened");
    let store = Arc::new(FaultyStore::new(Arc::new(sqlite)));
    let circuit = Circuit::new(Arc::clone(&store) as Arc<dyn TaskStore>, Duration::from_secs(10));
    (store, Arc::new(circuit))
}

async fn enqueue_test_task(store: &FaultyStore) -> TaskId {
    let topic = Topic::parse("t").expect("a topic");
    let queue = TopicQueue::with_default_settings(topic.clone(), "omnidaemon");
    let task = Task::new(TaskId::new(UnixMs(1), rand::random()), topic, "{}", UnixMs(1));
    store.store.enqueue(&task, &queue).await.expect("enqueued");
    task.id
}

async fn load_status(store: &FaultyStore, id: &TaskId) -> TaskStatus {
    store.store.get_task(id).await.expect("read").expect("known").status
}

fn unreachable_error() -> StoreError {
    StoreError::Unreachable("connection refused".into())
}

#[tokio::test]
async fn an_outage_during_a_probe_keeps_the_circuit_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_store, circuit) = open_test_circuit(&dir);
    circuit.record_outage(&unreachable_error(), None);
    let probed_after = circuit.lock_state().outage_count;
    circuit.record_outage(&StoreError::OutcomeUnknown("connection reset".into()), None);
    circuit.close_after_probe(probed_after);
    assert!(circuit.is_open());
    assert!(
        circuit.open_reason().is_some_and(|reason| reason.to_string().contains("connection reset"))
    );
    circuit.close_after_probe(probed_after + 1);
    assert!(!circuit.is_open() && circuit.open_reason().is_none());
}

#[tokio::test]
async fn a_cancel_added_while_others_are_sent_is_sent_before_the_circuit_closes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, circuit) = open_test_circuit(&dir);
    let late = enqueue_test_task(&store).await;
    circuit.record_outage(&unreachable_error(), None);
    assert!(circuit.send_pending_cancels(TTL).await);
    circuit.cancel_on_recovery(late.clone());
    circuit.close_after_probe(1);
    assert!(circuit.is_open());
    assert!(circuit.send_pending_cancels(TTL).await);
    circuit.close_after_probe(1);
    assert!(circuit.is_clear_to_run());
    assert_eq!(load_status(&store, &late).await, TaskStatus::Cancelled);
}

#[tokio::test]
async fn a_failed_cancel_stays_pending_and_the_circuit_open_until_all_are_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, circuit) = open_test_circuit(&dir);
    let ids = [enqueue_test_task(&store).await, enqueue_test_task(&store).await];
    store.is_down.store(true, Ordering::Relaxed);
    assert!(circuit.call(store.ping()).await.is_err() && circuit.is_open());
    for id in &ids {
        circuit.cancel_on_recovery(id.clone());
    }
    assert!(!circuit.send_pending_cancels(TTL).await);
    let shutdown = CancellationToken::new();
    let (probing, stop) = (Arc::clone(&circuit), shutdown.clone());
    let probes = tokio::spawn(async move { probing.run(TTL, stop).await });
    store.is_down.store(false, Ordering::Relaxed);
    circuit.wait_until_clear_to_run().await;
    for id in &ids {
        assert_eq!(load_status(&store, id).await, TaskStatus::Cancelled);
    }
    shutdown.cancel();
    probes.await.expect("joined");
}

#[tokio::test]
async fn a_task_in_doubt_is_cancelled_unless_its_cancel_is_withdrawn() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, circuit) = open_test_circuit(&dir);
    let [doubtful, kept] = [enqueue_test_task(&store).await, enqueue_test_task(&store).await];
    for id in [&doubtful, &kept] {
        circuit.record_outage(
            &StoreError::OutcomeUnknown("connection reset".into()),
            Some(id.clone()),
        );
    }
    circuit.close_after_probe(2);
    assert!(circuit.is_open(), "the pending cancels keep it open");
    assert!(circuit.withdraw_cancel(&kept) && !circuit.withdraw_cancel(&kept));
    assert!(circuit.begin_next_cancel().is_some_and(|first| first == doubtful));
    assert!(!circuit.withdraw_cancel(&doubtful), "the cancel is being sent");
    assert!(circuit.send_pending_cancels(TTL).await);
    circuit.close_after_probe(2);
    assert!(circuit.is_clear_to_run());
    assert_eq!(
        (load_status(&store, &doubtful).await, load_status(&store, &kept).await),
        (TaskStatus::Cancelled, TaskStatus::Queued)
    );
}

#[test]
fn a_pending_cancel_stops_the_workers_although_the_circuit_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_store, circuit) = open_test_circuit(&dir);
    assert!(circuit.is_clear_to_run());
    circuit.cancel_on_recovery(TaskId::new(UnixMs(1), 1));
    assert!(!circuit.is_open() && !circuit.is_clear_to_run());
}

#[tokio::test]
async fn a_large_write_that_is_not_answered_is_no_outage_and_its_task_is_cancelled() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, circuit) = open_test_circuit(&dir);
    let id = enqueue_test_task(&store).await;
    tokio::time::pause();
    let never = std::future::pending::<Result<(), StoreError>>();
    let written = circuit.write_in_lane(8 << 20, MAX_LANE_WAIT, never, Some(&id)).await;
    tokio::time::resume();
    assert!(matches!(written, Err(StoreError::OutcomeUnknown(_))), "{written:?}");
    assert!(!circuit.is_open() && circuit.outage_count() == 0);
    assert!(circuit.send_pending_cancels(TTL).await);
    assert_eq!(load_status(&store, &id).await, TaskStatus::Cancelled);
}

#[tokio::test]
async fn a_large_write_to_an_unreachable_store_is_an_outage() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_store, circuit) = open_test_circuit(&dir);
    let unreachable = async { Err::<(), _>(unreachable_error()) };
    let written = circuit.write_in_lane(8 << 20, MAX_LANE_WAIT, unreachable, None).await;
    assert_eq!(written, Err(unreachable_error()));
    assert!(circuit.is_open());
}

#[tokio::test]
async fn a_large_write_whose_turn_does_not_come_is_refused_and_small_calls_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_store, circuit) = open_test_circuit(&dir);
    let busy = circuit.large_writes.enter(16 << 20).await;
    let waits = circuit.write_in_lane(
        8 << 20,
        Duration::from_millis(20),
        async { Ok::<_, StoreError>(()) },
        None,
    );
    assert_eq!(waits.await, Err(StoreRefusal::LargeWritesBusy.into()));
    assert!(!circuit.is_open());
    assert_eq!(circuit.call(circuit.store().ping()).await, Ok(()));
    drop(busy);
}
