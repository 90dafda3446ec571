//! When this process last looked after the queues, and what it may do since when.
//!
//! An entry's idle time is its lease's clock, and it runs on while Redis is away or this process is stopped: so
//! nothing is taken back for one lease after a break, by when every live holder has renewed. A holder without a
//! heartbeat is given up sooner, but only by who has reached the store without a break for one lease and missed
//! the heartbeat twice: heartbeats run out during an outage, and are the first thing that is written after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::lease_time;

/// How often consumers and streams are swept.
const SWEEP: Duration = Duration::from_mins(1);

/// The rounds so far.
#[derive(Default)]
pub(super) struct Watch(Mutex<State>);

#[derive(Default)]
struct State {
    rounds: usize,
    last: Option<Instant>,
    /// Before this, leases are not taken back.
    calm: Option<Instant>,
    /// Since when rounds follow one another without a gap.
    steady: Option<Instant>,
    /// The processes that hold entries and have no heartbeat, and since when.
    missed: HashMap<String, Instant>,
    /// When consumers and streams were last swept.
    swept: Option<Instant>,
    /// Where the look through a group's pending list goes on, where it was cut short.
    pages: HashMap<String, String>,
    /// The group that alone keeps entries of a stream, from where on, and whether that was said.
    keepers: HashMap<String, (String, String, bool)>,
}

/// What a round may do.
pub(super) struct Round {
    /// Which one it is: who is looked after first goes round.
    pub(super) number: usize,
    /// Take expired leases back.
    pub(super) take_back: bool,
    /// Sweep consumers and streams.
    pub(super) sweep: bool,
}

impl Watch {
    /// Notes a round.
    pub(super) fn round(&self, now: Instant) -> Round {
        let mut state = self.state();
        state.rounds = state.rounds.wrapping_add(1);
        let pause = state.last.replace(now).map(|last| now - last);
        if pause.is_some_and(|pause| pause > lease_time() / 2) {
            state.calm = Some(now + lease_time());
        }
        if pause.is_none_or(|pause| pause > beat_time()) {
            state.steady = Some(now);
            state.missed.clear();
        }
        let sweep = state.swept.is_none_or(|swept| now - swept >= SWEEP);
        if sweep {
            state.swept = Some(now);
        }
        Round { number: state.rounds, take_back: state.calm.is_none_or(|from| now >= from), sweep }
    }

    /// Notes which processes hold entries and have no heartbeat now; gives those that are gone.
    pub(super) fn gone(&self, now: Instant, silent: HashSet<String>) -> HashSet<String> {
        let mut state = self.state();
        let before = std::mem::take(&mut state.missed);
        let since = |name: String| {
            let since = before.get(&name).copied().unwrap_or(now);
            (name, since)
        };
        state.missed = silent.into_iter().map(since).collect();
        if state.steady.is_none_or(|steady| now - steady < lease_time()) {
            return HashSet::new();
        }
        state.missed.iter().filter(|(_, since)| now - **since >= beat_time()).map(|(name, _)| name.clone()).collect()
    }

    /// Where the look through a group's pending list goes on.
    pub(super) fn page(&self, group: &str) -> String {
        self.state().pages.get(group).cloned().unwrap_or_else(|| "-".to_owned())
    }

    /// Notes where it goes on the next time; empty when it came to the end.
    pub(super) fn turn_to(&self, group: &str, page: String) {
        let mut state = self.state();
        if page.is_empty() {
            state.pages.remove(group);
        } else {
            state.pages.insert(group.to_owned(), page);
        }
    }

    /// Notes the group that alone keeps entries of a stream, if any; whether it did so since the last sweep, from the
    /// same entry on. True once.
    pub(super) fn is_stuck(&self, stream: &str, group: &str, kept: String) -> bool {
        let mut state = self.state();
        match state.keepers.get_mut(stream) {
            Some((keeper, from, said)) if keeper == group && *from == kept && !group.is_empty() => {
                !std::mem::replace(said, true)
            }
            _ => {
                state.keepers.insert(stream.to_owned(), (group.to_owned(), kept, false));
                false
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often heartbeats are written, which live for three times as long: none runs out in a shorter pause, and one
/// that is missed for so long is not merely late.
fn beat_time() -> Duration {
    lease_time() / 6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> HashSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn after_a_break_nothing_is_taken_back_for_one_lease() {
        let (watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.round(at(0)).take_back, "a process that has just started sees no break");
        assert!(watch.round(at(10)).take_back);
        assert!(!watch.round(at(40)).take_back, "leases could not be renewed meanwhile");
        assert!((41..70).step_by(10).all(|second| !watch.round(at(second)).take_back));
        assert!(watch.round(at(71)).take_back);
    }

    #[test]
    fn a_process_is_gone_after_two_misses_in_a_steady_watch_of_one_lease() {
        let (watch, start) = (Watch::default(), Instant::now());
        let seen = |second, silent: &[&str]| {
            let now = start + Duration::from_secs(second);
            watch.round(now);
            watch.gone(now, names(silent))
        };
        for second in 0..30 {
            assert_eq!(seen(second, &["a"]), names(&[]), "{second} s: too short a watch");
        }
        assert_eq!(seen(30, &["a", "b"]), names(&["a"]), "b was missed once");
        assert_eq!(seen(34, &["a", "b"]), names(&["a"]));
        assert_eq!(seen(35, &["b"]), names(&["b"]), "a is back");
        assert_eq!(seen(36, &["a", "b"]), names(&["b"]), "and begins anew");
        assert_eq!(seen(42, &["a", "b"]), names(&[]), "a gap: heartbeats may have run out in it");
        for second in (43..72).step_by(4) {
            assert_eq!(seen(second, &["a"]), names(&[]), "{second} s");
        }
        assert_eq!(seen(75, &["a"]), names(&["a"]));
    }

    #[test]
    fn a_group_that_does_not_move_between_two_sweeps_is_told_of_once() {
        let watch = Watch::default();
        let stuck = |group: &str, kept: &str| watch.is_stuck("s", group, kept.into());
        assert_eq!(["1-0", "2-0", "2-0", "2-0"].map(|kept| stuck("g", kept)), [false, false, true, false]);
        assert_eq!([stuck("", ""), stuck("", "")], [false, false], "nobody keeps anything");
        assert_eq!([stuck("g", "3-0"), stuck("g", "3-0")], [false, true], "again, later");
    }

    #[test]
    fn a_look_that_was_cut_short_goes_on_where_it_was() {
        let watch = Watch::default();
        assert_eq!(watch.page("g"), "-");
        watch.turn_to("g", "(5-0".into());
        assert_eq!((watch.page("g"), watch.page("h")), ("(5-0".into(), "-".into()));
        watch.turn_to("g", String::new());
        assert_eq!(watch.page("g"), "-");
    }
}
