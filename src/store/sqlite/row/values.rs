//! Conversion of single values: numbers, times, ids and JSON columns.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::error::StoreError;
use crate::store::lease::Lease;
use crate::store::wire::envelope::StoredAnswer;
use crate::task::{TaskAnswer, TaskId, UnixMs};

/// A number as it is stored: SQLite's integers are signed, so larger numbers become the largest
/// one.
pub(crate) fn u64_to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number; a negative one becomes 0.
pub(crate) fn u64_from_sql(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}

/// A time as it is stored: ms since 1970.
pub(crate) fn time_to_sql(at: UnixMs) -> i64 {
    u64_to_sql(at.0)
}

/// A stored time.
pub(crate) fn time_from_sql(stored: i64) -> UnixMs {
    UnixMs(u64_from_sql(stored))
}

/// A number of rows as the value of a `LIMIT` or `OFFSET`.
pub(crate) fn limit_to_sql(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The lease number of a lease.
pub(crate) fn lease_number_of(lease: &Lease) -> i64 {
    parse_lease_number(&lease.store_handle)
}

/// The lease number in a [`Lease::store_handle`]; -1, which matches no lease, for any other text.
pub(crate) fn parse_lease_number(store_handle: &str) -> i64 {
    store_handle.parse().unwrap_or(-1)
}

/// The stored form of an answer with its body.
pub(crate) fn encode_answer_json(answer: &TaskAnswer) -> Result<String, StoreError> {
    encode_json(&StoredAnswer::from_whole_answer(answer))
}

/// Reads a stored task id.
pub(crate) fn parse_task_id(text: &str) -> Result<TaskId, StoreError> {
    TaskId::parse(text).map_err(malformed_record)
}

/// Reads a JSON column.
pub(crate) fn parse_json<T: DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(malformed_record)
}

/// The stored text of a JSON column.
pub(crate) fn encode_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(malformed_record)
}

/// The error for a stored value that cannot be read.
pub(crate) fn malformed_record(error: impl std::fmt::Display) -> StoreError {
    StoreError::Malformed(error.to_string())
}
