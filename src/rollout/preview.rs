//! What an edit of the configuration file would do to a running rollout, before it is saved.

use super::format::format_span;
use crate::cohort_hash::Weight;
use crate::config::{RolloutConfig, RolloutMode};

/// The running rollout whose configuration would be edited.
#[derive(Clone, Copy, Debug)]
pub struct RunningRollout<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The `percent` in force.
    pub percent: Weight,
    /// The mode in force.
    pub mode: RolloutMode,
    /// The desired weight.
    pub weight: Weight,
    /// The word of the phase, as in the API.
    pub phase: &'a str,
    /// Whether an operator set the weight by hand.
    pub manual_hold: bool,
}

/// What the edit would change about mode, percent and weight, one sentence each; empty where
/// nothing changes.
#[must_use]
pub fn preview_edit(running: &RunningRollout<'_>, new: &RolloutConfig) -> Vec<String> {
    let mut changes = Vec::new();
    if running.mode != new.mode {
        changes.push(format!("mode {} → {}", running.mode.as_str(), new.mode.as_str()));
    }
    let movement = describe_movement(running, new);
    if running.percent != new.percent {
        changes.push(format!("percent {} → {}: {movement}", running.percent, new.percent));
    } else if running.mode != new.mode {
        changes.push(movement);
    }
    changes
}

fn describe_movement(running: &RunningRollout<'_>, new: &RolloutConfig) -> String {
    let (weight, percent) = (running.weight, new.percent);
    if matches!(running.phase, "degraded" | "rolling_back") {
        return format!(
            "moves nothing: it was rolled back, until `omnidaemon rollout retry {}`",
            running.route
        );
    }
    if percent == Weight::ZERO {
        return "nothing goes async any more, at once; the weight that was reached is kept for a \
                later percent"
            .to_owned();
    }
    if weight > percent {
        return format!("the weight goes from {weight} to {percent} at once");
    }
    if running.manual_hold {
        return format!(
            "the weight was set by hand and stays {weight}, until `omnidaemon rollout resume {}`",
            running.route
        );
    }
    if new.mode == RolloutMode::Manual {
        if weight == percent {
            return format!("the weight stays {weight}");
        }
        return format!(
            "the weight jumps from {weight} to {percent} at once; gates are shown and decide \
             nothing"
        );
    }
    describe_climb(running, new)
}

/// The steps still to come, and what each of them waits for.
fn describe_climb(running: &RunningRollout<'_>, new: &RolloutConfig) -> String {
    let (weight, mut at) = (running.weight, running.weight);
    let mut steps = Vec::new();
    while let Some(next) = new.next_weight_after(at) {
        steps.push(next);
        at = next;
    }
    let [first, rest @ ..] = &steps[..] else { return format!("the weight stays {weight}") };
    let soak = |step: Weight| format_span(new.soak_at(step));
    let approval = |step: Weight| new.step_at(step).is_some_and(|step| step.needs_approval);
    let describe = |step: &Weight| {
        let needs_approval = if approval(*step) { ", needs approval" } else { "" };
        format!("{step} (soak {}{needs_approval})", soak(*step))
    };
    let then: Vec<String> = rest.iter().map(|step| format!(", then {}", describe(step))).collect();
    let then = then.concat();
    let hours = if new.promotion_windows.is_empty() {
        ""
    } else {
        "; a weight is raised in the hours of `windows` only"
    };
    match running.phase {
        "idle" | "manual" if weight == Weight::ZERO => {
            format!("begins with {} at once{then}{hours}", describe(first))
        }
        "healthy" if approval(weight) => {
            format!("goes to {} after `omnidaemon rollout promote`{then}{hours}", describe(first))
        }
        "healthy" => {
            format!("goes to {} at once, since {weight} is healthy{then}{hours}", describe(first))
        }
        _ => format!(
            "climbs {}{then}; the running weight stays {weight} until its gates pass{hours}",
            describe(first)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StepConfig;

    fn config_at_percent(percent: u16) -> RolloutConfig {
        RolloutConfig::new("invoke", Weight::from_basis_points(percent * 100), RolloutMode::Gated)
    }

    fn preview_text(phase: &str, weight: u16, held: bool, new: &RolloutConfig) -> String {
        let weight = Weight::from_basis_points(weight * 100);
        let percent = Weight::from_basis_points(1_000);
        let running = RunningRollout {
            route: "invoke",
            percent,
            mode: RolloutMode::Gated,
            weight,
            phase,
            manual_hold: held,
        };
        preview_edit(&running, new).join("; ")
    }

    #[test]
    fn a_raise_climbs_the_steps() {
        let climbs = "percent 10 % → 50 %: climbs 25 % (soak 30 min), then 50 % (soak 30 min); \
                      the running weight stays 10 % until its gates pass";
        assert_eq!(preview_text("soaking", 10, false, &config_at_percent(50)), climbs);
        let healthy =
            "percent 10 % → 25 %: goes to 25 % (soak 30 min) at once, since 10 % is healthy";
        assert_eq!(preview_text("healthy", 10, false, &config_at_percent(25)), healthy);
        assert!(
            preview_text("idle", 0, false, &config_at_percent(25))
                .contains("begins with 10 % (soak 30 min) at once, then 25 %")
        );
        let mut new = config_at_percent(30);
        new.steps[1] = StepConfig {
            needs_approval: true,
            soak: Some(std::time::Duration::from_hours(2)),
            ..new.steps[1]
        };
        let text = preview_text("gating", 10, false, &new);
        assert!(
            text.contains("25 % (soak 2 h, needs approval), then 30 % (soak 30 min)"),
            "{text}"
        );
    }

    #[test]
    fn an_edit_that_does_not_climb_is_described() {
        for (phase, weight, held, percent, expected) in [
            (
                "degraded",
                0,
                false,
                50,
                "moves nothing: it was rolled back, until `omnidaemon rollout retry invoke`",
            ),
            ("soaking", 10, false, 0, "nothing goes async any more, at once"),
            ("soaking", 10, false, 5, "the weight goes from 10 % to 5 % at once"),
            ("soaking", 5, true, 50, "set by hand and stays 5 %"),
        ] {
            let text = preview_text(phase, weight, held, &config_at_percent(percent));
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(preview_text("healthy", 10, false, &config_at_percent(10)), "");
        let manual = RolloutConfig::new("invoke", Weight::FULL, RolloutMode::Manual);
        let text = preview_text("soaking", 10, false, &manual);
        assert!(
            text.starts_with(
                "mode gated → manual; percent 10 % → 100 %: the weight jumps from 10 % to 100 %"
            ),
            "{text}"
        );
    }
}
