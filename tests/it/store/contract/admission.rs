//! The limit of open tasks, and lease calls with a limit for each queue.

use std::time::Duration;

use omnidaemon::store::{
    LeaseDemand, QueueDemand, Settlement, StoreError, StoreRefusal, TaskStore, TopicQueue,
};
use omnidaemon::task::Task;
use tokio::sync::Notify;

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, WAIT_DEADLINE, enqueue_task, handler_failure,
    json_answer, lease_one, new_task, test_queue, within_deadline,
};

/// The number of open tasks with which a new task is refused; none if the task is accepted.
async fn refused_at(store: &dyn TaskStore, queue: &TopicQueue) -> Option<u64> {
    match store.enqueue(&new_task(queue), queue).await {
        Ok(()) => None,
        Err(StoreError::Refused(StoreRefusal::Saturated { topic, open, max })) => {
            assert_eq!((topic, Some(max)), (queue.topic.clone(), queue.max_open_tasks));
            Some(open)
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) async fn waiting_and_running_tasks_count_against_the_open_limit(f: impl StoreFixture) {
    let store = &*f.store();
    let q = TopicQueue { max_open_tasks: Some(2), ..test_queue("a") };
    assert_eq!(refused_at(store, &q).await, None);
    let running = lease_one(store, &q).await;
    assert_eq!(refused_at(store, &q).await, None);
    assert_eq!(refused_at(store, &q).await, Some(2));
    assert_eq!(
        refused_at(store, &TopicQueue { max_open_tasks: Some(0), ..q.clone() }).await,
        Some(2)
    );
    store
        .settle(&running, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await
        .expect("settled");
    assert_eq!(refused_at(store, &q).await, None);
    assert_eq!(refused_at(store, &q).await, Some(2));
    let unlimited = TopicQueue { max_open_tasks: None, ..q };
    assert_eq!(refused_at(store, &unlimited).await, None, "only a queue with a limit refuses");
}

pub(crate) async fn a_task_that_waits_for_its_retry_is_not_open(f: impl StoreFixture) {
    let store = &*f.store();
    let q = TopicQueue { max_open_tasks: Some(1), ..test_queue("a") };
    enqueue_task(store, &q).await;
    let failing = lease_one(store, &q).await;
    assert_eq!(refused_at(store, &q).await, Some(1));
    let retry = Settlement::Retry {
        failure: handler_failure("x"),
        retry_at: f.store_now().plus(RESULT_TTL),
    };
    store.settle(&failing, &retry).await.expect("settled");
    assert_eq!(refused_at(store, &q).await, None);
    let due = f.store_now().plus(RESULT_TTL);
    let delayed = Task { due: Some(due), ..new_task(&q) };
    store.enqueue(&delayed, &q).await.expect("a task that is due later is not limited");
}

pub(crate) async fn an_id_that_is_there_is_success_over_the_open_limit(f: impl StoreFixture) {
    let store = &*f.store();
    let q = TopicQueue { max_open_tasks: Some(1), ..test_queue("a") };
    let task = enqueue_task(store, &q).await;
    assert_eq!(refused_at(store, &q).await, Some(1));
    store.enqueue(&task, &q).await.expect("a repeat");
}

pub(crate) async fn proxies_together_do_not_exceed_the_open_limit(f: impl StoreFixture) {
    let store = f.store();
    let q = TopicQueue { max_open_tasks: Some(7), ..test_queue("a") };
    let calls = (0..50).map(|_| {
        let (store, q) = (store.clone(), q.clone());
        tokio::spawn(async move { refused_at(&*store, &q).await.is_none() })
    });
    let mut accepted = 0;
    for call in calls.collect::<Vec<_>>() {
        accepted += usize::from(call.await.expect("joined"));
    }
    assert_eq!(accepted, 7);
}

pub(crate) async fn a_lease_call_takes_no_more_than_each_queue_has_room_for(f: impl StoreFixture) {
    let store = &*f.store();
    let (a, b) = (test_queue("a"), test_queue("b"));
    for _ in 0..4 {
        enqueue_task(store, &a).await;
        enqueue_task(store, &b).await;
    }
    let queues =
        [QueueDemand { queue: a.clone(), max: 1 }, QueueDemand { queue: b.clone(), max: 3 }];
    let demand = LeaseDemand {
        process_name: TEST_PROCESS,
        queues: &queues,
        max: 10,
        wait: WAIT_DEADLINE,
        stop_waiting: &Notify::new(),
    };
    let leases = store.lease_demand(&demand).await.expect("the store answers");
    let of =
        |queue: &TopicQueue| leases.iter().filter(|lease| lease.task.topic == queue.topic).count();
    assert_eq!((of(&a), of(&b)), (1, 3));
}

pub(crate) async fn a_waiting_lease_call_ends_when_it_is_notified(f: impl StoreFixture) {
    let store = &*f.store();
    let (stop_waiting, queue) = (Notify::new(), test_queue("a"));
    let queues = [QueueDemand { queue: queue.clone(), max: 1 }];
    let demand = LeaseDemand {
        process_name: TEST_PROCESS,
        queues: &queues,
        max: 1,
        wait: Duration::from_hours(1),
        stop_waiting: &stop_waiting,
    };
    let notify = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop_waiting.notify_one();
    };
    let (leases, ()) =
        within_deadline(async { tokio::join!(store.lease_demand(&demand), notify) }).await;
    assert_eq!(leases, Ok(Vec::new()));
    enqueue_task(store, &queue).await;
    lease_one(store, &queue).await;
}
