//! Two ends of one task at once.

use std::sync::Arc;
use std::time::Duration;

use omnidaemon::store::{Cancelled, Settled, Settlement, SqliteStore, TaskStore};
use omnidaemon::task::{Answer, Status, Task, TaskId};

use crate::contract::wall;
use crate::stores::{Store, on_both_stores};

const TTL: Duration = Duration::from_hours(1);
const AT_ONCE: usize = 20;

on_both_stores!(a_cancel_that_races_a_completion_has_one_winner);

/// `OMNIDAEMON_RACES` is how many.
async fn a_cancel_that_races_a_completion_has_one_winner(store: Store) {
    let races = std::env::var("OMNIDAEMON_RACES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let dir = tempfile::tempdir().expect("a directory");
    let opened: Arc<dyn TaskStore> = match &store {
        Store::Sqlite => Arc::new(SqliteStore::open(&dir.path().join("tasks.db")).expect("opens")),
        Store::Redis(server) => Arc::new(server.store()),
    };
    let queue = crate::contract::queue("t");
    let (mut completed, mut cancelled) = (0, 0);
    for _ in 0..races / AT_ONCE {
        for _ in 0..AT_ONCE {
            let task = Task::new(TaskId::new(wall(), rand::random()), queue.topic.clone(), "{}", wall());
            opened.enqueue(&task, &queue).await.expect("enqueued");
        }
        let leases = opened.lease("p", std::slice::from_ref(&queue), AT_ONCE, TTL).await.expect("leased");
        let races = leases.iter().enumerate().map(async |(n, lease)| {
            let complete = Settlement::Complete { answer: Answer::json("{}"), ttl: TTL };
            let settle = opened.settle(lease, &complete);
            let cancel = async {
                if n % 4 > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await; // while the other is under way
                }
                opened.cancel(&lease.task.id, TTL).await
            };
            let (settled, cancel) = if n % 2 == 0 {
                tokio::join!(settle, cancel)
            } else {
                let (cancel, settled) = tokio::join!(cancel, settle);
                (settled, cancel)
            };
            let status = opened.get(&lease.task.id).await.expect("answers").expect("known").status;
            (settled.expect("answers"), cancel.expect("answers"), status)
        });
        for outcome in futures_util::future::join_all(races).await {
            match outcome {
                (Settled::Applied, Cancelled::Ended(Status::Completed), Status::Completed) => completed += 1,
                (Settled::Fenced, Cancelled::Running, Status::Cancelled) => cancelled += 1,
                other => panic!("two winners, or none: {other:?}"),
            }
        }
    }
    assert!(completed > 0 && cancelled > 0, "one of the two always came first: {completed} and {cancelled}");
    assert_eq!(opened.lease("p", &[queue], 1, Duration::ZERO).await, Ok(vec![]), "nothing is left");
}
