//! When this process ran maintenance rounds, and what a round may do therefore.
//!
//! The idle time of an entry is the clock of its lease, and it runs on while Redis is unreachable
//! or this process is stopped. So after an interruption, a pause of more than one heartbeat
//! interval, no lease is reaped for one lease duration, by when every live holder has renewed. A
//! short interruption counts too: in a row of them, a holder may miss each moment at which the
//! store is reachable. The leases of a holder without a heartbeat are reaped
//! sooner, but only by a process that has reached the store without interruption for one lease
//! duration and missed the heartbeat twice: heartbeats expire during an outage, and are the first
//! thing that is written after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::lease_duration;
use crate::store::redis::lock::lock_unpoisoned;

/// How often idle consumers are removed and streams are trimmed.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The rounds so far, and what they saw.
#[derive(Default)]
pub(crate) struct ReapSchedule(Mutex<ReapScheduleState>);

#[derive(Default)]
struct ReapScheduleState {
    round_count: usize,
    last_round_at: Option<Instant>,
    /// No lease is reaped before this time.
    reaping_allowed_from: Option<Instant>,
    /// When the current sequence of rounds without interruption began.
    uninterrupted_since: Option<Instant>,
    /// The processes that hold entries and have no heartbeat, and the time when that was first
    /// seen.
    silent_since: HashMap<String, Instant>,
    /// When the last sweep (of consumers and streams) was.
    last_sweep_at: Option<Instant>,
    /// The position in the pending list of each group whose scan was cut short.
    resume_positions: HashMap<String, String>,
    /// By stream, the group that alone keeps entries of it, the first entry that it keeps, and
    /// whether a warning was logged.
    blocking_groups: HashMap<String, (String, String, bool)>,
}

/// What a round may do.
pub(crate) struct ReapPermissions {
    /// The number of the round, which decides the queue that it begins with.
    pub(crate) round_number: usize,
    /// Reap expired leases.
    pub(crate) may_reap: bool,
    /// Remove idle consumers and trim streams.
    pub(crate) may_sweep: bool,
}

impl ReapSchedule {
    /// Records that a round begins now.
    pub(crate) fn begin_round(&self, now: Instant) -> ReapPermissions {
        let mut state = self.lock_state();
        state.round_count = state.round_count.wrapping_add(1);
        let pause = state.last_round_at.replace(now).map(|last| now - last);
        let interrupted = pause.is_some_and(|pause| pause > heartbeat_interval());
        if interrupted {
            state.reaping_allowed_from = Some(now + lease_duration());
        }
        if interrupted || pause.is_none() {
            state.uninterrupted_since = Some(now);
            state.silent_since.clear();
        }
        let sweep = state.last_sweep_at.is_none_or(|last| now - last >= SWEEP_INTERVAL);
        if sweep {
            state.last_sweep_at = Some(now);
        }
        ReapPermissions {
            round_number: state.round_count,
            may_reap: state.reaping_allowed_from.is_none_or(|from| now >= from),
            may_sweep: sweep,
        }
    }

    /// Records which processes hold entries and have no heartbeat now; returns those that are gone.
    pub(crate) fn update_gone_processes(
        &self,
        now: Instant,
        silent: HashSet<String>,
    ) -> HashSet<String> {
        let mut state = self.lock_state();
        let before = std::mem::take(&mut state.silent_since);
        let since = |name: String| {
            let since = before.get(&name).copied().unwrap_or(now);
            (name, since)
        };
        state.silent_since = silent.into_iter().map(since).collect();
        if state.uninterrupted_since.is_none_or(|since| now - since < lease_duration()) {
            return HashSet::new();
        }
        state
            .silent_since
            .iter()
            .filter(|(_, since)| now - **since >= heartbeat_interval())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The position at which the scan of a group's pending list continues; `-` for its start.
    pub(crate) fn resume_position(&self, group: &str) -> String {
        self.lock_state().resume_positions.get(group).cloned().unwrap_or_else(|| "-".to_owned())
    }

    /// Stores the position at which the next scan of a group continues; empty after a whole scan.
    pub(crate) fn save_position(&self, group: &str, position: String) {
        let mut state = self.lock_state();
        if position.is_empty() {
            state.resume_positions.remove(group);
        } else {
            state.resume_positions.insert(group.to_owned(), position);
        }
    }

    /// Records the group that alone keeps entries of a stream, empty for none. Returns true, once,
    /// if the same group kept the same first entry at the last sweep.
    pub(crate) fn should_warn_of_group(
        &self,
        stream: &str,
        group: &str,
        first_kept_entry: String,
    ) -> bool {
        let mut state = self.lock_state();
        match state.blocking_groups.get_mut(stream) {
            Some((blocking, first, was_logged))
                if blocking == group && *first == first_kept_entry && !group.is_empty() =>
            {
                !std::mem::replace(was_logged, true)
            }
            _ => {
                state
                    .blocking_groups
                    .insert(stream.to_owned(), (group.to_owned(), first_kept_entry, false));
                false
            }
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, ReapScheduleState> {
        lock_unpoisoned(&self.0)
    }
}

/// How often heartbeats are written. They are kept for three times as long, so none expires in a
/// shorter pause, and a process that has had none for this long is not merely late.
fn heartbeat_interval() -> Duration {
    lease_duration() / 6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_set(names: &[&str]) -> HashSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn after_an_interruption_no_lease_is_reaped_for_one_lease_duration() {
        let (schedule, start) = (ReapSchedule::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(
            schedule.begin_round(at(0)).may_reap,
            "a process that has just started sees no interruption"
        );
        assert!(schedule.begin_round(at(5)).may_reap);
        assert!(!schedule.begin_round(at(40)).may_reap, "leases could not be renewed meanwhile");
        assert!((41..70).all(|second| !schedule.begin_round(at(second)).may_reap));
        assert!(schedule.begin_round(at(70)).may_reap);
    }

    #[test]
    fn short_outages_in_a_row_let_no_live_holders_lease_be_reaped() {
        let (schedule, start) = (ReapSchedule::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(schedule.begin_round(at(0)).may_reap);
        // The store is reachable at these moments only, and a holder in another process may miss
        // all of them.
        assert!([8, 16, 24, 32].into_iter().all(|s| !schedule.begin_round(at(s)).may_reap));
        assert!((33..62).all(|second| !schedule.begin_round(at(second)).may_reap));
        assert!(schedule.begin_round(at(62)).may_reap);
    }

    #[test]
    fn a_process_is_gone_after_two_misses_in_one_uninterrupted_lease_duration() {
        let (schedule, start) = (ReapSchedule::default(), Instant::now());
        let seen = |second, silent: &[&str]| {
            let now = start + Duration::from_secs(second);
            schedule.begin_round(now);
            schedule.update_gone_processes(now, name_set(silent))
        };
        for second in 0..30 {
            assert_eq!(
                seen(second, &["a"]),
                name_set(&[]),
                "{second} s: observed for too short a time"
            );
        }
        assert_eq!(seen(30, &["a", "b"]), name_set(&["a"]), "b was missed once");
        assert_eq!(seen(34, &["a", "b"]), name_set(&["a"]));
        assert_eq!(seen(35, &["b"]), name_set(&["b"]), "a is back");
        assert_eq!(seen(36, &["a", "b"]), name_set(&["b"]), "a counts as new");
        assert_eq!(
            seen(42, &["a", "b"]),
            name_set(&[]),
            "after a gap, in which heartbeats may have expired"
        );
        for second in (43..72).step_by(4) {
            assert_eq!(seen(second, &["a"]), name_set(&[]), "{second} s");
        }
        assert_eq!(seen(75, &["a"]), name_set(&["a"]));
    }

    #[test]
    fn a_group_that_does_not_move_between_two_sweeps_is_logged_once() {
        let schedule = ReapSchedule::default();
        let stuck =
            |group: &str, kept: &str| schedule.should_warn_of_group("s", group, kept.into());
        assert_eq!(
            ["1-0", "2-0", "2-0", "2-0"].map(|kept| stuck("g", kept)),
            [false, false, true, false]
        );
        assert_eq!([stuck("", ""), stuck("", "")], [false, false], "no group keeps anything");
        assert_eq!([stuck("g", "3-0"), stuck("g", "3-0")], [false, true], "again, later");
    }

    #[test]
    fn a_scan_that_was_cut_short_continues_at_its_position() {
        let schedule = ReapSchedule::default();
        assert_eq!(schedule.resume_position("g"), "-");
        schedule.save_position("g", "(5-0".into());
        assert_eq!(
            (schedule.resume_position("g"), schedule.resume_position("h")),
            ("(5-0".into(), "-".into())
        );
        schedule.save_position("g", String::new());
        assert_eq!(schedule.resume_position("g"), "-");
    }
}
