//! How long leases, heartbeats and replica reports last without renewal, and how often a task may
//! lose its worker.
//!
//! A build with the cargo feature `failpoints` reads `OMNIDAEMON_LEASE` (a duration such as `3s`)
//! and shortens all three in proportion, so that tests need not wait for real leases to expire.

use std::time::Duration;

/// How long a lease lasts without renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(30);

/// How long a worker heartbeat counts.
pub const HEARTBEAT_TTL: Duration = Duration::from_secs(15);

/// How long a replica's report, and the lead, last without renewal.
pub const REPLICA_TTL: Duration = Duration::from_secs(10);

/// How many attempts a task may lose to crashed workers, beyond the retries that failures are
/// allowed.
pub const CRASH_RERUN_LIMIT: u32 = 3;

/// [`LEASE_DURATION`], or the shorter lease that a test build is configured with. The program uses
/// this value, not the constant.
#[must_use]
pub fn lease_duration() -> Duration {
    #[cfg(feature = "failpoints")]
    if let Some(shortened) = lease_override() {
        return shortened;
    }
    LEASE_DURATION
}

/// [`HEARTBEAT_TTL`], in the same proportion to [`lease_duration`].
#[must_use]
pub fn heartbeat_ttl() -> Duration {
    lease_duration() / 2
}

/// [`REPLICA_TTL`], in the same proportion to [`lease_duration`].
#[must_use]
pub fn replica_ttl() -> Duration {
    lease_duration() / 3
}

/// Whether a task whose worker crashed in attempt number `attempts` runs again.
#[must_use]
pub fn may_rerun_after_crash(attempts: u32, retries: u32) -> bool {
    attempts < retries.saturating_add(CRASH_RERUN_LIMIT)
}

#[cfg(feature = "failpoints")]
fn lease_override() -> Option<Duration> {
    const LEASE_ENV: &str = "OMNIDAEMON_LEASE";
    static LEASE_OVERRIDE: std::sync::OnceLock<Option<Duration>> = std::sync::OnceLock::new();
    *LEASE_OVERRIDE.get_or_init(|| humantime::parse_duration(&std::env::var(LEASE_ENV).ok()?).ok())
}
