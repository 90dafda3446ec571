//! The stored forms: keys, entries, records, results and dead letters. A leaf: nothing here calls
//! Redis.

pub(crate) mod dead_letter;
pub(crate) mod entry;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod lease_handle;
pub(crate) mod lease_row;
pub(crate) mod outcome;
pub(crate) mod packed_record;
pub(crate) mod progress;
pub(crate) mod reply_fields;
pub(crate) mod result;
