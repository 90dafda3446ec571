//! Real servers for tests, each on a free port, gone when dropped.

pub(crate) mod redis;
