//! `GET status`, `topics` and `workers`: the state of the installation as far as this process and
//! the store know it.

use axum::Json;
use axum::extract::State;

use super::rollouts::summarize_rollouts;
use crate::admin::health::{HealthStatus, collect_health};
use crate::admin::problem::ApiResult;
use crate::admin::services::AdminServices;
use crate::admin::views::{StatusDocument, TopicDocument, WorkerDocument};
use crate::operations::{load_fleet_status, load_heartbeats, load_queue_statuses};
use crate::task::UnixMs;

/// `GET status`. While the store does not answer, what it would tell is empty and the check of the
/// store says why.
pub(crate) async fn get_status(State(services): State<AdminServices>) -> Json<StatusDocument> {
    let report = collect_health(&services).await;
    let snapshot = services.snapshots.load();
    let fleet = load_fleet_status(services.store_access(), &snapshot.config).await;
    let status = match report.status {
        HealthStatus::Ready => "healthy",
        other => other.as_str(),
    };
    let uptime = UnixMs::from(jiff::Timestamp::now()).since(services.started_at);
    let mut document = StatusDocument {
        status: status.to_owned(),
        checks: report.checks,
        uptime_seconds: Some(uptime.as_secs()),
        rollouts: summarize_rollouts(&services, &snapshot),
        ..StatusDocument::from_fleet(&fleet, &snapshot.config)
    };
    document.add_workers_check(fleet.lacks_workers(&snapshot.config));
    Json(document)
}

/// `GET topics`: empty while the store does not answer.
pub(crate) async fn get_topics(State(services): State<AdminServices>) -> Json<Vec<TopicDocument>> {
    let queues = load_queue_statuses(services.store_access(), &services.config()).await;
    Json(queues.unwrap_or_default().iter().map(TopicDocument::from).collect())
}

/// `GET workers`
pub(crate) async fn get_workers(
    State(services): State<AdminServices>,
) -> ApiResult<Vec<WorkerDocument>> {
    let heartbeats = load_heartbeats(services.store_access()).await?;
    Ok(Json(heartbeats.iter().map(WorkerDocument::from).collect()))
}
