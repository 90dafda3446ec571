//! Where a page of the task list ended: base64 of JSON, opaque to the caller.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::store::error::invalid_cursor;
use crate::store::redis::wire::json::to_json;

/// The last position of a page.
#[derive(Serialize, Deserialize)]
pub(crate) enum TaskListCursor {
    /// At this entry of an unfinished task. Entries of different streams may have equal ids; those
    /// of topics up to `topic` were listed.
    #[serde(rename = "Going")]
    Unfinished { entry: String, topic: String },
    /// At this result, by its score and task id; before the first result if none.
    Ended(Option<(f64, String)>),
}

/// A cursor as text.
pub(crate) fn encode_list_cursor(cursor: &TaskListCursor) -> Result<String, StoreError> {
    to_json(cursor).map(|json| BASE64.encode(json))
}

/// The cursor in a text that [`encode_list_cursor`] wrote.
pub(crate) fn decode_list_cursor(text: &str) -> Result<TaskListCursor, StoreError> {
    let json = BASE64.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
    json.ok_or_else(|| invalid_cursor("after"))
}

/// The two numbers of an entry id, which are in the order of the ids.
pub(crate) type StreamEntryId = (u64, u64);

/// Reads an entry id; a part that is no number becomes 0.
pub(crate) fn parse_entry_id(text: &str) -> StreamEntryId {
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    (ms.parse().unwrap_or_default(), seq.parse().unwrap_or_default())
}
