//! State that outlives a request and is kept by a thread, or by all threads together. Data and its
//! bookkeeping only: nothing here answers a request or calls the store.

pub(crate) mod callers;
pub(crate) mod progress_reports;
pub(crate) mod shadow_limits;
