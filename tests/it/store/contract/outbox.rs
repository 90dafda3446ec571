//! Whoever is to hear of a task's end is in the outbox once it has ended, until they have heard.

use std::time::Duration;

use omnidaemon::store::{
    Delivery, DeliveryKind, DeliveryOutcome, DeliveryStatus, ReprocessResult, SettleResult,
    Settlement, TaskStore, TopicQueue,
};
use omnidaemon::task::{Task, TaskAnswer, TaskOwner, TaskStatus, UnixMs};
use serde_json::Value;

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, enqueue_task, get_record, handler_failure, json_answer,
    lease_one, new_task, test_queue,
};

const URL: &str = "https://hooks.example.com/x?y=1";
const HOLD: Duration = Duration::from_mins(1);

fn told(queue: &TopicQueue) -> Task {
    let (owner, correlation_id) =
        (Some(TaskOwner::from_digest("5eed")), Some("the caller's".into()));
    Task { webhook: Some(URL.into()), owner, correlation_id, ..new_task(queue) }
}

async fn take(store: &dyn TaskStore) -> Vec<Delivery> {
    store.claim_due_deliveries(10, HOLD).await.expect("answers")
}

async fn end(store: &dyn TaskStore, queue: &TopicQueue, task: &Task, settlement: &Settlement) {
    store.enqueue(task, queue).await.expect("enqueued");
    let leased = lease_one(store, queue).await;
    assert_eq!(store.settle(&leased, settlement).await, Ok(SettleResult::Applied));
    assert_eq!(
        store.settle(&leased, settlement).await,
        Ok(SettleResult::Applied),
        "a repeat is told once"
    );
}

fn payload(delivery: &Delivery) -> Value {
    let body: Value = serde_json::from_slice(&delivery.body).expect("JSON");
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
    body["payload"].clone()
}

pub(crate) async fn a_webhook_hears_of_every_end_and_a_reply_is_a_result(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue_task(&*store, &q).await;
    let plain = lease_one(&*store, &q).await;
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&plain, &complete).await, Ok(SettleResult::Applied));
    assert_eq!(
        (take(&*store).await, store.count_pending_deliveries().await),
        (vec![], Ok(0)),
        "most tasks name nobody"
    );

    let done = Task { reply_to: Some(test_queue("replies").topic), ..told(&q) };
    end(&*store, &q, &done, &complete).await;
    assert_eq!(store.count_pending_deliveries().await, Ok(2));
    let mut both = take(&*store).await;
    both.sort_by_key(|delivery| delivery.kind.as_str());
    let [reply, webhook] = &both[..] else { panic!("two deliveries: {both:?}") };
    assert_eq!(
        (reply.kind, reply.target.as_str(), &reply.body[..]),
        (DeliveryKind::Reply, "replies", &json_answer().body[..])
    );
    assert_eq!(
        (webhook.kind, webhook.target.as_str(), webhook.attempt),
        (DeliveryKind::Webhook, URL, 1)
    );
    assert_eq!(
        (&webhook.task_id, &webhook.owner, &webhook.correlation_id),
        (&done.id, &done.owner, &done.correlation_id)
    );
    assert_eq!(reply.reply_task_id(), reply.clone().reply_task_id());
    let r = payload(webhook);
    assert_eq!(
        (&r["task_id"], &r["status"], &r["result"]),
        (&done.id.as_str().into(), &"completed".into(), &serde_json::json!({"ok": true}))
    );
    assert_eq!(
        (&r["topic"], &r["webhook"], &r["correlation_id"]),
        (&"a".into(), &URL.into(), &"the caller's".into())
    );
    assert!(
        r["timestamp"].is_f64()
            && r["created_at"].is_f64()
            && r.get("error").is_none()
            && r.get("answer").is_none(),
        "{r}"
    );

    let failed = Task { reply_to: Some(test_queue("replies").topic), ..told(&q) };
    end(
        &*store,
        &q,
        &failed,
        &Settlement::Bury { failure: handler_failure("out of cheese"), ttl: RESULT_TTL },
    )
    .await;
    let queued = told(&q);
    store.enqueue(&queued, &q).await.expect("enqueued");
    store.cancel(&queued.id, RESULT_TTL).await.expect("cancelled");
    let ends = take(&*store).await;
    let seen: Vec<_> = ends.iter().map(|delivery| (&delivery.task_id, delivery.kind)).collect();
    assert_eq!(
        seen,
        [(&failed.id, DeliveryKind::Webhook), (&queued.id, DeliveryKind::Webhook)],
        "no result, no reply"
    );
    let (buried, cancelled) = (payload(&ends[0]), payload(&ends[1]));
    assert_eq!((&buried["status"], &buried["error"]), (&"failed".into(), &"out of cheese".into()));
    assert_eq!((&cancelled["status"], &cancelled["result"]), (&"cancelled".into(), &Value::Null));
    assert_eq!(
        (&cancelled["task_id"], &cancelled["topic"]),
        (&queued.id.as_str().into(), &"a".into())
    );
}

pub(crate) async fn a_task_that_dies_with_its_workers_is_told_too(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let doomed = Task { retries: 0, ..told(&q) };
    store.enqueue(&doomed, &q).await.expect("enqueued");
    while get_record(&*store, &doomed.id).await.status != TaskStatus::Failed {
        lease_one(&*store, &q).await;
        f.advance_time(omnidaemon::store::LEASE_DURATION + Duration::from_secs(1)).await;
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
            .await
            .expect("tended");
    }
    let ends = take(&*store).await;
    assert_eq!(ends.len(), 1);
    assert_eq!((&ends[0].task_id, &payload(&ends[0])["status"]), (&doomed.id, &"failed".into()));
}

pub(crate) async fn whoever_was_named_hears_of_each_end_of_a_reprocessed_task(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = Task { reply_to: Some(test_queue("replies").topic), ..told(&q) };
    end(
        &*store,
        &q,
        &task,
        &Settlement::Bury { failure: handler_failure("out of cheese"), ttl: RESULT_TTL },
    )
    .await;
    let failed = take(&*store).await.remove(0);
    store.settle_delivery(&failed, &DeliveryOutcome::Delivered).await.expect("settled");
    let reprocessed = store.reprocess_dead_letter(&q, task.id.as_str(), f.store_now()).await;
    assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: false }));
    let leased = lease_one(&*store, &q).await;
    assert_eq!(leased.task, task);
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&leased, &complete).await, Ok(SettleResult::Applied));
    let mut both = take(&*store).await;
    both.sort_by_key(|delivery| delivery.kind.as_str());
    let [reply, webhook] = &both[..] else { panic!("two deliveries: {both:?}") };
    assert_eq!((reply.kind, webhook.kind), (DeliveryKind::Reply, DeliveryKind::Webhook));
    assert_eq!(payload(webhook)["status"], "completed");
    assert_ne!(webhook.event_id, failed.event_id, "another end");
}

pub(crate) async fn a_delivery_is_held_retried_and_settled_once(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let ended = told(&q);
    // a result that is gone at once is still told
    store.enqueue(&ended, &q).await.expect("enqueued");
    let complete = Settlement::Complete { answer: json_answer(), ttl: Duration::from_millis(1) };
    // once: a repeat would come after its result has gone
    assert_eq!(
        store.settle(&lease_one(&*store, &q).await, &complete).await,
        Ok(SettleResult::Applied)
    );
    let first = take(&*store).await.remove(0);
    assert_eq!(take(&*store).await, vec![], "it is hidden while it is tried");
    f.advance_time(HOLD + Duration::from_secs(1)).await;
    let second = take(&*store).await.remove(0);
    assert_eq!(
        (second.attempt, &second.event_id, &second.body),
        (2, &first.event_id, &first.body),
        "whoever took it died"
    );
    store.settle_delivery(&first, &DeliveryOutcome::Delivered).await.expect("answers");
    assert_eq!(store.count_pending_deliveries().await, Ok(1), "too late: another has it");

    let later = DeliveryOutcome::Retry {
        retry_at: f.store_now().plus(Duration::from_mins(5)),
        error: Some("answered 503".into()),
    };
    store.settle_delivery(&second, &later).await.expect("settled");
    assert_eq!(take(&*store).await, vec![]);
    let stands = store.list_deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!(
        (stands.status, stands.attempts, stands.last_error.as_deref()),
        (DeliveryStatus::Pending, 2, Some("answered 503"))
    );
    f.advance_time(Duration::from_mins(6)).await;
    let third = take(&*store).await.remove(0);
    store
        .settle_delivery(&third, &DeliveryOutcome::Retry { retry_at: UnixMs(0), error: None })
        .await
        .expect("settled");
    let again = take(&*store).await.remove(0);
    assert_eq!((third.attempt, again.attempt), (3, 3), "given back untried, it does not count");
    store.settle_delivery(&again, &DeliveryOutcome::Delivered).await.expect("settled");
    assert_eq!((take(&*store).await, store.count_pending_deliveries().await), (vec![], Ok(0)));
    let stands = store.list_deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!(
        (stands.status, stands.attempts, stands.target.as_str()),
        (DeliveryStatus::Delivered, 3, URL)
    );
    assert_eq!(stands.event_id, first.event_id);
}

pub(crate) async fn a_dropped_delivery_is_known_with_its_reason(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let ended = told(&q);
    end(&*store, &q, &ended, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await;
    let taken = take(&*store).await.remove(0);
    let f = {
        drop(store);
        f.reopen().await
    };
    let store = f.store();
    store
        .settle_delivery(&taken, &DeliveryOutcome::Dropped { error: "answered 410 Gone".into() })
        .await
        .expect("settled");
    f.advance_time(HOLD * 2).await;
    assert_eq!(take(&*store).await, vec![]);
    let stands = store.list_deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!(
        (stands.status, stands.last_error.as_deref()),
        (DeliveryStatus::Dropped, Some("answered 410 Gone"))
    );
}

pub(crate) async fn large_deliveries_are_taken_a_few_at_a_time(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    for _ in 0..4 {
        let answer = TaskAnswer::from_json(format!("\"{}\"", "x".repeat(3_000_000)));
        end(&*store, &q, &told(&q), &Settlement::Complete { answer, ttl: RESULT_TTL }).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let taken = take(&*store).await;
        assert!((1..=2).contains(&taken.len()), "{} at once", taken.len());
        assert!(
            taken.iter().all(|delivery| delivery.attempt == 1),
            "what was not given was not tried"
        );
        seen.extend(taken.into_iter().map(|delivery| delivery.task_id));
    }
    assert_eq!(take(&*store).await, vec![]);
}
