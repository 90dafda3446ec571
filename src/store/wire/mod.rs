//! The JSON forms that both stores write: request envelopes, attempt histories and end messages.
//!
//! A leaf: it knows tasks and errors, and no store.

pub(super) mod envelope;
pub(super) mod run_history;
pub(super) mod task_end_message;
