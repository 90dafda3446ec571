//! `rollouts/{route}/history` of the API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET rollouts/{route}/history`: a page of the history, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryPageDocument {
    /// The events as they are stored, each with its `cursor`.
    pub events: Vec<Value>,
    /// The `before` of the next page; none at the end.
    pub next: Option<String>,
}

/// The fields of a history event that are shown in a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEventDocument {
    /// When it happened, milliseconds since the Unix epoch.
    pub at_ms: Option<u64>,
    /// The event's name.
    pub event: Option<String>,
    /// The weight before, percent.
    pub from: Option<f64>,
    /// The weight after, percent.
    pub to: Option<f64>,
    /// The phase after.
    pub phase: Option<String>,
    /// Who caused it.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}
