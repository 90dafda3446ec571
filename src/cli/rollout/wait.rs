//! `rollout status`: where a rollout is, for scripts; with `--wait`, when it gets there.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::find;
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, print_json, text};

/// The codes, as `--help` shows them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    it got there; without --wait: it goes on by itself, or is done
  2    it was turned back
  3    it is paused
  124  the time was over before any of this";

/// `omnidaemon rollout status`
#[derive(Args)]
pub(in crate::cli) struct StatusArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    /// Wait until it gets there, is turned back or is paused
    #[arg(long)]
    wait: bool,
    /// Where it should get: healthy (percent is reached), or step=50 (a weight of 50 % runs)
    #[arg(long, value_name = "GOAL", default_value = "healthy", value_parser = goal)]
    until: Goal,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

/// `--until`
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    Healthy,
    Step(f64),
}

fn goal(text: &str) -> Result<Goal, String> {
    let step = || text.strip_prefix("step=")?.trim_end_matches('%').parse::<f64>().ok().filter(|step| *step <= 100.0);
    match text {
        "healthy" => Ok(Goal::Healthy),
        _ => step()
            .map(Goal::Step)
            .ok_or_else(|| "write `healthy`, or `step=` and a percentage, as in step=50".to_owned()),
    }
}

pub(super) async fn run(args: StatusArgs, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    let start = Instant::now();
    let mut rollout = find(&client, args.route.as_deref()).await?;
    let mut said = String::new();
    while args.wait && ended(&rollout, args.until).is_none() {
        let now = one_line(&rollout);
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        let left = args.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            show(&rollout, global.format);
            return Ok(Exit::TimedOut);
        }
        sleep(args.interval.max(Duration::from_millis(100)).min(left)).await;
        // A server that restarts is waited for.
        match find(&client, args.route.as_deref()).await {
            Err(error @ CliError::Unreachable { .. }) => said = error.to_string(),
            next => rollout = next?,
        }
    }
    show(&rollout, global.format);
    Ok(ended(&rollout, args.until).unwrap_or(Exit::Ok))
}

fn show(rollout: &Value, format: Format) {
    match format {
        Format::Json => print_json(rollout),
        Format::Table => line(one_line(rollout)),
    }
}

/// How waiting ends; none while it goes on.
fn ended(rollout: &Value, goal: Goal) -> Option<Exit> {
    let (weight, percent) = (rollout["weight"].as_f64().unwrap_or_default(), rollout["percent"].as_f64());
    let is_reached = |phase: &str| match goal {
        Goal::Healthy => phase == "healthy" || (phase == "manual" && Some(weight) == percent),
        Goal::Step(step) => weight >= step && phase != "shifting",
    };
    match rollout["phase"].as_str().unwrap_or_default() {
        "degraded" | "rolling_back" => Some(Exit::TURNED_BACK),
        phase if is_reached(phase) => Some(Exit::Ok),
        "paused" => Some(Exit::PAUSED),
        _ => None,
    }
}

/// `invoke: soaking, 10 % of 50 %, waiting for soak`
fn one_line(rollout: &Value) -> String {
    let [route, phase, weight, percent, waits] =
        ["route", "phase", "weight", "percent", "waiting_for"].map(|field| text(&rollout[field]));
    format!("{route}: {phase}, {weight} % of {percent} %, waiting for {waits}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(phase: &str, weight: f64) -> Value {
        json!({"route": "invoke", "phase": phase, "weight": weight, "percent": 50.0, "waiting_for": "soak"})
    }

    #[test]
    fn waiting_ends_at_the_goal_or_where_nothing_comes_by_itself() {
        for (phase, weight, goal, expected) in [
            ("soaking", 10.0, Goal::Healthy, None),
            ("healthy", 50.0, Goal::Healthy, Some(Exit::Ok)),
            ("manual", 50.0, Goal::Healthy, Some(Exit::Ok)),
            ("manual", 20.0, Goal::Healthy, None),
            ("shifting", 25.0, Goal::Step(25.0), None),
            ("soaking", 25.0, Goal::Step(25.0), Some(Exit::Ok)),
            ("gating", 24.9, Goal::Step(25.0), None),
            ("paused", 25.0, Goal::Step(25.0), Some(Exit::Ok)),
            ("paused", 10.0, Goal::Step(25.0), Some(Exit::PAUSED)),
            ("degraded", 0.0, Goal::Step(0.0), Some(Exit::TURNED_BACK)),
            ("rolling_back", 0.0, Goal::Healthy, Some(Exit::TURNED_BACK)),
        ] {
            assert_eq!(ended(&at(phase, weight), goal), expected, "{phase} at {weight}");
        }
    }

    #[test]
    fn a_goal_is_healthy_or_a_step() {
        assert_eq!(
            (goal("healthy"), goal("step=50"), goal("step=12.5%")),
            (Ok(Goal::Healthy), Ok(Goal::Step(50.0)), Ok(Goal::Step(12.5)))
        );
        for bad in ["", "50", "step=", "step=x", "step=101", "step=NaN", "done"] {
            assert!(goal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_line_says_where_it_is() {
        assert_eq!(one_line(&at("soaking", 10.0)), "invoke: soaking, 10 % of 50 %, waiting for soak");
    }
}
