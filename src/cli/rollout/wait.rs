//! `rollout status`: where a rollout is, for scripts; with `--wait`, when it gets there.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::fetch_rollout;
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_json, print_line};

/// The codes, as `--help` shows them.
pub(super) const STATUS_EXIT_CODES_HELP: &str = "\
Exit codes:
  0    it got there; without --wait: it goes on by itself, or is done
  2    it was turned back
  3    it is paused
  124  the time was over before any of this";

/// `omnidaemon rollout status`
#[derive(Args)]
pub(in crate::cli) struct RolloutStatusArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    /// Wait until it gets there, is turned back or is paused
    #[arg(long)]
    wait: bool,
    /// Where it should get: healthy (percent is reached), or step=50 (a weight of 50 % runs)
    #[arg(long, value_name = "GOAL", default_value = "healthy", value_parser = parse_goal)]
    until: RolloutGoal,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

/// `--until`
#[derive(Clone, Copy, Debug, PartialEq)]
enum RolloutGoal {
    Healthy,
    Step(f64),
}

fn parse_goal(text: &str) -> Result<RolloutGoal, String> {
    let step = || {
        text.strip_prefix("step=")?
            .trim_end_matches('%')
            .parse::<f64>()
            .ok()
            .filter(|step| *step <= 100.0)
    };
    match text {
        "healthy" => Ok(RolloutGoal::Healthy),
        _ => step().map(RolloutGoal::Step).ok_or_else(|| {
            "write `healthy`, or `step=` and a percentage, as in step=50".to_owned()
        }),
    }
}

pub(super) async fn run(args: RolloutStatusArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let start = Instant::now();
    let mut rollout = fetch_rollout(&client, args.route.as_deref()).await?;
    let mut said = String::new();
    while args.wait && exit_if_reached(&rollout, args.until).is_none() {
        let now = status_line(&rollout);
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        let left = args.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            print_status(&rollout, global.format);
            return Ok(CliExit::TimedOut);
        }
        sleep(args.interval.max(Duration::from_millis(100)).min(left)).await;
        // A server that restarts is waited for.
        match fetch_rollout(&client, args.route.as_deref()).await {
            Err(error @ CliError::Unreachable { .. }) => said = error.to_string(),
            next => rollout = next?,
        }
    }
    print_status(&rollout, global.format);
    Ok(exit_if_reached(&rollout, args.until).unwrap_or(CliExit::Ok))
}

fn print_status(rollout: &Value, format: OutputFormat) {
    match format {
        OutputFormat::Json => print_json(rollout),
        OutputFormat::Table => print_line(status_line(rollout)),
    }
}

/// How waiting ends; none while it goes on.
fn exit_if_reached(rollout: &Value, goal: RolloutGoal) -> Option<CliExit> {
    let (weight, percent) =
        (rollout["weight"].as_f64().unwrap_or_default(), rollout["percent"].as_f64());
    let is_reached = |phase: &str| match goal {
        RolloutGoal::Healthy => {
            phase == "healthy" || (phase == "manual" && Some(weight) == percent)
        }
        RolloutGoal::Step(step) => weight >= step && phase != "shifting",
    };
    match rollout["phase"].as_str().unwrap_or_default() {
        "degraded" | "rolling_back" => Some(CliExit::ROLLED_BACK),
        phase if is_reached(phase) => Some(CliExit::Ok),
        "paused" => Some(CliExit::PAUSED),
        _ => None,
    }
}

/// `invoke: soaking, 10 % of 50 %, waiting for soak`
fn status_line(rollout: &Value) -> String {
    let [route, phase, weight, percent, waits] =
        ["route", "phase", "weight", "percent", "waiting_for"]
            .map(|field| format_field(&rollout[field]));
    format!("{route}: {phase}, {weight} % of {percent} %, waiting for {waits}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout_at(phase: &str, weight: f64) -> Value {
        json!({"route": "invoke", "phase": phase, "weight": weight, "percent": 50.0, "waiting_for": "soak"})
    }

    #[test]
    fn waiting_ends_at_the_goal_or_where_nothing_comes_by_itself() {
        for (phase, weight, goal, expected) in [
            ("soaking", 10.0, RolloutGoal::Healthy, None),
            ("healthy", 50.0, RolloutGoal::Healthy, Some(CliExit::Ok)),
            ("manual", 50.0, RolloutGoal::Healthy, Some(CliExit::Ok)),
            ("manual", 20.0, RolloutGoal::Healthy, None),
            ("shifting", 25.0, RolloutGoal::Step(25.0), None),
            ("soaking", 25.0, RolloutGoal::Step(25.0), Some(CliExit::Ok)),
            ("gating", 24.9, RolloutGoal::Step(25.0), None),
            ("paused", 25.0, RolloutGoal::Step(25.0), Some(CliExit::Ok)),
            ("paused", 10.0, RolloutGoal::Step(25.0), Some(CliExit::PAUSED)),
            ("degraded", 0.0, RolloutGoal::Step(0.0), Some(CliExit::ROLLED_BACK)),
            ("rolling_back", 0.0, RolloutGoal::Healthy, Some(CliExit::ROLLED_BACK)),
        ] {
            assert_eq!(
                exit_if_reached(&rollout_at(phase, weight), goal),
                expected,
                "{phase} at {weight}"
            );
        }
    }

    #[test]
    fn a_goal_is_healthy_or_a_step() {
        assert_eq!(
            (parse_goal("healthy"), parse_goal("step=50"), parse_goal("step=12.5%")),
            (Ok(RolloutGoal::Healthy), Ok(RolloutGoal::Step(50.0)), Ok(RolloutGoal::Step(12.5)))
        );
        for bad in ["", "50", "step=", "step=x", "step=101", "step=NaN", "done"] {
            assert!(parse_goal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_line_says_where_it_is() {
        assert_eq!(
            status_line(&rollout_at("soaking", 10.0)),
            "invoke: soaking, 10 % of 50 %, waiting for soak"
        );
    }
}
