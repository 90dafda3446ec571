//! Whether a canaried call may become a task: it may if its task is expected to start soon.
//!
//! Expected start of a call: 0 with a free slot, else (waiting tasks + 1) ÷ slots × mean run time.
//! The call is admitted if that is at most the route's `max_start_delay`. The rule is equivalent to
//! a limit on the open tasks (waiting and running) of the topic, which the store enforces when the
//! task is enqueued, so that several proxies cannot exceed it together.

use std::time::Duration;

/// The number of recent runs from which their mean is relied upon.
pub const MIN_RECENT_RUNS: u64 = 20;

/// The smallest default of `max_start_delay`.
const MIN_START_DELAY: Duration = Duration::from_millis(50);
/// The largest default of `max_start_delay`.
const MAX_START_DELAY: Duration = Duration::from_secs(1);
/// The default of `max_start_delay` is the median of the sync path divided by this.
const START_DELAY_DIVISOR: u32 = 10;

/// What the live consumers of a topic can run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicCapacity {
    /// How many tasks can run at the same time, running ones included.
    pub slots: u64,
    /// Attempts that ended in the last ten minutes.
    pub recent_runs: u64,
    /// The sum of their durations.
    pub recent_run_time: Duration,
}

/// How long a task is expected to run, and how long a call may wait for its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionTiming {
    /// The mean run time of a task; none while it is not known.
    pub run_time: Option<Duration>,
    /// The longest expected start at which a call is admitted.
    pub max_start_delay: Duration,
}

/// Whether canaried calls are admitted to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No consumer of the topic is live.
    NoConsumer,
    /// A call is admitted while the topic has fewer open tasks than this.
    BelowOpenTasks(u64),
}

impl TopicCapacity {
    /// The capacity of two groups of consumers together.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_add(other.slots),
            recent_runs: self.recent_runs.saturating_add(other.recent_runs),
            recent_run_time: self.recent_run_time.saturating_add(other.recent_run_time),
        }
    }

    /// The mean of the recent runs, where there are enough of them.
    #[must_use]
    pub fn mean_run_time(&self) -> Option<Duration> {
        if self.recent_runs < MIN_RECENT_RUNS {
            return None;
        }
        let nanos = self.recent_run_time.as_nanos() / u128::from(self.recent_runs);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl AdmissionTiming {
    /// The timing of a topic by what is known of it. `sync_median` is the median duration of the
    /// route's calls on the sync path; it is the run time of a task that `replays_upstream` until
    /// there are enough runs. `max_start_delay` is that of the configuration.
    #[must_use]
    pub fn new(
        capacity: &TopicCapacity,
        sync_median: Option<Duration>,
        replays_upstream: bool,
        max_start_delay: Option<Duration>,
    ) -> Self {
        let run_time = capacity.mean_run_time().or(sync_median.filter(|_| replays_upstream));
        Self { run_time, max_start_delay: max_start_delay.unwrap_or(default_delay(sync_median)) }
    }
}

/// Whether calls are admitted to a topic with this capacity. With an unknown run time only a free
/// slot admits.
#[must_use]
pub fn decide_admission(capacity: &TopicCapacity, timing: &AdmissionTiming) -> Admission {
    if capacity.slots == 0 {
        return Admission::NoConsumer;
    }
    let waiting = timing.run_time.map_or(0, |run_time| {
        let started = timing.max_start_delay.as_nanos() * u128::from(capacity.slots);
        u64::try_from(started / run_time.as_nanos().max(1)).unwrap_or(u64::MAX)
    });
    Admission::BelowOpenTasks(capacity.slots.saturating_add(waiting))
}

/// The default of `max_start_delay`: a tenth of the sync path's median, within limits.
fn default_delay(sync_median: Option<Duration>) -> Duration {
    let delay = sync_median.map_or(MIN_START_DELAY, |median| median / START_DELAY_DIVISOR);
    delay.clamp(MIN_START_DELAY, MAX_START_DELAY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn capacity(slots: u64, recent_runs: u64, mean: Duration) -> TopicCapacity {
        let recent_run_time = mean * u32::try_from(recent_runs).expect("few");
        TopicCapacity { slots, recent_runs, recent_run_time }
    }

    #[test]
    fn a_topic_without_a_live_consumer_admits_no_call() {
        let none = capacity(0, 1000, ms(1));
        let timing = AdmissionTiming::new(&none, Some(ms(1)), true, Some(ms(60_000)));
        assert_eq!(decide_admission(&none, &timing), Admission::NoConsumer);
    }

    #[test]
    fn without_a_known_run_time_only_a_free_slot_admits() {
        let few = capacity(5, MIN_RECENT_RUNS - 1, ms(1));
        let timing = AdmissionTiming::new(&few, None, true, Some(ms(10_000)));
        assert_eq!(decide_admission(&few, &timing), Admission::BelowOpenTasks(5));
        // the sync path says nothing of a handler of another kind
        let timing = AdmissionTiming::new(&few, Some(ms(100)), false, Some(ms(10_000)));
        assert_eq!(decide_admission(&few, &timing), Admission::BelowOpenTasks(5));
        let timing = AdmissionTiming::new(&few, Some(ms(100)), true, Some(ms(10_000)));
        assert_eq!(decide_admission(&few, &timing), Admission::BelowOpenTasks(5 + 500));
    }

    #[test]
    fn the_default_delay_is_a_tenth_of_the_sync_median_within_limits() {
        let delay = |median| AdmissionTiming::new(&TopicCapacity::default(), median, true, None);
        let delays = [None, Some(ms(10)), Some(ms(860)), Some(ms(60_000))];
        let delays = delays.map(|median| delay(median).max_start_delay);
        assert_eq!(delays, [ms(50), ms(50), ms(86), ms(1000)]);
    }

    #[test]
    fn five_busy_workers_with_calls_of_860_ms_queue_no_call() {
        let five = capacity(5, 100, ms(860));
        let timing = AdmissionTiming::new(&five, Some(ms(860)), true, None);
        assert_eq!(decide_admission(&five, &timing), Admission::BelowOpenTasks(5));
    }

    proptest! {
        #[test]
        fn a_call_is_admitted_exactly_if_its_expected_start_is_within_the_limit(
            slots in 1u64..5000,
            open in 0u64..20_000,
            run_ms in 1u64..4_000_000,
            delay_ms in 0u64..120_000,
        ) {
            let (run_time, max_start_delay) = (Some(ms(run_ms)), ms(delay_ms));
            let timing = AdmissionTiming { run_time, max_start_delay };
            let known = TopicCapacity { slots, ..TopicCapacity::default() };
            let Admission::BelowOpenTasks(limit) = decide_admission(&known, &timing) else {
                return Err(TestCaseError::fail("there are slots"));
            };
            let ahead = u128::from(open.saturating_sub(slots)) + u128::from(open >= slots);
            let allowed = ms(delay_ms).as_nanos() * u128::from(slots);
            let within = ahead * ms(run_ms).as_nanos() <= allowed;
            prop_assert_eq!(open < limit, within);
            prop_assert!(limit >= slots, "a free slot always admits");
        }

        #[test]
        fn more_slots_never_admit_fewer_tasks(
            slots in 1u64..5000,
            run_ms in 1u64..4_000_000,
            delay_ms in 0u64..120_000,
        ) {
            let (run_time, max_start_delay) = (Some(ms(run_ms)), ms(delay_ms));
            let timing = AdmissionTiming { run_time, max_start_delay };
            let limit = |slots| {
                match decide_admission(&TopicCapacity { slots, ..Default::default() }, &timing) {
                    Admission::BelowOpenTasks(limit) => limit,
                    Admission::NoConsumer => 0,
                }
            };
            prop_assert!(limit(slots) < limit(slots + 1));
        }
    }
}
