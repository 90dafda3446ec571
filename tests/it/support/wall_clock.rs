//! The wall clock of the tests.

use std::time::{SystemTime, UNIX_EPOCH};

use omnidaemon::task::UnixMs;

/// The present time.
pub fn wall_clock_now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMs(u64::try_from(since.as_millis()).expect("before the year 500 million"))
}
