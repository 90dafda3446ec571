//! Whoever is to hear of a task's end is in the outbox once it has ended, until they have heard.

use std::time::Duration;

use omnidaemon::store::{
    Delivery, DeliveryKind, DeliveryStatus, Outcome, Queue, Redriven, Settled, Settlement, TaskStore,
};
use omnidaemon::task::{Answer, Owner, Status, Task, UnixMs};
use serde_json::Value;

use super::{Fixture, PROCESS, TTL, enqueue, failure, json, lease, queue, record, task};

const URL: &str = "https://hooks.example.com/x?y=1";
const HOLD: Duration = Duration::from_mins(1);

fn told(queue: &Queue) -> Task {
    let (owner, correlation_id) = (Some(Owner::from_digest("5eed")), Some("the caller's".into()));
    Task { webhook: Some(URL.into()), owner, correlation_id, ..task(queue) }
}

async fn take(store: &dyn TaskStore) -> Vec<Delivery> {
    store.take_deliveries(10, HOLD).await.expect("answers")
}

async fn end(store: &dyn TaskStore, queue: &Queue, task: &Task, settlement: &Settlement) {
    store.enqueue(task, queue).await.expect("enqueued");
    let leased = lease(store, queue).await;
    assert_eq!(store.settle(&leased, settlement).await, Ok(Settled::Applied));
    assert_eq!(store.settle(&leased, settlement).await, Ok(Settled::Applied), "a repeat is told once");
}

fn payload(delivery: &Delivery) -> Value {
    let body: Value = serde_json::from_slice(&delivery.body).expect("JSON");
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
    body["payload"].clone()
}

pub(crate) async fn a_webhook_hears_of_every_end_and_a_reply_is_a_result(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    enqueue(&*store, &q).await;
    let plain = lease(&*store, &q).await;
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&plain, &complete).await, Ok(Settled::Applied));
    assert_eq!((take(&*store).await, store.outbox_depth().await), (vec![], Ok(0)), "most tasks name nobody");

    let done = Task { reply_to: Some(queue("replies").topic), ..told(&q) };
    end(&*store, &q, &done, &complete).await;
    assert_eq!(store.outbox_depth().await, Ok(2));
    let mut both = take(&*store).await;
    both.sort_by_key(|delivery| delivery.kind.as_str());
    let [reply, webhook] = &both[..] else { panic!("two deliveries: {both:?}") };
    assert_eq!(
        (reply.kind, reply.target.as_str(), &reply.body[..]),
        (DeliveryKind::Reply, "replies", &json().body[..])
    );
    assert_eq!((webhook.kind, webhook.target.as_str(), webhook.attempt), (DeliveryKind::Webhook, URL, 1));
    assert_eq!((&webhook.task, &webhook.owner, &webhook.correlation_id), (&done.id, &done.owner, &done.correlation_id));
    assert_eq!(reply.reply_id(), reply.clone().reply_id());
    let r = payload(webhook);
    assert_eq!(
        (&r["task_id"], &r["status"], &r["result"]),
        (&done.id.as_str().into(), &"completed".into(), &serde_json::json!({"ok": true}))
    );
    assert_eq!((&r["topic"], &r["webhook"], &r["correlation_id"]), (&"a".into(), &URL.into(), &"the caller's".into()));
    assert!(
        r["timestamp"].is_f64() && r["created_at"].is_f64() && r.get("error").is_none() && r.get("answer").is_none(),
        "{r}"
    );

    let failed = Task { reply_to: Some(queue("replies").topic), ..told(&q) };
    end(&*store, &q, &failed, &Settlement::Bury { failure: failure("out of cheese"), ttl: TTL }).await;
    let queued = told(&q);
    store.enqueue(&queued, &q).await.expect("enqueued");
    store.cancel(&queued.id, TTL).await.expect("cancelled");
    let ends = take(&*store).await;
    let seen: Vec<_> = ends.iter().map(|delivery| (&delivery.task, delivery.kind)).collect();
    assert_eq!(seen, [(&failed.id, DeliveryKind::Webhook), (&queued.id, DeliveryKind::Webhook)], "no result, no reply");
    let (buried, cancelled) = (payload(&ends[0]), payload(&ends[1]));
    assert_eq!((&buried["status"], &buried["error"]), (&"failed".into(), &"out of cheese".into()));
    assert_eq!((&cancelled["status"], &cancelled["result"]), (&"cancelled".into(), &Value::Null));
    assert_eq!((&cancelled["task_id"], &cancelled["topic"]), (&queued.id.as_str().into(), &"a".into()));
}

pub(crate) async fn a_task_that_dies_with_its_workers_is_told_too(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let doomed = Task { retries: 0, ..told(&q) };
    store.enqueue(&doomed, &q).await.expect("enqueued");
    while record(&*store, &doomed.id).await.status != Status::Failed {
        lease(&*store, &q).await;
        f.advance(omnidaemon::store::LEASE + Duration::from_secs(1)).await;
        store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    }
    let ends = take(&*store).await;
    assert_eq!(ends.len(), 1);
    assert_eq!((&ends[0].task, &payload(&ends[0])["status"]), (&doomed.id, &"failed".into()));
}

pub(crate) async fn whoever_was_named_hears_of_each_end_of_a_redriven_task(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = Task { reply_to: Some(queue("replies").topic), ..told(&q) };
    end(&*store, &q, &task, &Settlement::Bury { failure: failure("out of cheese"), ttl: TTL }).await;
    let failed = take(&*store).await.remove(0);
    store.settle_delivery(&failed, &Outcome::Done).await.expect("settled");
    let redriven = store.redrive(&q, task.id.as_str(), f.now()).await;
    assert_eq!(redriven, Ok(Redriven::Queued { captured: false }));
    let leased = lease(&*store, &q).await;
    assert_eq!(leased.task, task);
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&leased, &complete).await, Ok(Settled::Applied));
    let mut both = take(&*store).await;
    both.sort_by_key(|delivery| delivery.kind.as_str());
    let [reply, webhook] = &both[..] else { panic!("two deliveries: {both:?}") };
    assert_eq!((reply.kind, webhook.kind), (DeliveryKind::Reply, DeliveryKind::Webhook));
    assert_eq!(payload(webhook)["status"], "completed");
    assert_ne!(webhook.event, failed.event, "another end");
}

pub(crate) async fn a_delivery_is_held_retried_and_settled_once(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let ended = told(&q);
    // a result that is gone at once is still told, though a repeat would not know it any more
    store.enqueue(&ended, &q).await.expect("enqueued");
    let brief = Settlement::Complete { answer: json(), ttl: Duration::from_millis(1) };
    assert_eq!(store.settle(&lease(&*store, &q).await, &brief).await, Ok(Settled::Applied));
    let first = take(&*store).await.remove(0);
    assert_eq!(take(&*store).await, vec![], "it is hidden while it is tried");
    f.advance(HOLD + Duration::from_secs(1)).await;
    let second = take(&*store).await.remove(0);
    assert_eq!((second.attempt, &second.event, &second.body), (2, &first.event, &first.body), "whoever took it died");
    store.settle_delivery(&first, &Outcome::Done).await.expect("answers");
    assert_eq!(store.outbox_depth().await, Ok(1), "too late: another has it");

    let later = Outcome::Again { at: f.now().plus(Duration::from_mins(5)), error: Some("answered 503".into()) };
    store.settle_delivery(&second, &later).await.expect("settled");
    assert_eq!(take(&*store).await, vec![]);
    let stands = store.deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!(
        (stands.status, stands.attempts, stands.error.as_deref()),
        (DeliveryStatus::Pending, 2, Some("answered 503"))
    );
    f.advance(Duration::from_mins(6)).await;
    let third = take(&*store).await.remove(0);
    store.settle_delivery(&third, &Outcome::Again { at: UnixMs(0), error: None }).await.expect("settled");
    let again = take(&*store).await.remove(0);
    assert_eq!((third.attempt, again.attempt), (3, 3), "given back untried, it does not count");
    store.settle_delivery(&again, &Outcome::Done).await.expect("settled");
    assert_eq!((take(&*store).await, store.outbox_depth().await), (vec![], Ok(0)));
    let stands = store.deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!((stands.status, stands.attempts, stands.target.as_str()), (DeliveryStatus::Delivered, 3, URL));
    assert_eq!(stands.event, first.event);
}

pub(crate) async fn a_dropped_delivery_is_known_with_its_reason(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let ended = told(&q);
    end(&*store, &q, &ended, &Settlement::Complete { answer: json(), ttl: TTL }).await;
    let taken = take(&*store).await.remove(0);
    let f = {
        drop(store);
        f.reopen().await
    };
    let store = f.store();
    store.settle_delivery(&taken, &Outcome::Drop { error: "answered 410 Gone".into() }).await.expect("settled");
    f.advance(HOLD * 2).await;
    assert_eq!(take(&*store).await, vec![]);
    let stands = store.deliveries(&ended.id).await.expect("answers").remove(0);
    assert_eq!((stands.status, stands.error.as_deref()), (DeliveryStatus::Dropped, Some("answered 410 Gone")));
}

pub(crate) async fn large_deliveries_are_taken_a_few_at_a_time(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for _ in 0..4 {
        let answer = Answer::json(format!("\"{}\"", "x".repeat(3_000_000)));
        end(&*store, &q, &told(&q), &Settlement::Complete { answer, ttl: TTL }).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let taken = take(&*store).await;
        assert!((1..=2).contains(&taken.len()), "{} at once", taken.len());
        assert!(taken.iter().all(|delivery| delivery.attempt == 1), "what was not given was not tried");
        seen.extend(taken.into_iter().map(|delivery| delivery.task));
    }
    assert_eq!(take(&*store).await, vec![]);
}
