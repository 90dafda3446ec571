//! A settlement, as its columns hold it.

use std::time::Duration;

use super::values::encode_json;
use crate::store::error::StoreError;
use crate::store::evidence::TallyOutcome;
use crate::store::lease::Settlement;
use crate::store::wire::envelope::{StoredAnswer, StoredFailure};
use crate::store::wire::run_history;
use crate::task::{FailureKind, TaskFailure, UnixMs};

/// A settlement with its answer or failure encoded as JSON.
pub(crate) enum EncodedSettlement {
    Complete { answer: String, result: String, tally_outcome: TallyOutcome, ttl: Duration },
    Retry { failure: String, kind: &'static str, message: String, retry_at: UnixMs },
    Bury { failure: String, message: String, tally_outcome: TallyOutcome, ttl: Duration },
    Release,
}

impl EncodedSettlement {
    /// The settle code of a retry.
    pub(crate) const RETRY_CODE: i64 = 2;

    /// Encodes a settlement.
    pub(crate) fn from_settlement(settlement: &Settlement) -> Result<Self, StoreError> {
        Ok(match settlement {
            Settlement::Complete { answer, ttl } => {
                let counted = TallyOutcome::from_answer(answer);
                let (answer, result) = StoredAnswer::encode_answer(answer);
                Self::Complete {
                    answer: encode_json(&answer)?,
                    result: result.get().to_owned(),
                    tally_outcome: counted,
                    ttl: *ttl,
                }
            }
            Settlement::Retry { failure, retry_at: at } => {
                let (kind, message) =
                    (failure.kind.as_str(), run_history::truncate_error(&failure.message));
                Self::Retry {
                    failure: encode_json(&StoredFailure::from_failure(failure))?,
                    kind,
                    message,
                    retry_at: *at,
                }
            }
            Settlement::Bury { failure, ttl } => Self::Bury {
                failure: encode_json(&StoredFailure::from_failure(failure))?,
                message: failure.message.clone(),
                tally_outcome: TallyOutcome::from_failure(failure),
                ttl: *ttl,
            },
            Settlement::Release => Self::Release,
        })
    }

    /// The same with its time converted.
    pub(crate) fn with_times(mut self, convert: impl Fn(UnixMs) -> UnixMs) -> Self {
        if let Self::Retry { retry_at, .. } = &mut self {
            *retry_at = convert(*retry_at);
        }
        self
    }

    /// The settle code, stored with the task: the same lease settled again with the same code is a
    /// repetition, and applied.
    pub(crate) fn settle_code(&self) -> i64 {
        match self {
            Self::Complete { .. } => 1,
            Self::Retry { .. } => Self::RETRY_CODE,
            Self::Bury { .. } => 3,
            Self::Release => 4,
        }
    }
}

/// The stored form of the failure of a task whose workers crashed.
pub(crate) fn encode_crash_failure(message: &str) -> rusqlite::Result<String> {
    encode_json(&StoredFailure::from_failure(&TaskFailure::new(FailureKind::WorkerCrash, message)))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
