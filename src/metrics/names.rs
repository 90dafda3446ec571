//! The names of all metrics. A test compares dashboards, alerts and documents with this list.

/// Accepted tasks, each counted once.
pub const TASKS_RECEIVED: &str = "omnidaemon_tasks_received_total";
/// Completed tasks, each counted once however often it was retried.
pub const TASKS_PROCESSED: &str = "omnidaemon_tasks_processed_total";
/// Tasks that failed for good.
pub const TASKS_FAILED: &str = "omnidaemon_tasks_failed_total";
/// Durations of attempts, seconds.
pub const PROCESSING_DURATION: &str = "omnidaemon_processing_duration_seconds";
/// Waiting tasks.
pub const QUEUE_DEPTH: &str = "omnidaemon_queue_depth";
/// Age of the oldest waiting task, seconds.
pub const QUEUE_OLDEST: &str = "omnidaemon_queue_oldest_seconds";
/// Tasks that the live consumers of a topic can run at the same time.
pub const TOPIC_SLOTS: &str = "omnidaemon_topic_slots";
/// Live workers of this process, including idle ones.
pub const WORKERS_ACTIVE: &str = "omnidaemon_workers_active";
/// Workers of this process that the running tasks keep busy.
pub const WORKERS_BUSY: &str = "omnidaemon_workers_busy";
/// Worker processes that died without being stopped.
pub const WORKERS_CRASHED: &str = "omnidaemon_workers_crashed_total";
/// Answered requests of a route, per path and status.
pub const REQUESTS: &str = "omnidaemon_requests_total";
/// Durations from a request's head to the end of its answer, seconds.
pub const REQUEST_DURATION: &str = "omnidaemon_request_duration_seconds";
/// Requests without any of their route's sticky keys, which are assigned at random.
pub const UNKEYED_REQUESTS: &str = "omnidaemon_unkeyed_requests_total";
/// Requests that were cut off because the drain was over.
pub const DRAIN_CUT: &str = "omnidaemon_drain_cut_total";
/// How canaried requests ended.
pub const TASK_OUTCOMES: &str = "omnidaemon_task_outcomes_total";
/// The running weight, percent.
pub const ROLLOUT_WEIGHT: &str = "omnidaemon_rollout_weight";
/// The share that the operator allows, percent.
pub const ROLLOUT_PERCENT: &str = "omnidaemon_rollout_percent";
/// The last verdict of a gate: 1 pass, 0 inconclusive, -1 fail, NaN when its source failed.
pub const GATE_VERDICT: &str = "omnidaemon_gate_verdict";
/// Requests of the async cohort that were served on the sync path.
pub const FALLBACK: &str = "omnidaemon_fallback_total";
/// Requests whose enqueue was never answered.
pub const UNKNOWN_ENQUEUES: &str = "omnidaemon_unknown_enqueues_total";
/// Calls of a deprecated route.
pub const DEPRECATED_REQUESTS: &str = "omnidaemon_deprecated_requests_total";
/// 1 when the last reload was applied, 0 when it was refused.
pub const CONFIG_RELOAD_OK: &str = "omnidaemon_config_last_reload_successful";

/// Delivery tries, by kind and outcome.
pub const DELIVERIES: &str = "omnidaemon_deliveries_total";
/// Waiting deliveries.
pub const OUTBOX_DEPTH: &str = "omnidaemon_outbox_depth";

/// Requests with an idempotency key.
pub const IDEMPOTENT_REQUESTS: &str = "omnidaemon_idempotent_requests_total";

/// Tasks that failed because a foreign publisher trimmed them.
pub const TASKS_TRIMMED: &str = "omnidaemon_tasks_trimmed_total";

/// Requests that were picked for shadow traffic, by outcome.
pub const SHADOW_REQUESTS: &str = "omnidaemon_shadow_total";

/// The names of all metrics of this program.
pub const ALL_METRICS: [&str; 27] = [
    TASKS_RECEIVED,
    TASKS_PROCESSED,
    TASKS_FAILED,
    PROCESSING_DURATION,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    TOPIC_SLOTS,
    WORKERS_ACTIVE,
    WORKERS_BUSY,
    WORKERS_CRASHED,
    REQUESTS,
    REQUEST_DURATION,
    UNKEYED_REQUESTS,
    DRAIN_CUT,
    TASK_OUTCOMES,
    ROLLOUT_WEIGHT,
    ROLLOUT_PERCENT,
    GATE_VERDICT,
    FALLBACK,
    UNKNOWN_ENQUEUES,
    DEPRECATED_REQUESTS,
    CONFIG_RELOAD_OK,
    DELIVERIES,
    OUTBOX_DEPTH,
    IDEMPOTENT_REQUESTS,
    TASKS_TRIMMED,
    SHADOW_REQUESTS,
];
