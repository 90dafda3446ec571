//! When this process last looked after the queues, and what it may do since when.
//!
//! An entry's idle time is its lease's clock, and it runs on while Redis is away or this process is
//! stopped: so nothing is taken back for one lease after a break, by when every live holder has
//! renewed. A holder without a heartbeat is given up sooner, but only by who has reached the store
//! without a break for one lease and missed the heartbeat twice: heartbeats run out during an
//! outage, and are the first thing that is written after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::lease_duration;

/// How often consumers and streams are swept.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The rounds so far.
#[derive(Default)]
pub(super) struct ReapSchedule(Mutex<ReapScheduleState>);

#[derive(Default)]
struct ReapScheduleState {
    round_count: usize,
    last_round_at: Option<Instant>,
    /// Before this, leases are not taken back.
    reaping_allowed_from: Option<Instant>,
    /// Since when rounds follow one another without a gap.
    uninterrupted_since: Option<Instant>,
    /// The processes that hold entries and have no heartbeat, and since when.
    silent_since: HashMap<String, Instant>,
    /// When consumers and streams were last swept.
    last_sweep_at: Option<Instant>,
    /// Where the look through a group's pending list goes on, where it was cut short.
    resume_positions: HashMap<String, String>,
    /// The group that alone keeps entries of a stream, from where on, and whether that was said.
    blocking_groups: HashMap<String, (String, String, bool)>,
}

/// What a round may do.
pub(super) struct ReapPermissions {
    /// Which one it is: who is looked after first goes round.
    pub(super) round_number: usize,
    /// Take expired leases back.
    pub(super) may_reap: bool,
    /// Sweep consumers and streams.
    pub(super) may_sweep: bool,
}

impl ReapSchedule {
    /// Notes a round.
    pub(super) fn begin_round(&self, now: Instant) -> ReapPermissions {
        let mut state = self.lock_state();
        state.round_count = state.round_count.wrapping_add(1);
        let pause = state.last_round_at.replace(now).map(|last| now - last);
        if pause.is_some_and(|pause| pause > lease_duration() / 2) {
            state.reaping_allowed_from = Some(now + lease_duration());
        }
        if pause.is_none_or(|pause| pause > heartbeat_interval()) {
            state.uninterrupted_since = Some(now);
            state.silent_since.clear();
        }
        let sweep = state.last_sweep_at.is_none_or(|swept| now - swept >= SWEEP_INTERVAL);
        if sweep {
            state.last_sweep_at = Some(now);
        }
        ReapPermissions {
            round_number: state.round_count,
            may_reap: state.reaping_allowed_from.is_none_or(|from| now >= from),
            may_sweep: sweep,
        }
    }

    /// Notes which processes hold entries and have no heartbeat now; gives those that are gone.
    pub(super) fn update_gone_processes(
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
        if state.uninterrupted_since.is_none_or(|steady| now - steady < lease_duration()) {
            return HashSet::new();
        }
        state
            .silent_since
            .iter()
            .filter(|(_, since)| now - **since >= heartbeat_interval())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Where the look through a group's pending list goes on.
    pub(super) fn resume_position(&self, group: &str) -> String {
        self.lock_state().resume_positions.get(group).cloned().unwrap_or_else(|| "-".to_owned())
    }

    /// Notes where it goes on the next time; empty when it came to the end.
    pub(super) fn save_position(&self, group: &str, page: String) {
        let mut state = self.lock_state();
        if page.is_empty() {
            state.resume_positions.remove(group);
        } else {
            state.resume_positions.insert(group.to_owned(), page);
        }
    }

    /// Notes the group that alone keeps entries of a stream, if any; whether it did so since the
    /// last sweep, from the same entry on. True once.
    pub(super) fn should_warn_of_group(
        &self,
        stream: &str,
        group: &str,
        first_kept_entry: String,
    ) -> bool {
        let mut state = self.lock_state();
        match state.blocking_groups.get_mut(stream) {
            Some((keeper, from, said))
                if keeper == group && *from == first_kept_entry && !group.is_empty() =>
            {
                !std::mem::replace(said, true)
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often heartbeats are written, which live for three times as long: none runs out in a shorter
/// pause, and one that is missed for so long is not merely late.
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
    fn after_a_break_nothing_is_taken_back_for_one_lease() {
        let (watch, start) = (ReapSchedule::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.begin_round(at(0)).may_reap, "a process that has just started sees no break");
        assert!(watch.begin_round(at(10)).may_reap);
        assert!(!watch.begin_round(at(40)).may_reap, "leases could not be renewed meanwhile");
        assert!((41..70).step_by(10).all(|second| !watch.begin_round(at(second)).may_reap));
        assert!(watch.begin_round(at(71)).may_reap);
    }

    #[test]
    fn a_process_is_gone_after_two_misses_in_a_steady_watch_of_one_lease() {
        let (watch, start) = (ReapSchedule::default(), Instant::now());
        let seen = |second, silent: &[&str]| {
            let now = start + Duration::from_secs(second);
            watch.begin_round(now);
            watch.update_gone_processes(now, name_set(silent))
        };
        for second in 0..30 {
            assert_eq!(seen(second, &["a"]), name_set(&[]), "{second} s: too short a watch");
        }
        assert_eq!(seen(30, &["a", "b"]), name_set(&["a"]), "b was missed once");
        assert_eq!(seen(34, &["a", "b"]), name_set(&["a"]));
        assert_eq!(seen(35, &["b"]), name_set(&["b"]), "a is back");
        assert_eq!(seen(36, &["a", "b"]), name_set(&["b"]), "and begins anew");
        assert_eq!(
            seen(42, &["a", "b"]),
            name_set(&[]),
            "a gap: heartbeats may have run out in it"
        );
        for second in (43..72).step_by(4) {
            assert_eq!(seen(second, &["a"]), name_set(&[]), "{second} s");
        }
        assert_eq!(seen(75, &["a"]), name_set(&["a"]));
    }

    #[test]
    fn a_group_that_does_not_move_between_two_sweeps_is_told_of_once() {
        let watch = ReapSchedule::default();
        let stuck = |group: &str, kept: &str| watch.should_warn_of_group("s", group, kept.into());
        assert_eq!(
            ["1-0", "2-0", "2-0", "2-0"].map(|kept| stuck("g", kept)),
            [false, false, true, false]
        );
        assert_eq!([stuck("", ""), stuck("", "")], [false, false], "nobody keeps anything");
        assert_eq!([stuck("g", "3-0"), stuck("g", "3-0")], [false, true], "again, later");
    }

    #[test]
    fn a_look_that_was_cut_short_goes_on_where_it_was() {
        let watch = ReapSchedule::default();
        assert_eq!(watch.resume_position("g"), "-");
        watch.save_position("g", "(5-0".into());
        assert_eq!(
            (watch.resume_position("g"), watch.resume_position("h")),
            ("(5-0".into(), "-".into())
        );
        watch.save_position("g", String::new());
        assert_eq!(watch.resume_position("g"), "-");
    }
}
