//! Pure rollout decisions: what the running weight should be, given the state, the plan and an event.
//!
//! No clock and no store: `now` is an argument, the state comes in and the next one goes out. The
//! controller persists and publishes it. In this release the only mode is manual: the weight jumps to
//! `percent`; the states and gates of a gated rollout come into this room, behind the same function.

pub mod evidence;
pub mod gate;
pub mod words;

use crate::cohort::Weight;
use crate::task::UnixMs;

/// What the operator's file says about a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The share that is allowed.
    pub percent: Weight,
}

/// A route's rollout as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The running weight.
    pub weight: Weight,
    /// When it last changed.
    pub changed: UnixMs,
    /// Why it last changed, for people.
    pub reason: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The file was read: at start, or because it was edited.
    Planned(Plan),
}

// === impl State ===

impl State {
    /// A rollout that nobody has touched: everything is sync.
    #[must_use]
    pub fn fresh(now: UnixMs) -> Self {
        Self { weight: Weight::ZERO, changed: now, reason: "a new rollout".into() }
    }
}

/// The state after `event`; none when it changes nothing.
#[must_use]
pub fn decide(state: &State, event: Event, now: UnixMs) -> Option<State> {
    let Event::Planned(plan) = event;
    (plan.percent != state.weight).then(|| State {
        weight: plan.percent,
        changed: now,
        reason: format!("percent in the file was {}, mode is manual", plan.percent),
    })
}

/// What a replica runs: never more than its own file allows.
#[must_use]
pub fn running(state: &State, plan: Plan) -> Weight {
    state.weight.min(plan.percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(points: u16) -> Event {
        Event::Planned(Plan { percent: Weight::from_basis_points(points) })
    }

    proptest! {
        #[test]
        fn manual_jumps_to_the_percentage_and_then_rests(from in 0u16..=10_000, to in 0u16..=10_000) {
            let state = State { weight: Weight::from_basis_points(from), ..State::fresh(UnixMs(1)) };
            let next = decide(&state, planned(to), UnixMs(2));
            prop_assert_eq!(next.is_some(), from != to);
            let settled = next.unwrap_or(state);
            prop_assert_eq!(settled.weight.basis_points(), to);
            prop_assert_eq!(decide(&settled, planned(to), UnixMs(3)), None);
        }

        #[test]
        fn no_replica_runs_more_than_its_file_allows(stored in 0u16..=10_000, own in 0u16..=10_000) {
            let state = State { weight: Weight::from_basis_points(stored), ..State::fresh(UnixMs(1)) };
            let percent = Weight::from_basis_points(own);
            let weight = running(&state, Plan { percent });
            prop_assert!(weight <= percent);
        }
    }

    #[test]
    fn a_fresh_rollout_sends_nothing_async() {
        assert_eq!(State::fresh(UnixMs(0)).weight, Weight::ZERO);
    }
}
