//! What every [`TaskStore`] promises, as one suite that runs against each of them.
//!
//! A store joins with a [`Fixture`] and one line, `contract!(ItsFixture);`. The tests know the
//! trait and nothing else; where a test needs time to pass or the disk to be searched, the fixture
//! does it. Nothing is timed: a test waits for what must happen for up to [`WAIT_DEADLINE`], and
//! checks order by the store's clock.

mod admission;
mod claims;
mod dead;
mod delay;
mod leases;
mod lives;
mod outbox;
mod queue;
mod redis;
mod rollout;
mod settle;
mod shared;
mod sqlite;
pub(crate) mod values;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method};
use omnidaemon::store::{BuriedTask, Lease, TaskStore, TopicQueue};
use omnidaemon::task::{
    CapturedRequest, FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskOwner, TaskRecord,
    Topic, UnixMs,
};

use crate::support::wall_clock::wall_clock_now;

/// A store of one kind that a test has for itself, empty at first, its `run` running.
#[async_trait]
pub(crate) trait StoreFixture: Sized + Send + Sync + 'static {
    /// An empty store.
    async fn new_empty() -> Self;

    /// The store.
    fn store(&self) -> Arc<dyn TaskStore>;

    /// The same data, opened anew as another process would; call it when nobody else holds the
    /// store.
    async fn reopen(self) -> Self;

    /// Makes leases, retries and records `by` older; what housekeeping buried on the way.
    async fn advance_time(&self, by: Duration) -> Vec<BuriedTask>;

    /// The store's clock.
    fn store_now(&self) -> UnixMs {
        wall_clock_now()
    }

    /// Whether `text` stands anywhere in what is stored.
    async fn contains_text(&self, text: &str) -> bool;
}

/// How long anything may take that must happen.
pub(crate) const WAIT_DEADLINE: Duration = Duration::from_secs(20);

/// A time to live that no test outlives.
pub(crate) const RESULT_TTL: Duration = Duration::from_hours(1);

/// The process that the tests lease as.
pub(crate) const TEST_PROCESS: &str = "testhost.1.boot";

/// Instantiates the suite for a fixture.
macro_rules! contract {
    ($fixture:ty) => {
        contract!(@ $fixture, queue: a_task_is_queued_once_enqueue_returns,
        a_task_survives_reopening,
            an_id_that_is_there_is_success_and_queued_once, an_unknown_task_is_none,
            everything_about_a_task_reaches_its_worker,
            leases_come_in_order_and_never_more_than_asked_for,
            an_empty_queue_leases_nothing, a_waiting_lease_wakes_when_a_task_comes,
            no_queue_is_starved,
            only_the_queues_asked_for_are_leased, a_full_backlog_refuses_with_its_numbers);
        contract!(@ $fixture, values: a_payload_reaches_its_handler_byte_for_byte,
            a_result_is_read_back_byte_for_byte);
        contract!(@ $fixture, admission: waiting_and_running_tasks_count_against_the_open_limit,
            a_task_that_waits_for_its_retry_is_not_open,
            an_id_that_is_there_is_success_over_the_open_limit,
            proxies_together_do_not_exceed_the_open_limit,
            a_lease_call_takes_no_more_than_each_queue_has_room_for,
            a_waiting_lease_call_ends_when_it_is_notified);
        contract!(@ $fixture, settle: a_completed_task_has_its_answer_byte_for_byte,
        those_who_wait_are_told_the_end,
            a_retry_begins_at_its_time_as_the_next_attempt, a_waiting_lease_wakes_for_a_due_retry,
            a_buried_task_is_failed_and_a_dead_letter, dead_letters_are_listed_newest_first,
            a_released_task_runs_again_and_its_attempt_is_unspent, an_older_attempt_is_fenced,
            repeating_an_applied_settlement_applies_it_once,
            a_second_settlement_of_another_kind_is_fenced,
            a_queued_task_is_cancelled_and_never_runs,
            a_task_parked_for_a_retry_is_cancelled_and_never_runs,
            a_running_task_is_cancelled_and_fenced, a_task_that_ended_is_not_cancelled,
            credentials_go_when_the_task_ends);
        contract!(@ $fixture, leases: renewing_names_the_leases_that_are_lost,
            an_expired_lease_runs_again_and_its_holder_is_fenced, a_renewed_lease_lives_on,
            a_task_that_kills_its_workers_becomes_a_dead_letter,
            an_ended_task_expires_but_its_dead_letter_stays);
        contract!(@ $fixture, dead: a_reprocessed_dead_letter_runs_again_from_its_first_attempt,
            a_dead_letter_is_reprocessed_once_however_often_it_is_asked_for,
            a_task_that_is_alive_is_not_reprocessed,
            a_reprocessed_request_runs_without_its_credentials,
            a_discarded_dead_letter_is_gone_and_its_task_stays_failed,
            dead_letters_are_listed_in_pages, a_list_leaves_large_payloads_out,
            a_cancel_after_an_enqueue_that_nobody_waited_for_finds_its_task);
        contract!(@ $fixture, delay: a_delayed_task_runs_when_it_is_due_and_not_before,
        a_delayed_task_survives_reopening,
            a_delayed_task_counts_against_the_backlog, a_delayed_task_is_cancelled_and_never_runs);
        contract!(@ $fixture, outbox: a_webhook_hears_of_every_end_and_a_reply_is_a_result,
            a_task_that_dies_with_its_workers_is_told_too,
            a_delivery_is_held_retried_and_settled_once,
            a_dropped_delivery_is_known_with_its_reason, large_deliveries_are_taken_a_few_at_a_time,
            whoever_was_named_hears_of_each_end_of_a_reprocessed_task);
        contract!(@ $fixture, claims: a_key_is_one_requests_until_it_says_what_came_of_it,
            a_claim_that_nobody_renews_is_taken_over_with_its_task,
            a_claim_that_is_taken_over_can_replace_its_task,
            an_abandoned_key_is_free_and_a_failed_task_makes_way);
        contract!(@ $fixture, shared: depths_count_what_waits_runs_and_is_dead,
        the_live_processes_are_known,
            a_process_that_leaves_is_forgotten_at_once,
            rollout_state_is_saved_only_over_the_version_it_was_made_from,
            of_concurrent_rollout_writers_one_wins,
            many_producers_and_consumers_run_each_task_once, the_store_answers_a_ping);
        contract!(@ $fixture, rollout: each_end_of_a_canaried_task_is_counted_once,
            routes_and_epochs_are_counted_apart_and_other_tasks_not_at_all,
            what_is_fenced_or_put_off_is_not_counted,
            what_does_not_go_well_is_counted_by_group_of_clients,
            of_all_who_end_a_task_at_once_one_is_counted,
            a_canaried_task_that_dies_with_its_workers_is_counted_as_failed,
            a_reprocessed_task_stays_counted_as_failed_and_is_not_counted_again,
            a_task_took_the_time_from_when_it_could_begin_to_its_end,
            one_candidate_leads_and_the_lead_passes_on_when_it_is_not_renewed,
            of_many_candidates_at_once_one_leads,
            a_replica_that_resigns_is_gone_at_once_with_its_lead,
            presence_expires_and_what_was_counted_stays,
            a_meeting_gives_the_state_of_the_routes_that_are_asked_for,
            a_save_counts_only_in_the_present_term_and_without_one_it_is_anybodys,
            history_is_read_in_pages_newest_first_and_the_oldest_goes,
            callers_are_summed_forgotten_and_bounded);
        contract!(@ $fixture, watch: progress_is_read_while_its_attempt_runs_and_no_longer,
            a_glance_tells_many_tasks_apart, the_secret_stays_the_same);
        contract!(@ $fixture, lives: each_attempt_of_a_task_is_known_with_its_worker_and_error,
            a_task_that_completes_at_once_has_one_attempt,
            a_task_that_killed_its_workers_shows_each_of_them,
            tasks_are_listed_page_by_page_each_once, a_list_is_filtered_by_topic_and_status);
    };
    (@ $fixture:ty, $group:ident: $($name:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                use $crate::store::contract::{StoreFixture as _, $group};
                $group::$name(<$fixture>::new_empty().await).await;
            }
        )+
    };
}
use contract;

// === what the tests are written with ===

/// Whether a store says of a time that it is this one, but for what its own clock adds.
pub(crate) fn is_close_to(said: Option<UnixMs>, at: UnixMs) -> bool {
    said.is_some_and(|said| said >= at && said < at.plus(WAIT_DEADLINE))
}

/// A topic's queue with every setting at its default.
pub(crate) fn test_queue(topic: &str) -> TopicQueue {
    let topic = Topic::parse(topic).expect("a topic");
    TopicQueue::with_default_settings(topic, "omnidaemon")
}

/// A plain task with a new id.
fn new_task(queue: &TopicQueue) -> Task {
    let id = TaskId::new(wall_clock_now(), rand::random());
    Task { retries: 3, ..Task::new(id, queue.topic.clone(), "{\"n\": 1}", wall_clock_now()) }
}

/// A task that came as an HTTP request with `secret` as its credential.
fn new_task_with_secret(queue: &TopicQueue, secret: &str) -> Task {
    let mut request = CapturedRequest {
        method: Method::POST,
        target: "/invoke?trace=1".into(),
        headers: http::HeaderMap::new(),
        body: Bytes::from_static(b"{\"n\": 1}"),
    };
    request.headers.insert("authorization", HeaderValue::from_str(secret).expect("a header value"));
    request.headers.append("x-tag", HeaderValue::from_static("a"));
    request.headers.append("x-tag", HeaderValue::from_static("b"));
    Task { request: Some(request), owner: Some(TaskOwner::from_digest("5eed")), ..new_task(queue) }
}

fn handler_failure(message: &str) -> TaskFailure {
    TaskFailure::new(FailureKind::HandlerError, message)
}

fn json_answer() -> TaskAnswer {
    TaskAnswer::from_json("{\"ok\":true}")
}

/// Makes a plain task durable.
async fn enqueue_task(store: &dyn TaskStore, queue: &TopicQueue) -> Task {
    let task = new_task(queue);
    store.enqueue(&task, queue).await.expect("enqueued");
    task
}

/// One lease of `queue`, which must come soon.
async fn lease_one(store: &dyn TaskStore, queue: &TopicQueue) -> Lease {
    let queues = std::slice::from_ref(queue);
    let mut leases =
        store.lease(TEST_PROCESS, queues, 1, WAIT_DEADLINE).await.expect("the store answers");
    assert_eq!(leases.len(), 1, "one task should be leasable");
    leases.remove(0)
}

/// That nothing of `queue` can be leased now.
async fn assert_nothing_leasable(store: &dyn TaskStore, queue: &TopicQueue) {
    let leases = store
        .lease(TEST_PROCESS, std::slice::from_ref(queue), 10, Duration::ZERO)
        .await
        .expect("answers");
    assert_eq!(leases, vec![], "nothing should be leasable");
}

/// A task that must be known.
async fn get_record(store: &dyn TaskStore, id: &TaskId) -> TaskRecord {
    store.get_task(id).await.expect("the store answers").expect("the task is known")
}

/// Resolves `future`, which must be done soon.
async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_DEADLINE, future).await.expect("did not happen in time")
}
