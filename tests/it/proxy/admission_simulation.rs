//! Admission simulated: ten proxies, bursts, and slots that are fewer than the calls.
//!
//! The proxies see the fleet's run times as they were up to a second ago; the store counts open
//! tasks exactly. `docs/sizing.md` shows the printed figures:
//! `cargo nextest run --features failpoints admission_simulation --no-capture`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times are positive and far below 2^52 microseconds"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use omnidaemon::route::{Admission, AdmissionTiming, TopicCapacity, decide_admission};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PROXIES: usize = 10;
const SIMULATED_SECONDS: f64 = 600.0;
/// The mean run time of a task, seconds.
const RUN_TIME: f64 = 0.86;
/// How long a client waits before it gets 202, seconds.
const CLIENT_WAIT: f64 = 10.0;

/// Who decides about a call.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    /// Every call is queued.
    QueueAll,
    /// A call is queued if its task is expected to start in time.
    Admit,
}

/// What became of the calls.
#[derive(Default)]
struct Figures {
    calls: usize,
    /// Start delays of the tasks, seconds.
    delays: Vec<f64>,
    deferred: usize,
    busy_seconds: f64,
}

impl Figures {
    fn share_async(&self) -> f64 {
        ratio(self.delays.len(), self.calls)
    }

    fn delay(&self, share: f64) -> f64 {
        let mut delays = self.delays.clone();
        delays.sort_by(f64::total_cmp);
        let index = (delays.len() as f64 * share) as usize;
        delays.get(index.min(delays.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Exponentially distributed, with this mean.
fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -(1.0 - random.random::<f64>()).ln() * mean
}

/// Calls arrive at `rate` a second, and at five times that rate in each tenth second.
fn simulate(policy: Policy, slots: u64, rate: f64, max_start_delay: Duration) -> Figures {
    let mut random = StdRng::seed_from_u64(42);
    let (mut figures, mut now) = (Figures::default(), 0.0);
    // When each slot becomes free, the earliest first; times as integer microseconds.
    let mut free_at: BinaryHeap<Reverse<u64>> = (0..slots).map(|_| Reverse(0)).collect();
    // The ends of the open tasks.
    let mut open: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut ended: Vec<(f64, f64)> = Vec::new();
    let unknown = TopicCapacity { slots, ..TopicCapacity::default() };
    let mut views = [(f64::NEG_INFINITY, unknown); PROXIES];
    while now < SIMULATED_SECONDS {
        let is_burst = (now as u64).is_multiple_of(10);
        now += exponential(&mut random, 1.0 / if is_burst { rate * 5.0 } else { rate });
        figures.calls += 1;
        let micros = (now * 1e6) as u64;
        while open.peek().is_some_and(|Reverse(end)| *end <= micros) {
            open.pop();
        }
        let view = &mut views[random.random_range(0..PROXIES)];
        if now - view.0 >= 1.0 {
            let runs = ended.iter().filter(|(end, _)| *end <= now);
            let (count, sum) =
                runs.fold((0, 0.0), |(count, sum), (_, took)| (count + 1, sum + took));
            let recent_run_time = Duration::from_secs_f64(sum);
            *view = (now, TopicCapacity { slots, recent_runs: count, recent_run_time });
        }
        let timing = AdmissionTiming::new(&view.1, None, false, Some(max_start_delay));
        let Admission::BelowOpenTasks(limit) = decide_admission(&view.1, &timing) else { continue };
        if policy == Policy::Admit && open.len() as u64 >= limit {
            continue;
        }
        let Some(Reverse(free)) = free_at.pop() else { continue };
        let (start, took) = (free.max(micros), exponential(&mut random, RUN_TIME));
        let end = start + (took * 1e6) as u64;
        free_at.push(Reverse(end));
        open.push(Reverse(end));
        ended.push((end as f64 / 1e6, took));
        figures.busy_seconds += took;
        figures.delays.push((start - micros) as f64 / 1e6);
        figures.deferred += usize::from((end - micros) as f64 / 1e6 > CLIENT_WAIT);
    }
    figures
}

#[test]
fn admitted_tasks_start_soon_and_slots_stay_busy_through_bursts() {
    let max_start_delay = Duration::from_millis(86);
    println!("slots  calls/s  policy     async  busy   delay p50   p99    deferred");
    for (slots, rate) in [(5, 4.0), (5, 8.0), (5, 40.0), (160, 8.0), (160, 150.0)] {
        let mut figures = [Policy::QueueAll, Policy::Admit].map(|policy| {
            let figures = simulate(policy, slots, rate, max_start_delay);
            println!(
                "{slots:5}  {rate:7}  {:9}  {:4.0} %  {:3.0} %  {:7.2} s  {:6.2} s  {:5.1} %",
                if policy == Policy::Admit { "admission" } else { "queue all" },
                figures.share_async() * 100.0,
                figures.busy_seconds / (slots as f64 * SIMULATED_SECONDS) * 100.0,
                figures.delay(0.5),
                figures.delay(0.99),
                ratio(figures.deferred, figures.calls) * 100.0,
            );
            figures
        });
        let admitted = &mut figures[1];
        // Only a run of more than ten seconds defers a client: one of 100,000.
        assert!(ratio(admitted.deferred, admitted.calls) < 0.001, "{slots} slots at {rate}");
        assert!(admitted.delay(0.99) < 1.0, "{slots} slots at {rate}");
    }
    let overloaded = simulate(Policy::Admit, 5, 40.0, max_start_delay);
    let busy = overloaded.busy_seconds / (5.0 * SIMULATED_SECONDS);
    assert!(busy > 0.9, "calls that fit are admitted under overload: {busy}");
}
