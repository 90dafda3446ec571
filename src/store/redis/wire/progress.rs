//! The field `progress` of a task record.

use serde::{Deserialize, Serialize};

use crate::task::TaskProgress;

/// The field `progress` of a record, valid for the lease that reported it. The lease number is
/// stored as `turn`.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecordProgress {
    /// The number of the lease that reported it.
    #[serde(rename = "turn")]
    pub(crate) lease_number: u64,
    /// From 0 to 1.
    pub(crate) fraction: f64,
    /// A note for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// The progress in a record, if the current lease reported it. A record without a lease number is
/// in its first lease.
pub(crate) fn parse_current_progress(
    stored: &str,
    lease_number: Option<u64>,
) -> Option<TaskProgress> {
    let stored: RecordProgress = serde_json::from_str(stored).ok()?;
    let is_current = stored.lease_number == lease_number.unwrap_or(1);
    TaskProgress::new(stored.fraction, stored.note.as_deref()).filter(|_| is_current)
}
