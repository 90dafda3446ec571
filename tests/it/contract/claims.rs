//! A key is one request's at a time, and afterwards says how that was served.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use omnidaemon::store::{Claim, Claimed, Conclusion, LEASE};
use omnidaemon::task::{Answer, TaskId};

use super::{Fixture, TTL, wall};

fn claim(scope: &str, holder: &str) -> Claim {
    Claim {
        scope: scope.into(),
        request: "asked".into(),
        holder: holder.into(),
        task: TaskId::new(wall(), rand::random()),
        instead_of: None,
        ttl: TTL,
    }
}

fn mine(claim: &Claim) -> Claimed {
    Claimed::Mine { task: claim.task.clone(), fresh: true }
}

pub(crate) async fn a_key_is_one_requests_until_it_says_what_came_of_it(f: impl Fixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim(&first).await, Ok(mine(&first)));
    assert_eq!(store.claim(&second).await, Ok(Claimed::Busy));
    let other = Claim { request: "something else".into(), ..second.clone() };
    assert_eq!(store.claim(&other).await, Ok(Claimed::Other));
    let elsewhere = claim("another", "2");
    assert_eq!(store.claim(&elsewhere).await, Ok(mine(&elsewhere)));
    let mut answer =
        Answer { status: Some(StatusCode::CREATED), body: Bytes::from_static(b"\xff\x00"), ..Answer::json("") };
    answer.verbatim = true;
    answer.headers.append("x-tag", HeaderValue::from_static("a"));
    answer.headers.append("x-tag", HeaderValue::from_static("b"));
    let conclusion = Conclusion::Answer(answer);
    store.conclude(&second, &Conclusion::Unkept).await.expect("answers");
    assert_eq!(store.claim(&second).await, Ok(Claimed::Busy), "it is not the second's to conclude");
    store.conclude(&first, &conclusion).await.expect("concluded");
    assert_eq!(store.claim(&second).await, Ok(Claimed::Done(conclusion.clone())));
    assert_eq!(store.claim(&other).await, Ok(Claimed::Other));
    store.abandon(&first).await.expect("answers");
    drop(store);
    let f = f.reopen().await;
    assert_eq!(f.store().claim(&second).await, Ok(Claimed::Done(conclusion)), "it was said already");
    f.advance(TTL + Duration::from_secs(1)).await;
    assert_eq!(f.store().claim(&other).await, Ok(mine(&other)), "and is forgotten in time");
}

pub(crate) async fn a_claim_that_nobody_renews_is_taken_over_with_its_task(f: impl Fixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim(&first).await, Ok(mine(&first)));
    f.advance(LEASE * 2 / 3).await;
    assert!(matches!(store.claim(&first).await, Ok(Claimed::Mine { .. })), "renewed");
    f.advance(LEASE * 2 / 3).await;
    assert_eq!(store.claim(&second).await, Ok(Claimed::Busy));
    f.advance(LEASE).await;
    let taken = Claimed::Mine { task: first.task.clone(), fresh: false };
    assert_eq!(store.claim(&second).await, Ok(taken), "the first may have made a task of it");
    assert_eq!(store.claim(&first).await, Ok(Claimed::Busy));
    store.conclude(&first, &Conclusion::Unkept).await.expect("answers");
    assert_eq!(store.claim(&first).await, Ok(Claimed::Busy));
    store.conclude(&second, &Conclusion::Task(first.task.clone())).await.expect("concluded");
    assert_eq!(store.claim(&claim("k", "3")).await, Ok(Claimed::Done(Conclusion::Task(first.task))));
}

/// The first's enqueue was never answered, so that its task was cancelled.
pub(crate) async fn a_claim_that_is_taken_over_can_replace_its_task(f: impl Fixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim(&first).await, Ok(mine(&first)));
    let instead = Claim { instead_of: Some(first.task.clone()), ..second.clone() };
    assert_eq!(store.claim(&instead).await, Ok(Claimed::Busy), "the first is still at it");
    f.advance(LEASE + Duration::from_secs(1)).await;
    let taken = Claimed::Mine { task: first.task.clone(), fresh: false };
    assert_eq!(store.claim(&second).await, Ok(taken));
    assert_eq!(store.claim(&instead).await, Ok(mine(&second)));
    let renewed = Claimed::Mine { task: second.task.clone(), fresh: false };
    assert_eq!(store.claim(&instead).await, Ok(renewed), "made again it is renewed");
    store.conclude(&instead, &Conclusion::Task(second.task.clone())).await.expect("concluded");
    assert_eq!(store.claim(&claim("k", "3")).await, Ok(Claimed::Done(Conclusion::Task(second.task))));
}

pub(crate) async fn an_abandoned_key_is_free_and_a_failed_task_makes_way(f: impl Fixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim(&first).await, Ok(mine(&first)));
    store.abandon(&second).await.expect("answers");
    assert_eq!(store.claim(&second).await, Ok(Claimed::Busy), "it is not the second's to abandon");
    store.abandon(&first).await.expect("abandoned");
    assert_eq!(store.claim(&second).await, Ok(mine(&second)));
    store.conclude(&second, &Conclusion::Task(second.task.clone())).await.expect("concluded");
    let third = Claim { instead_of: Some(second.task.clone()), ..claim("k", "3") };
    assert_eq!(store.claim(&third).await, Ok(mine(&third)));
    let late = Claim { instead_of: Some(second.task), ..claim("k", "4") };
    assert_eq!(store.claim(&late).await, Ok(Claimed::Busy), "one takes its place");
    store.conclude(&third, &Conclusion::Unkept).await.expect("concluded");
    assert_eq!(store.claim(&late).await, Ok(Claimed::Done(Conclusion::Unkept)));
}
