//! Simulated clients: one alone turns nothing back, however it fails; a regression is found all the
//! same.

use omnidaemon::config::BreakerConfig;
use omnidaemon::rollout::gate::trips_breaker;

use super::simulation::{SimulatedTraffic, TrafficModel};
use super::{EVALUATIONS_PER_HOUR, MIN_SAMPLES, error_gate, run_step};

const BREAKER: BreakerConfig = BreakerConfig {
    window: std::time::Duration::from_secs(30),
    min_requests: 20,
    max_error_ratio: 0.5,
};

/// How many of 40 runs the default error gate or the breaker rolls back within an hour.
fn count_rollbacks(truth: TrafficModel) -> usize {
    let gate = error_gate(Some(0.01), Some(0.005));
    let is_rolled_back = |seed: &u64| {
        let world = &mut SimulatedTraffic::new(truth, *seed);
        let by_gate = run_step(&gate, MIN_SAMPLES, world, EVALUATIONS_PER_HOUR, |step| {
            step.rolled_back_at.is_some()
        });
        let world = &mut SimulatedTraffic::new(truth, *seed);
        by_gate.rolled_back_at.is_some()
            || (0..EVALUATIONS_PER_HOUR).any(|_| trips_breaker(&BREAKER, &world.next_evidence()))
    };
    (0..40).filter(is_rolled_back).count()
}

#[test]
fn one_client_of_400_that_fails_once_a_second_rolls_nothing_back() {
    for (requests, weight, base) in [
        (500, 0.1, 0.0),
        (500, 0.1, 0.005),
        (2_000, 0.5, 0.005),
        (200, 0.25, 0.002),
        (500, 1.0, 0.005),
    ] {
        let truth =
            TrafficModel { noisy_requests: 30, ..TrafficModel::healthy(requests, weight, base) };
        let rolled_back = count_rollbacks(truth);
        assert_eq!(rolled_back, 0, "{requests} requests a look, {weight} async, {base} fail");
        let unknown = TrafficModel { clients: 0, ..truth };
        assert_eq!(count_rollbacks(unknown), 40, "what telling clients apart is for");
    }
}

#[test]
fn a_client_with_most_of_the_traffic_that_truly_fails_more_often_is_rolled_back() {
    let healthy =
        TrafficModel { large_client_requests: 160, ..TrafficModel::healthy(40, 0.1, 0.01) };
    assert_eq!(count_rollbacks(healthy), 0);
    let found = count_rollbacks(healthy.with_failures_times(5.0));
    assert!(found >= 38, "{found} of 40");
}

#[test]
fn of_five_equal_clients_one_rolls_nothing_back_and_all_do() {
    let healthy = TrafficModel { clients: 5, ..TrafficModel::healthy(200, 0.5, 0.005) };
    assert_eq!(count_rollbacks(TrafficModel { noisy_requests: 20, ..healthy }), 0);
    let found = count_rollbacks(healthy.with_failures_times(10.0));
    assert!(found >= 38, "{found} of 40");
}
