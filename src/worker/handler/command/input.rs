//! The input of a program: the task as one line of JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::task::{FailureKind, TaskFailure};
use crate::worker::handler::attempt::TaskAttempt;

/// The JSON object that a program reads from stdin.
#[derive(Serialize)]
struct CommandInput<'a> {
    task_id: &'a str,
    topic: &'a str,
    payload: Box<RawValue>,
    correlation_id: Option<&'a str>,
    attempt: u32,
    /// The number of the attempt again, under the name of the wire contract.
    delivery_attempts: u32,
    /// Seconds since the Unix epoch.
    created_at: f64,
}

/// The task of an attempt as one line of JSON, with the newline.
pub(super) fn render_command_input(attempt: &TaskAttempt) -> Result<Vec<u8>, TaskFailure> {
    let task = &attempt.task;
    let malformed = |error: serde_json::Error| {
        TaskFailure::new(
            FailureKind::Malformed,
            format!("the payload of {} is not JSON: {error}", task.id),
        )
    };
    #[allow(clippy::cast_precision_loss)] // milliseconds fit for 280,000 years
    let created_at = task.created.0 as f64 / 1000.0;
    let input = CommandInput {
        task_id: task.id.as_str(),
        topic: task.topic.as_str(),
        payload: serde_json::from_slice(&task.payload).map_err(malformed)?,
        correlation_id: task.correlation_id.as_deref(),
        attempt: attempt.number,
        delivery_attempts: attempt.number,
        created_at,
    };
    let mut json = serde_json::to_vec(&input).map_err(malformed)?;
    json.push(b'\n');
    Ok(json)
}
