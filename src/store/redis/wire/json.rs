//! JSON helpers that all stored forms share.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::StoreError;

/// A stored form as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Malformed(error.to_string()))
}

pub(crate) fn parse_json_string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}
