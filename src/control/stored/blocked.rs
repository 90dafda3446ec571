//! The stored reason for which soak time and gates stand still.
//!
//! `blocked` holds a code with its data. `frozen` holds the text beside it: releases before
//! `blocked` know the text alone, and recognize one constant sentence.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cohort_hash::Weight;
use crate::rollout::BlockedReason;

/// The text in `frozen` by which releases before `blocked` recognize
/// [`BlockedReason::PercentZero`]. Part of the stored form: it never changes.
pub(super) const PERCENT_ZERO_TEXT_V2: &str = "percent in the file is 0";

/// `blocked`, with a code that this release knows.
#[derive(Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
enum StoredBlockedReason {
    PercentZero,
    StoreUnavailable { requests: u64 },
    ReplicasLagging { replicas: Vec<String> },
    SourceError { gate: String, explanation: String },
    Saturated { calls: u64, assigned: u64 },
    NoWorker { calls: u64, assigned: u64 },
    SampleRatio { mismatched: u64, async_random: u64, random_requests: u64 },
}

/// The reason as `blocked` and `frozen`, for a rollout at `weight`.
pub(super) fn to_stored(reason: &BlockedReason, weight: Weight) -> (Option<Value>, String) {
    let stored = match reason.clone() {
        BlockedReason::PercentZero => StoredBlockedReason::PercentZero,
        BlockedReason::StoreUnavailable { requests } => {
            StoredBlockedReason::StoreUnavailable { requests }
        }
        BlockedReason::ReplicasLagging { replicas } => {
            StoredBlockedReason::ReplicasLagging { replicas }
        }
        BlockedReason::SourceError { gate, explanation } => {
            StoredBlockedReason::SourceError { gate, explanation }
        }
        BlockedReason::Saturated { calls, assigned } => {
            StoredBlockedReason::Saturated { calls, assigned }
        }
        BlockedReason::NoWorker { calls, assigned } => {
            StoredBlockedReason::NoWorker { calls, assigned }
        }
        BlockedReason::SampleRatio { mismatched, async_random, random_requests } => {
            StoredBlockedReason::SampleRatio { mismatched, async_random, random_requests }
        }
        BlockedReason::Unrecognized { text, stored_json } => {
            let blocked = stored_json.and_then(|json| serde_json::from_str(&json).ok());
            return (blocked, text);
        }
    };
    let text = match reason {
        BlockedReason::PercentZero => PERCENT_ZERO_TEXT_V2.to_owned(),
        reason => reason.render(weight),
    };
    (serde_json::to_value(stored).ok(), text)
}

/// The reason of `blocked` and `frozen`. A code that this release does not know is kept as it is.
pub(super) fn from_stored(blocked: Option<Value>, frozen: Option<String>) -> Option<BlockedReason> {
    let Some(blocked) = blocked else {
        return frozen.map(|text| match text.as_str() {
            PERCENT_ZERO_TEXT_V2 => BlockedReason::PercentZero,
            _ => BlockedReason::Unrecognized { text, stored_json: None },
        });
    };
    let reason = match serde_json::from_value(blocked.clone()) {
        Ok(StoredBlockedReason::PercentZero) => BlockedReason::PercentZero,
        Ok(StoredBlockedReason::StoreUnavailable { requests }) => {
            BlockedReason::StoreUnavailable { requests }
        }
        Ok(StoredBlockedReason::ReplicasLagging { replicas }) => {
            BlockedReason::ReplicasLagging { replicas }
        }
        Ok(StoredBlockedReason::SourceError { gate, explanation }) => {
            BlockedReason::SourceError { gate, explanation }
        }
        Ok(StoredBlockedReason::Saturated { calls, assigned }) => {
            BlockedReason::Saturated { calls, assigned }
        }
        Ok(StoredBlockedReason::NoWorker { calls, assigned }) => {
            BlockedReason::NoWorker { calls, assigned }
        }
        Ok(StoredBlockedReason::SampleRatio { mismatched, async_random, random_requests }) => {
            BlockedReason::SampleRatio { mismatched, async_random, random_requests }
        }
        Err(_) => BlockedReason::Unrecognized {
            text: frozen.unwrap_or_default(),
            stored_json: Some(blocked.to_string()),
        },
    };
    Some(reason)
}
