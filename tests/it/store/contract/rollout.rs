//! What is kept of rollouts: tallies that no crash loses or repeats, one leader at a time, a
//! history, callers.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use omnidaemon::store::{
    CALLER_RETENTION, CRASH_RERUN_LIMIT, CancelResult, DeprecatedCaller, LEASE_DURATION,
    MAX_CALLERS, MAX_HISTORY_ENTRIES, OTHER_CALLERS, REPLICA_TTL, ReplicaReport, ReplicaSync,
    ReprocessResult, RolloutCommit, RolloutHistoryEntry, RolloutRecord, SettleResult, Settlement,
    StoredEvidence, TaskStore, TopicQueue,
};
use omnidaemon::task::{Task, TaskAnswer, TaskFailure, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, handler_failure, json_answer, lease_one, new_task,
    test_queue, wall_clock_now,
};

const ROUTE: &str = "invoke";

fn complete() -> Settlement {
    Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL }
}

fn answered(status: StatusCode) -> Settlement {
    Settlement::Complete {
        answer: TaskAnswer { status: Some(status), ..json_answer() },
        ttl: RESULT_TTL,
    }
}

fn bury() -> Settlement {
    Settlement::Bury { failure: handler_failure("for good"), ttl: RESULT_TTL }
}

/// Failed for good with what the upstream answered at last.
fn buried_with(status: StatusCode) -> Settlement {
    let answer = TaskAnswer { status: Some(status), verbatim: true, ..json_answer() };
    Settlement::Bury {
        failure: TaskFailure { answer: Some(answer), ..handler_failure("for good") },
        ttl: RESULT_TTL,
    }
}

fn canaried(queue: &TopicQueue, epoch: u64) -> Task {
    Task { route: Some(ROUTE.into()), epoch: Some(epoch), ..new_task(queue) }
}

async fn enqueue(store: &dyn TaskStore, queue: &TopicQueue, epoch: u64) -> Task {
    let task = canaried(queue, epoch);
    store.enqueue(&task, queue).await.expect("enqueued");
    task
}

/// Accepted, completed, client errors, failed, cancelled; the latencies are of the completed and
/// the failed.
async fn counted(store: &dyn TaskStore, epoch: u64) -> [u64; 5] {
    let known = store.load_evidence(ROUTE, &[epoch]).await.expect("answers");
    assert_eq!(known.len(), 1);
    let StoredEvidence {
        accepted,
        completed,
        client_errors,
        failed,
        cancelled,
        latency_buckets: took,
        ..
    } = known[0];
    assert_eq!(
        took.iter().sum::<u64>(),
        completed + failed,
        "each of them took some time: {took:?}"
    );
    [accepted, completed, client_errors, failed, cancelled]
}

// === tallies ===

pub(crate) async fn each_end_of_a_canaried_task_is_counted_once(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    assert_eq!(counted(&*store, 3).await, [0; 5]);
    let ends = [
        (complete(), [0, 1, 0, 0, 0]),
        (answered(StatusCode::OK), [0, 1, 0, 0, 0]),
        (answered(StatusCode::UNAUTHORIZED), [0, 1, 1, 0, 0]),
        (bury(), [0, 0, 0, 1, 0]),
        (buried_with(StatusCode::BAD_GATEWAY), [0, 0, 0, 1, 0]),
        (buried_with(StatusCode::TOO_MANY_REQUESTS), [0, 1, 1, 0, 0]),
    ];
    let mut sum = [0; 5];
    for (settlement, counts) in ends {
        let task = enqueue(&*store, &q, 3).await;
        store.enqueue(&task, &q).await.expect("it is there already");
        sum[0] += 1;
        assert_eq!(counted(&*store, 3).await, sum, "accepted, once");
        let its_lease = lease_one(&*store, &q).await;
        assert_eq!(its_lease.task, task);
        assert_eq!(counted(&*store, 3).await, sum, "a lease is no end");
        for _ in 0..2 {
            assert_eq!(store.settle(&its_lease, &settlement).await, Ok(SettleResult::Applied));
        }
        store.enqueue(&task, &q).await.expect("it is there already");
        store.cancel(&task.id, RESULT_TTL).await.expect("it has ended");
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        assert_eq!(counted(&*store, 3).await, sum, "{settlement:?}");
    }
    let waiting = enqueue(&*store, &q, 3).await;
    for _ in 0..2 {
        assert_eq!(store.cancel(&waiting.id, RESULT_TTL).await, Ok(CancelResult::Cancelled));
    }
    assert_eq!(counted(&*store, 3).await, [7, 4, 2, 2, 1]);
    drop(store);
    let f = f.reopen().await;
    assert_eq!(counted(&*f.store(), 3).await, [7, 4, 2, 2, 1]);
}

pub(crate) async fn routes_and_epochs_are_counted_apart_and_other_tasks_not_at_all(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let plain = new_task(&q);
    let uncounted = Task { route: Some(ROUTE.into()), ..new_task(&q) };
    let elsewhere = Task { route: Some("other".into()), ..canaried(&q, 1) };
    let tasks = [canaried(&q, 1), canaried(&q, 2), elsewhere, canaried(&q, 1), plain, uncounted];
    for task in &tasks {
        store.enqueue(task, &q).await.expect("enqueued");
        let lease = lease_one(&*store, &q).await;
        assert_eq!(&lease.task, task);
        store.settle(&lease, &complete()).await.expect("settled");
    }
    let accepted = async |route: &str, epochs: &[u64]| -> Vec<(u64, u64)> {
        let known = store.load_evidence(route, epochs).await.expect("answers");
        known.iter().map(|known| (known.accepted, known.completed)).collect()
    };
    assert_eq!(
        accepted(ROUTE, &[2, 0, 1]).await,
        [(1, 1), (0, 0), (2, 2)],
        "in the order that was asked for"
    );
    assert_eq!(accepted("other", &[1, 2]).await, [(1, 1), (0, 0)]);
    assert_eq!(accepted(ROUTE, &[]).await, []);
}

pub(crate) async fn what_does_not_go_well_is_counted_by_group_of_clients(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let (rate, unauthorized) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::UNAUTHORIZED);
    let ends = [
        (Some(0), bury()),
        (Some(31), bury()),
        (Some(31), bury()),
        (None, bury()),
        (Some(7), answered(unauthorized)),
        (Some(7), buried_with(rate)),
        (Some(9), complete()),
    ];
    for (clients, settlement) in ends {
        let task = Task { client_group: clients, ..canaried(&q, 1) };
        store.enqueue(&task, &q).await.expect("enqueued");
        let lease = lease_one(&*store, &q).await;
        assert_eq!(lease.task, task);
        assert_eq!(store.settle(&lease, &settlement).await, Ok(SettleResult::Applied));
    }
    let known = store.load_evidence(ROUTE, &[1]).await.expect("answers").remove(0);
    assert_eq!((known.accepted, known.failed, known.client_errors, known.completed), (7, 4, 2, 3));
    let by = |counts: &[u64]| -> Vec<(usize, u64)> {
        counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect()
    };
    assert_eq!(
        (by(&known.failed_by_group), by(&known.client_errors_by_group)),
        (vec![(0, 1), (31, 2)], vec![(7, 2)])
    );
}

pub(crate) async fn what_is_fenced_or_put_off_is_not_counted(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue(&*store, &q, 1).await;
    let old = lease_one(&*store, &q).await;
    let retry = Settlement::Retry { failure: handler_failure("again"), retry_at: UnixMs(0) };
    assert_eq!(store.settle(&old, &retry).await, Ok(SettleResult::Applied));
    let given_back = lease_one(&*store, &q).await;
    assert_eq!(store.settle(&given_back, &Settlement::Release).await, Ok(SettleResult::Applied));
    let current = lease_one(&*store, &q).await;
    for late in [complete(), bury()] {
        assert_eq!(store.settle(&old, &late).await, Ok(SettleResult::Fenced));
    }
    assert_eq!(counted(&*store, 1).await, [1, 0, 0, 0, 0]);
    assert_eq!(store.cancel(&current.task.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
    for late in [complete(), bury()] {
        assert_eq!(store.settle(&current, &late).await, Ok(SettleResult::Fenced));
    }
    assert_eq!(counted(&*store, 1).await, [1, 0, 0, 0, 1]);
}

pub(crate) async fn of_all_who_end_a_task_at_once_one_is_counted(f: impl StoreFixture) {
    const TASKS: usize = 60;
    let (store, q) = (f.store(), test_queue("a"));
    let tasks: Vec<Task> = (0..TASKS).map(|_| canaried(&q, 1)).collect();
    let twice = tasks.iter().chain(&tasks).map(|task| store.enqueue(task, &q));
    assert!(join_all(twice).await.iter().all(Result::is_ok));
    let mut leases = Vec::new();
    while leases.len() < TASKS {
        leases.extend(
            store
                .lease(TEST_PROCESS, std::slice::from_ref(&q), TASKS, super::WAIT_DEADLINE)
                .await
                .expect("answers"),
        );
    }
    let ends = leases.iter().map(|lease| async {
        let (completed, again, buried, cancelled) =
            (complete(), complete(), bury(), &lease.task.id);
        let (completed, again, buried, cancelled) = tokio::join!(
            store.settle(lease, &completed),
            store.settle(lease, &again),
            store.settle(lease, &buried),
            store.cancel(cancelled, RESULT_TTL),
        );
        let completed = [completed, again].contains(&Ok(SettleResult::Applied));
        let ended = [
            completed,
            buried == Ok(SettleResult::Applied),
            cancelled == Ok(CancelResult::WasRunning),
        ];
        assert_eq!(
            ended.iter().filter(|ended| **ended).count(),
            1,
            "{completed} {buried:?} {cancelled:?}"
        );
        ended.map(u64::from)
    });
    let ended = join_all(ends).await;
    let sum = |at: usize| ended.iter().map(|ended| ended[at]).sum::<u64>();
    assert_eq!(counted(&*store, 1).await, [TASKS as u64, sum(0), 0, sum(1), sum(2)]);
}

pub(crate) async fn a_canaried_task_that_dies_with_its_workers_is_counted_as_failed(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue(&*store, &q, 1).await;
    for _ in 1..=3 + CRASH_RERUN_LIMIT {
        lease_one(&*store, &q).await;
        assert_eq!(counted(&*store, 1).await, [1, 0, 0, 0, 0]);
        f.advance_time(LEASE_DURATION + Duration::from_secs(1)).await;
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
            .await
            .expect("tended");
    }
    assert_eq!(counted(&*store, 1).await, [1, 0, 0, 1, 0]);
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    assert_eq!(counted(&*store, 1).await, [1, 0, 0, 1, 0]);
}

pub(crate) async fn a_reprocessed_task_stays_counted_as_failed_and_is_not_counted_again(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    for end in [Some(complete()), Some(bury()), None] {
        let task = enqueue(&*store, &q, 1).await;
        store.settle(&lease_one(&*store, &q).await, &bury()).await.expect("settled");
        let before = counted(&*store, 1).await;
        let reprocessed = store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await;
        assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: false }));
        let again = lease_one(&*store, &q).await;
        assert_eq!((again.task.route.as_deref(), again.task.epoch), (Some(ROUTE), None));
        match end {
            Some(end) => assert_eq!(store.settle(&again, &end).await, Ok(SettleResult::Applied)),
            None => {
                assert_eq!(store.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
            }
        }
        assert_eq!(counted(&*store, 1).await, before);
    }
    assert_eq!(counted(&*store, 1).await, [3, 0, 0, 3, 0]);
}

pub(crate) async fn a_task_took_the_time_from_when_it_could_begin_to_its_end(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let due = f.store_now().plus(Duration::from_millis(300));
    let delayed =
        Task { due: Some(due), created: UnixMs(f.store_now().0 - 3_600_000), ..canaried(&q, 1) };
    store.enqueue(&delayed, &q).await.expect("enqueued");
    assert_eq!(counted(&*store, 1).await, [1, 0, 0, 0, 0], "accepted before it is due");
    super::within_deadline(async {
        while f.store_now() <= due.plus(Duration::from_millis(60)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    store.enqueue_due_tasks(std::slice::from_ref(&q)).await.expect("promoted");
    let its_lease = lease_one(&*store, &q).await;
    let at = f.store_now().plus(Duration::from_millis(60));
    super::within_deadline(async {
        while f.store_now() <= at {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    store.settle(&its_lease, &complete()).await.expect("settled");
    let took = store.load_evidence(ROUTE, &[1]).await.expect("answers")[0].latency_buckets;
    // the bounds are 5, 10, 25, 50 ms and so on up to an hour
    assert_eq!(
        (took[..4].iter().sum::<u64>(), took[20], took.iter().sum::<u64>()),
        (0, 0, 1),
        "{took:?}"
    );
}

// === the meeting ===

fn presence(process: &str, candidate: bool) -> ReplicaReport {
    let about = format!("{{\"name\":\"{process}\"}}");
    ReplicaReport {
        process: process.into(),
        description_json: about,
        wants_lead: candidate,
        epoch_counts: Vec::new(),
    }
}

async fn meet(store: &dyn TaskStore, process: &str, candidate: bool) -> ReplicaSync {
    store.sync_replica(&presence(process, candidate), &[]).await.expect("answers")
}

fn names(meeting: &ReplicaSync) -> Vec<&str> {
    meeting.replicas.iter().map(|(process, _)| process.as_str()).collect()
}

pub(crate) async fn one_candidate_leads_and_the_lead_passes_on_when_it_is_not_renewed(
    f: impl StoreFixture,
) {
    let store = f.store();
    let none = meet(&*store, "c", false).await;
    assert_eq!((none.term, none.leader.as_deref()), (None, None), "nobody would lead");
    let first = meet(&*store, "a", true).await;
    let term = first.term.expect("it leads");
    assert_eq!(first.leader.as_deref(), Some("a"));
    let second = meet(&*store, "b", true).await;
    assert_eq!((second.term, second.leader.as_deref()), (None, Some("a")));
    for _ in 0..3 {
        f.advance_time(REPLICA_TTL * 2 / 3).await;
        assert_eq!(meet(&*store, "a", true).await.term, Some(term), "renewed, it is the same term");
        assert_eq!(meet(&*store, "b", true).await.term, None);
    }
    f.advance_time(REPLICA_TTL + Duration::from_secs(1)).await;
    let second = meet(&*store, "b", true).await;
    assert_eq!((second.term, second.leader.as_deref()), (Some(term + 1), Some("b")));
    let first = meet(&*store, "a", true).await;
    assert_eq!((first.term, first.leader.as_deref()), (None, Some("b")));
    let gave_up = meet(&*store, "b", false).await;
    assert_eq!(
        (gave_up.term, gave_up.leader),
        (None, None),
        "who would lead no more leads no more"
    );
    assert_eq!(meet(&*store, "a", true).await.term, Some(term + 2));
    drop(store);
    let f = f.reopen().await;
    f.advance_time(REPLICA_TTL + Duration::from_secs(1)).await;
    assert_eq!(
        meet(&*f.store(), "d", true).await.term,
        Some(term + 3),
        "no boot gives a term again"
    );
}

pub(crate) async fn of_many_candidates_at_once_one_leads(f: impl StoreFixture) {
    let store = f.store();
    for term in 1..=3 {
        let met = join_all((0..12).map(|n| {
            let (store, process) = (f.store(), format!("{term}.{n}"));
            async move { meet(&*store, &process, true).await }
        }));
        let met = met.await;
        let leaders: Vec<&ReplicaSync> = met.iter().filter(|met| met.term.is_some()).collect();
        assert_eq!(leaders.len(), 1, "{leaders:?}");
        let leader = leaders[0].leader.as_deref().expect("somebody leads");
        assert!(met.iter().all(|met| met.leader.as_deref().is_none_or(|other| other == leader)));
        assert_eq!(leaders[0].term, Some(term));
        store.remove_replica(leader).await.expect("resigned");
    }
}

pub(crate) async fn a_replica_that_resigns_is_gone_at_once_with_its_lead(f: impl StoreFixture) {
    let store = f.store();
    let term = meet(&*store, "a", true).await.term.expect("it leads");
    assert_eq!(meet(&*store, "b", true).await.term, None);
    store.remove_replica("b").await.expect("resigned");
    let still = meet(&*store, "a", true).await;
    assert_eq!(
        (still.term, names(&still)),
        (Some(term), vec!["a"]),
        "another's lead is not its to give up"
    );
    store.remove_replica("a").await.expect("resigned");
    store.remove_replica("a").await.expect("resigning twice is nothing");
    let next = meet(&*store, "b", true).await;
    assert_eq!((next.term, names(&next)), (Some(term + 1), vec!["b"]));
}

pub(crate) async fn presence_expires_and_what_was_counted_stays(f: impl StoreFixture) {
    let store = f.store();
    let counts = |counts: &[(u64, &str)]| {
        counts
            .iter()
            .map(|(epoch, counted)| (ROUTE.to_owned(), *epoch, (*counted).to_owned()))
            .collect()
    };
    let one = ReplicaReport {
        epoch_counts: counts(&[(1, "{\"n\":1}"), (2, "{\"n\":5}")]),
        ..presence("a", false)
    };
    let two = ReplicaReport { epoch_counts: counts(&[(2, "{\"n\":7}")]), ..presence("b", false) };
    store.sync_replica(&one, &[]).await.expect("met");
    let met = store.sync_replica(&two, &[]).await.expect("met");
    let said = |process: &str| (process.to_owned(), format!("{{\"name\":\"{process}\"}}"));
    assert_eq!(met.replicas, [said("a"), said("b")]);
    let one = ReplicaReport {
        description_json: "{}".into(),
        epoch_counts: counts(&[(2, "{\"n\":6}")]),
        ..one
    };
    store.sync_replica(&one, &[]).await.expect("met");
    f.advance_time(REPLICA_TTL * 2 / 3).await;
    let met = store.sync_replica(&two, &[]).await.expect("met");
    assert_eq!(met.replicas, [("a".to_owned(), "{}".to_owned()), said("b")]);
    f.advance_time(REPLICA_TTL * 2 / 3).await;
    assert_eq!(
        names(&store.sync_replica(&two, &[]).await.expect("met")),
        ["b"],
        "the silent one is forgotten"
    );
    let pair = |process: &str, counted: &str| (process.to_owned(), counted.to_owned());
    drop(store);
    let f = f.reopen().await;
    let known = f.store().load_evidence(ROUTE, &[1, 2, 3]).await.expect("answers");
    let counted: Vec<_> = known.into_iter().map(|known| known.replica_counts).collect();
    assert_eq!(
        counted,
        [
            vec![pair("a", "{\"n\":1}")],
            vec![pair("a", "{\"n\":6}"), pair("b", "{\"n\":7}")],
            vec![]
        ]
    );
}

pub(crate) async fn a_meeting_gives_the_state_of_the_routes_that_are_asked_for(
    f: impl StoreFixture,
) {
    let store = f.store();
    let record = |state: &str| RolloutRecord { version: 1, state_json: state.into() };
    for route in ["x", "y"] {
        assert_eq!(
            store.save_rollout(route, &record(route), &RolloutCommit::default()).await,
            Ok(true)
        );
    }
    let presence =
        ReplicaReport { epoch_counts: vec![("x".into(), 1, "{}".into())], ..presence("a", true) };
    let routes = ["y", "none", "x"].map(str::to_owned);
    let met = store.sync_replica(&presence, &routes).await.expect("met");
    assert_eq!(met.rollout_records, [Some(record("y")), None, Some(record("x"))]);
}

// === state and history ===

pub(crate) async fn a_save_counts_only_in_the_present_term_and_without_one_it_is_anybodys(
    f: impl StoreFixture,
) {
    let store = f.store();
    let save = async |version: u64, term: Option<u64>, event: &str| {
        let record = RolloutRecord { version, state_json: format!("{{\"by\":\"{event}\"}}") };
        let change = RolloutCommit { required_term: term, history_events: vec![event.into()] };
        store.save_rollout(ROUTE, &record, &change).await.expect("answers")
    };
    assert!(!save(1, Some(1), "early").await, "nobody leads");
    assert!(save(1, None, "first").await);
    let old = meet(&*store, "a", true).await.term.expect("it leads");
    assert!(!save(2, Some(old + 1), "ahead").await);
    assert!(save(2, Some(old), "second").await);
    f.advance_time(REPLICA_TTL + Duration::from_secs(1)).await;
    assert!(!save(3, Some(old), "expired").await, "its lead is over, though nobody else has it");
    let new = meet(&*store, "b", true).await.term.expect("it leads");
    assert!(!save(3, Some(old), "stale").await);
    assert!(!save(4, Some(new), "skips").await, "there is no version 3");
    assert!(save(3, Some(new), "third").await);
    assert!(!save(3, None, "late").await, "it is there already");
    assert!(save(4, None, "verb").await, "a verb of any replica");
    store.remove_replica("b").await.expect("resigned");
    assert!(!save(5, Some(new), "resigned").await);
    let state = store.load_rollout(ROUTE).await.expect("answers").expect("saved").state_json;
    assert_eq!(state, "{\"by\":\"verb\"}");
    let history = store.load_rollout_history(ROUTE, None, 10).await.expect("answers");
    let events: Vec<&str> = history.iter().map(|entry| entry.event_json.as_str()).collect();
    assert_eq!(events, ["verb", "third", "second", "first"], "what was refused has no history");
}

pub(crate) async fn history_is_read_in_pages_newest_first_and_the_oldest_goes(
    f: impl StoreFixture,
) {
    const OVER: usize = 25;
    let store = f.store();
    let save = async |route: &str, version: u64, events: std::ops::Range<usize>| {
        let record = RolloutRecord { version, state_json: "{}".into() };
        let change = RolloutCommit {
            required_term: None,
            history_events: events.map(|n| format!("{{\"n\":{n}}}")).collect(),
        };
        assert_eq!(store.save_rollout(route, &record, &change).await, Ok(true));
    };
    assert_eq!(store.load_rollout_history(ROUTE, None, 10).await, Ok(vec![]));
    save(ROUTE, 1, 0..2).await;
    save("other", 1, 0..1).await;
    save(ROUTE, 2, 2..MAX_HISTORY_ENTRIES).await;
    save(ROUTE, 3, 0..0).await;
    save(ROUTE, 4, MAX_HISTORY_ENTRIES..MAX_HISTORY_ENTRIES + OVER).await;
    let (mut read, mut before) = (Vec::new(), None);
    loop {
        let page =
            store.load_rollout_history(ROUTE, before.as_deref(), 3000).await.expect("answers");
        before = page.last().map(|entry: &RolloutHistoryEntry| entry.cursor.clone());
        read.extend(page.into_iter().map(|entry| entry.event_json));
        if before.is_none() {
            break;
        }
    }
    let expected: Vec<String> =
        (OVER..MAX_HISTORY_ENTRIES + OVER).rev().map(|n| format!("{{\"n\":{n}}}")).collect();
    assert!(
        read == expected,
        "{} entries, from {:?} to {:?}",
        read.len(),
        read.first(),
        read.last()
    );
    assert_eq!(store.load_rollout_history("other", None, 10).await.map(|page| page.len()), Ok(1));
    assert!(store.load_rollout_history(ROUTE, Some("no cursor"), 10).await.is_err());
}

// === callers ===

pub(crate) async fn callers_are_summed_forgotten_and_bounded(f: impl StoreFixture) {
    let (store, now) = (f.store(), f.store_now());
    let ago = |seconds: u64| UnixMs(now.0 - seconds * 1000);
    let call = |who: &str, count, last| DeprecatedCaller {
        name: who.into(),
        call_count: count,
        last_called_at: last,
    };
    assert_eq!(store.list_deprecated_callers(ROUTE).await, Ok(vec![]));
    store.record_deprecated_calls(ROUTE, &[]).await.expect("noted");
    let old = call("old", 9, ago(CALLER_RETENTION.as_secs() + 60));
    store
        .record_deprecated_calls(ROUTE, &[call("a", 1, ago(50)), call("b", 2, ago(20)), old])
        .await
        .expect("noted");
    store
        .record_deprecated_calls(ROUTE, &[call("a", 3, ago(10)), call("b", 5, ago(30))])
        .await
        .expect("noted");
    store.record_deprecated_calls("other", &[call("c", 1, now)]).await.expect("noted");
    assert_eq!(
        store.list_deprecated_callers(ROUTE).await,
        Ok(vec![call("a", 4, ago(10)), call("b", 7, ago(20))])
    );
    assert_eq!(store.list_deprecated_callers("other").await, Ok(vec![call("c", 1, now)]));

    let many: Vec<DeprecatedCaller> =
        (0..MAX_CALLERS + 10).map(|n| call(&format!("caller {n}"), 1, ago(5))).collect();
    store.record_deprecated_calls(ROUTE, &many).await.expect("noted");
    let known = store.list_deprecated_callers(ROUTE).await.expect("answers");
    assert_eq!(known.len(), MAX_CALLERS + 1);
    assert_eq!(
        known.iter().find(|caller| caller.name == OTHER_CALLERS),
        Some(&call(OTHER_CALLERS, 12, ago(5)))
    );
    store
        .record_deprecated_calls(ROUTE, &[call("a", 1, now), call("one more", 2, now)])
        .await
        .expect("noted");
    let known = store.list_deprecated_callers(ROUTE).await.expect("answers");
    assert_eq!(known.len(), MAX_CALLERS + 1);
    let count =
        |who: &str| known.iter().find(|caller| caller.name == who).map(|caller| caller.call_count);
    assert_eq!((count("a"), count(OTHER_CALLERS), count("one more")), (Some(5), Some(14), None));
}
