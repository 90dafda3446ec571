//! A key is one request's at a time, and afterwards says how that was served.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use omnidaemon::store::{ClaimConclusion, ClaimResult, IdempotencyClaim, LEASE_DURATION};
use omnidaemon::task::{TaskAnswer, TaskId};

use super::{RESULT_TTL, StoreFixture, wall_clock_now};

fn claim(scope: &str, holder: &str) -> IdempotencyClaim {
    IdempotencyClaim {
        scope_digest: scope.into(),
        request_digest: "asked".into(),
        holder_id: holder.into(),
        task_id: TaskId::new(wall_clock_now(), rand::random()),
        replaced_task_id: None,
        conclusion_ttl: RESULT_TTL,
    }
}

fn mine(claim: &IdempotencyClaim) -> ClaimResult {
    ClaimResult::Granted { task_id: claim.task_id.clone(), is_new_task: true }
}

pub(crate) async fn a_key_is_one_requests_until_it_says_what_came_of_it(f: impl StoreFixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(mine(&first)));
    assert_eq!(store.claim_idempotency_key(&second).await, Ok(ClaimResult::InProgress));
    let other = IdempotencyClaim { request_digest: "something else".into(), ..second.clone() };
    assert_eq!(store.claim_idempotency_key(&other).await, Ok(ClaimResult::DifferentRequest));
    let elsewhere = claim("another", "2");
    assert_eq!(store.claim_idempotency_key(&elsewhere).await, Ok(mine(&elsewhere)));
    let mut answer = TaskAnswer {
        status: Some(StatusCode::CREATED),
        body: Bytes::from_static(b"\xff\x00"),
        ..TaskAnswer::from_json("")
    };
    answer.verbatim = true;
    answer.headers.append("x-tag", HeaderValue::from_static("a"));
    answer.headers.append("x-tag", HeaderValue::from_static("b"));
    let conclusion = ClaimConclusion::Answer(answer);
    store.conclude_claim(&second, &ClaimConclusion::AnswerNotStored).await.expect("answers");
    assert_eq!(
        store.claim_idempotency_key(&second).await,
        Ok(ClaimResult::InProgress),
        "it is not the second's to conclude"
    );
    store.conclude_claim(&first, &conclusion).await.expect("concluded");
    assert_eq!(
        store.claim_idempotency_key(&second).await,
        Ok(ClaimResult::Concluded(conclusion.clone()))
    );
    assert_eq!(store.claim_idempotency_key(&other).await, Ok(ClaimResult::DifferentRequest));
    store.release_claim(&first).await.expect("answers");
    drop(store);
    let f = f.reopen().await;
    assert_eq!(
        f.store().claim_idempotency_key(&second).await,
        Ok(ClaimResult::Concluded(conclusion)),
        "it was said already"
    );
    f.advance_time(RESULT_TTL + Duration::from_secs(1)).await;
    assert_eq!(
        f.store().claim_idempotency_key(&other).await,
        Ok(mine(&other)),
        "and is forgotten in time"
    );
}

pub(crate) async fn a_claim_that_nobody_renews_is_taken_over_with_its_task(f: impl StoreFixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(mine(&first)));
    f.advance_time(LEASE_DURATION * 2 / 3).await;
    assert!(
        matches!(store.claim_idempotency_key(&first).await, Ok(ClaimResult::Granted { .. })),
        "renewed"
    );
    f.advance_time(LEASE_DURATION * 2 / 3).await;
    assert_eq!(store.claim_idempotency_key(&second).await, Ok(ClaimResult::InProgress));
    f.advance_time(LEASE_DURATION).await;
    let taken = ClaimResult::Granted { task_id: first.task_id.clone(), is_new_task: false };
    assert_eq!(
        store.claim_idempotency_key(&second).await,
        Ok(taken),
        "the first may have made a task of it"
    );
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(ClaimResult::InProgress));
    store.conclude_claim(&first, &ClaimConclusion::AnswerNotStored).await.expect("answers");
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(ClaimResult::InProgress));
    store
        .conclude_claim(&second, &ClaimConclusion::Task(first.task_id.clone()))
        .await
        .expect("concluded");
    assert_eq!(
        store.claim_idempotency_key(&claim("k", "3")).await,
        Ok(ClaimResult::Concluded(ClaimConclusion::Task(first.task_id)))
    );
}

/// The first's enqueue was never answered, so that its task was cancelled.
pub(crate) async fn a_claim_that_is_taken_over_can_replace_its_task(f: impl StoreFixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(mine(&first)));
    let instead =
        IdempotencyClaim { replaced_task_id: Some(first.task_id.clone()), ..second.clone() };
    assert_eq!(
        store.claim_idempotency_key(&instead).await,
        Ok(ClaimResult::InProgress),
        "the first is still at it"
    );
    f.advance_time(LEASE_DURATION + Duration::from_secs(1)).await;
    let taken = ClaimResult::Granted { task_id: first.task_id.clone(), is_new_task: false };
    assert_eq!(store.claim_idempotency_key(&second).await, Ok(taken));
    assert_eq!(store.claim_idempotency_key(&instead).await, Ok(mine(&second)));
    let renewed = ClaimResult::Granted { task_id: second.task_id.clone(), is_new_task: false };
    assert_eq!(
        store.claim_idempotency_key(&instead).await,
        Ok(renewed),
        "made again it is renewed"
    );
    store
        .conclude_claim(&instead, &ClaimConclusion::Task(second.task_id.clone()))
        .await
        .expect("concluded");
    assert_eq!(
        store.claim_idempotency_key(&claim("k", "3")).await,
        Ok(ClaimResult::Concluded(ClaimConclusion::Task(second.task_id)))
    );
}

pub(crate) async fn an_abandoned_key_is_free_and_a_failed_task_makes_way(f: impl StoreFixture) {
    let (store, first, second) = (f.store(), claim("k", "1"), claim("k", "2"));
    assert_eq!(store.claim_idempotency_key(&first).await, Ok(mine(&first)));
    store.release_claim(&second).await.expect("answers");
    assert_eq!(
        store.claim_idempotency_key(&second).await,
        Ok(ClaimResult::InProgress),
        "it is not the second's to abandon"
    );
    store.release_claim(&first).await.expect("abandoned");
    assert_eq!(store.claim_idempotency_key(&second).await, Ok(mine(&second)));
    store
        .conclude_claim(&second, &ClaimConclusion::Task(second.task_id.clone()))
        .await
        .expect("concluded");
    let third =
        IdempotencyClaim { replaced_task_id: Some(second.task_id.clone()), ..claim("k", "3") };
    assert_eq!(store.claim_idempotency_key(&third).await, Ok(mine(&third)));
    let late = IdempotencyClaim { replaced_task_id: Some(second.task_id), ..claim("k", "4") };
    assert_eq!(
        store.claim_idempotency_key(&late).await,
        Ok(ClaimResult::InProgress),
        "one takes its place"
    );
    store.conclude_claim(&third, &ClaimConclusion::AnswerNotStored).await.expect("concluded");
    assert_eq!(
        store.claim_idempotency_key(&late).await,
        Ok(ClaimResult::Concluded(ClaimConclusion::AnswerNotStored))
    );
}
