//! Two ends of one task at once.

use std::sync::Arc;
use std::time::Duration;

use omnidaemon::store::{CancelResult, SettleResult, Settlement, SqliteStore, TaskStore};
use omnidaemon::task::{Task, TaskAnswer, TaskId, TaskStatus};

use crate::support::stores::{Store, on_both_stores};
use crate::support::wall_clock::wall_clock_now;

const RESULT_TTL: Duration = Duration::from_hours(1);
const RACES_PER_BATCH: usize = 20;

on_both_stores!(a_cancel_that_races_a_completion_has_one_winner);

/// `OMNIDAEMON_RACES` is how many.
async fn a_cancel_that_races_a_completion_has_one_winner(store: Store) {
    let races =
        std::env::var("OMNIDAEMON_RACES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let dir = tempfile::tempdir().expect("a directory");
    let opened: Arc<dyn TaskStore> = match &store {
        Store::Sqlite => Arc::new(SqliteStore::open(&dir.path().join("tasks.db")).expect("opens")),
        Store::Redis(server) => server.open_store(),
    };
    let queue = crate::store::contract::test_queue("t");
    let (mut completed, mut cancelled) = (0, 0);
    for _ in 0..races / RACES_PER_BATCH {
        for _ in 0..RACES_PER_BATCH {
            let task = Task::new(
                TaskId::new(wall_clock_now(), rand::random()),
                queue.topic.clone(),
                "{}",
                wall_clock_now(),
            );
            opened.enqueue(&task, &queue).await.expect("enqueued");
        }
        let leases = opened
            .lease("p", std::slice::from_ref(&queue), RACES_PER_BATCH, RESULT_TTL)
            .await
            .expect("leased");
        let races = leases.iter().enumerate().map(async |(n, lease)| {
            let complete =
                Settlement::Complete { answer: TaskAnswer::from_json("{}"), ttl: RESULT_TTL };
            let settle = opened.settle(lease, &complete);
            let cancel = async {
                if n % 4 > 1 {
                    // while the other is under way
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                opened.cancel(&lease.task.id, RESULT_TTL).await
            };
            let (settled, cancel) = if n % 2 == 0 {
                tokio::join!(settle, cancel)
            } else {
                let (cancel, settled) = tokio::join!(cancel, settle);
                (settled, cancel)
            };
            let status =
                opened.get_task(&lease.task.id).await.expect("answers").expect("known").status;
            (settled.expect("answers"), cancel.expect("answers"), status)
        });
        for outcome in futures_util::future::join_all(races).await {
            match outcome {
                (
                    SettleResult::Applied,
                    CancelResult::AlreadyEnded(TaskStatus::Completed),
                    TaskStatus::Completed,
                ) => completed += 1,
                (SettleResult::Fenced, CancelResult::WasRunning, TaskStatus::Cancelled) => {
                    cancelled += 1;
                }
                other => panic!("two winners, or none: {other:?}"),
            }
        }
    }
    assert!(
        completed > 0 && cancelled > 0,
        "one of the two always came first: {completed} and {cancelled}"
    );
    assert_eq!(opened.lease("p", &[queue], 1, Duration::ZERO).await, Ok(vec![]), "nothing is left");
}
