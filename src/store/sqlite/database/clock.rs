//! The clocks of the SQLite store.
//!
//! Stored times (the end of a delay, expiry) are of the store's own clock. It shows the system's
//! time when the database is created, and then goes on with the time since the machine's boot,
//! which no correction of the system's clock changes; [`ClockMark`] carries it over a restart.
//! Callers give and get system times, which are converted by the present difference of the two
//! clocks. Leases and heartbeats belong to this process and use a steady time, in which a suspended
//! machine stands still: a laptop that wakes up must not expire the leases of running tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::task::UnixMs;

/// A difference between the store's clock and the system's that is ignored, ms.
const DIFFERENCE_TOLERANCE_MS: u64 = 1000;

/// The clock that goes on while the machine is suspended and that nobody sets.
#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::Monotonic;

/// The clocks, with an offset that a test can add; clones share all of it.
#[derive(Clone, Debug)]
pub struct SqliteClock {
    start: Instant,
    shared: Arc<SharedClockState>,
}

/// The state that clones share, all in ms.
#[derive(Debug)]
struct SharedClockState {
    test_offset: AtomicU64,
    /// The store's time minus the time since the boot.
    store_minus_boot: AtomicI64,
    /// The system's time minus the store's, changed only where it differs by more than the
    /// tolerance, so that a time that is converted back is the same.
    system_minus_store: AtomicI64,
}

/// One moment by all clocks, kept in the database for the next process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClockMark {
    /// The boot of the machine; empty where the system names none.
    pub(crate) boot_id: String,
    /// The time since that boot.
    pub(crate) since_boot: UnixMs,
    /// The store's time.
    pub(crate) store_time: UnixMs,
    /// The system's time.
    pub(crate) system_time: UnixMs,
}

// === impl SqliteClock ===

impl SqliteClock {
    /// Moves all times ahead.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.shared.test_offset.fetch_add(by, Ordering::Relaxed);
    }

    /// The system's time.
    #[must_use]
    pub fn system_time(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).plus(self.test_offset())
    }

    /// The store's time. It never goes back or jumps.
    #[must_use]
    pub fn store_time(&self) -> UnixMs {
        let store_minus_boot = self.shared.store_minus_boot.load(Ordering::Relaxed);
        UnixMs(self.since_boot().0.saturating_add_signed(store_minus_boot))
    }

    /// The time since this clock was created, without the time in which the machine was suspended.
    #[must_use]
    pub fn steady_time(&self) -> Duration {
        self.start.elapsed() + self.test_offset()
    }

    /// The store's time at a time of the system's clock, as that clock is now.
    pub(crate) fn to_store_time(&self, system_time: UnixMs) -> UnixMs {
        let difference = self.system_minus_store_ms();
        UnixMs(system_time.0.saturating_add_signed(difference.saturating_neg()))
    }

    /// The reverse of [`Self::to_store_time`].
    pub(crate) fn to_system_time(&self, store_time: UnixMs) -> UnixMs {
        UnixMs(store_time.0.saturating_add_signed(self.system_minus_store_ms()))
    }

    /// By how many milliseconds the system's clock is ahead of the store's; 0 within the tolerance.
    fn system_minus_store_ms(&self) -> i64 {
        let measured = self.system_time().0.cast_signed() - self.store_time().0.cast_signed();
        let known = self.shared.system_minus_store.load(Ordering::Relaxed);
        if measured.abs_diff(known) <= DIFFERENCE_TOLERANCE_MS {
            return known;
        }
        self.shared.system_minus_store.store(measured, Ordering::Relaxed);
        measured
    }

    /// Continues the store's clock from a mark of an earlier process: within one boot by the time
    /// since that boot, else by the system's clock, and never back. Without a mark the store's time
    /// begins as the system's.
    pub(crate) fn resume_from(&self, mark: Option<&ClockMark>, boot_id: &str) {
        let (since_boot, system_time) = (self.since_boot(), self.system_time());
        let store_time = match mark {
            None => system_time,
            Some(mark) if mark.boot_id == boot_id && !boot_id.is_empty() => {
                mark.store_time.plus(since_boot.since(mark.since_boot))
            }
            Some(mark) => mark.store_time.plus(system_time.since(mark.system_time)),
        };
        let store_minus_boot = store_time.0.cast_signed() - since_boot.0.cast_signed();
        self.shared.store_minus_boot.store(store_minus_boot, Ordering::Relaxed);
        self.shared.system_minus_store.store(0, Ordering::Relaxed);
    }

    /// The present moment.
    pub(crate) fn take_mark(&self, boot_id: &str) -> ClockMark {
        ClockMark {
            boot_id: boot_id.to_owned(),
            since_boot: self.since_boot(),
            store_time: self.store_time(),
            system_time: self.system_time(),
        }
    }

    fn since_boot(&self) -> UnixMs {
        let since = clock_gettime(BOOT_CLOCK);
        let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(since.tv_nsec).unwrap_or_default();
        let since = Duration::new(seconds, nanoseconds);
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).plus(self.test_offset())
    }

    fn test_offset(&self) -> Duration {
        Duration::from_millis(self.shared.test_offset.load(Ordering::Relaxed))
    }
}

impl Default for SqliteClock {
    fn default() -> Self {
        let shared = SharedClockState {
            test_offset: AtomicU64::new(0),
            store_minus_boot: AtomicI64::new(0),
            system_minus_store: AtomicI64::new(0),
        };
        let clock = Self { start: Instant::now(), shared: Arc::new(shared) };
        clock.resume_from(None, "");
        clock
    }
}

/// The name of the machine's present boot; empty where the system names none.
pub(crate) fn read_boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    /// Whether two times differ by less than the tolerance.
    fn is_near(time: UnixMs, other: UnixMs) -> bool {
        time.0.abs_diff(other.0) < DIFFERENCE_TOLERANCE_MS
    }

    #[test]
    fn within_a_boot_the_system_clock_does_not_count() {
        let before = SqliteClock::default();
        let mut mark = before.take_mark("boot");
        mark.system_time = UnixMs(mark.system_time.0 - DAY_MS);
        let after = SqliteClock::default();
        after.resume_from(Some(&mark), "boot");
        assert!(is_near(after.store_time(), mark.store_time), "not a day later");
    }

    #[test]
    fn after_another_boot_the_time_that_the_machine_was_off_counts_and_never_backwards() {
        let clock = SqliteClock::default();
        let now = clock.take_mark("earlier boot");
        let was_off = ClockMark { system_time: UnixMs(now.system_time.0 - DAY_MS), ..now.clone() };
        clock.resume_from(Some(&was_off), "boot");
        assert!(is_near(clock.store_time(), UnixMs(now.store_time.0 + DAY_MS)));
        let set_back = ClockMark { system_time: UnixMs(now.system_time.0 + DAY_MS), ..now.clone() };
        clock.resume_from(Some(&set_back), "boot");
        assert!(is_near(clock.store_time(), now.store_time));
    }

    #[test]
    fn times_are_converted_by_the_present_difference_and_back_to_themselves() {
        let clock = SqliteClock::default();
        let now = clock.take_mark("");
        assert_eq!(clock.to_store_time(UnixMs(5)), UnixMs(5), "both clocks agree");
        let behind = ClockMark { store_time: UnixMs(now.store_time.0 - DAY_MS), ..now.clone() };
        clock.resume_from(Some(&behind), "boot");
        let (at, stored) = (now.system_time, clock.to_store_time(now.system_time));
        assert!(is_near(stored, behind.store_time));
        assert_eq!(clock.to_system_time(stored), at);
    }
}
