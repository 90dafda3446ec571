//! Every metric's name, once. Dashboards, alerts and documents are held to this list.

/// Tasks accepted, each once.
pub const TASKS_RECEIVED: &str = "omnidaemon_tasks_received_total";
/// Tasks that completed, each once however often retried.
pub const TASKS_PROCESSED: &str = "omnidaemon_tasks_processed_total";
/// Tasks that failed for good.
pub const TASKS_FAILED: &str = "omnidaemon_tasks_failed_total";
/// Seconds an attempt took.
pub const PROCESSING_DURATION: &str = "omnidaemon_processing_duration_seconds";
/// Waiting tasks.
pub const QUEUE_DEPTH: &str = "omnidaemon_queue_depth";
/// Age of the oldest waiting task, seconds.
pub const QUEUE_OLDEST: &str = "omnidaemon_queue_oldest_seconds";
/// Live worker slots of this process, idle ones too.
pub const WORKERS_ACTIVE: &str = "omnidaemon_workers_active";
/// Worker slots that run a task.
pub const WORKERS_BUSY: &str = "omnidaemon_workers_busy";
/// Worker processes that died unasked.
pub const WORKERS_CRASHED: &str = "omnidaemon_workers_crashed_total";
/// Requests answered on a route, per path and status.
pub const REQUESTS: &str = "omnidaemon_requests_total";
/// Seconds from a request's head to the end of its answer.
pub const REQUEST_DURATION: &str = "omnidaemon_request_duration_seconds";
/// Requests without any of their route's sticky keys, which go either way at random.
pub const UNKEYED_REQUESTS: &str = "omnidaemon_unkeyed_requests_total";
/// How canaried requests ended.
pub const TASK_OUTCOMES: &str = "omnidaemon_task_outcomes_total";
/// The running weight, percent.
pub const ROLLOUT_WEIGHT: &str = "omnidaemon_rollout_weight";
/// The share that the operator allows, percent.
pub const ROLLOUT_PERCENT: &str = "omnidaemon_rollout_percent";
/// What a gate said last: 1 pass, 0 inconclusive, -1 fail, NaN where its source is gone.
pub const GATE_VERDICT: &str = "omnidaemon_gate_verdict";
/// Requests of the async cohort that were served sync.
pub const FALLBACK: &str = "omnidaemon_fallback_total";
/// Requests whose enqueue was never answered.
pub const UNKNOWN_ENQUEUES: &str = "omnidaemon_unknown_enqueues_total";
/// Calls of a deprecated route.
pub const DEPRECATED_REQUESTS: &str = "omnidaemon_deprecated_requests_total";
/// 1 when the last reload was applied, 0 when it was refused.
pub const CONFIG_RELOAD_OK: &str = "omnidaemon_config_last_reload_successful";

/// Tries to tell of a task's end, by how they went.
pub const DELIVERIES: &str = "omnidaemon_deliveries_total";
/// Deliveries that wait.
pub const OUTBOX_DEPTH: &str = "omnidaemon_outbox_depth";

/// Requests with an idempotency key.
pub const IDEMPOTENT_REQUESTS: &str = "omnidaemon_idempotent_requests_total";

/// Tasks that failed because a foreign publisher trimmed them.
pub const TASKS_TRIMMED: &str = "omnidaemon_tasks_trimmed_total";

/// Requests that shadow traffic picked, by what came of them.
pub const SHADOW_REQUESTS: &str = "omnidaemon_shadow_total";

/// All of them.
pub const ALL_METRICS: [&str; 25] = [
    TASKS_RECEIVED,
    TASKS_PROCESSED,
    TASKS_FAILED,
    PROCESSING_DURATION,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    WORKERS_ACTIVE,
    WORKERS_BUSY,
    WORKERS_CRASHED,
    REQUESTS,
    REQUEST_DURATION,
    UNKEYED_REQUESTS,
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
