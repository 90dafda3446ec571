//! `rollout status`: the status of a rollout in a line, with an exit status for scripts. With
//! `--wait` the command waits until the rollout reaches a goal, is rolled back or pauses.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::lookup::fetch_rollout;
use crate::admin::views::{RolloutDocument, RolloutSummaryDocument};
use crate::cli::client::AdminClient;
use crate::cli::document::ApiDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_decimal, format_optional};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_line};
use crate::cli::watch::MIN_INTERVAL;

/// The exit codes, as `--help` shows them.
pub(super) const STATUS_EXIT_CODES_HELP: &str = "\
Exit codes:
  0    it reached the goal; without --wait: it is neither rolled back nor paused
  2    it was rolled back
  3    it is paused
  124  the timeout elapsed before any of these";

/// `omnidaemon rollout status`
#[derive(Args)]
pub(in crate::cli) struct RolloutStatusArgs {
    /// The route; not needed when there is only one
    route: Option<String>,
    /// Wait until it reaches the goal, is rolled back or is paused
    #[arg(long)]
    wait: bool,
    /// The goal: healthy (percent is reached), or step=50 (a weight of 50 % runs)
    #[arg(long, value_name = "GOAL", default_value = "healthy", value_parser = parse_goal)]
    until: RolloutGoal,
    /// How long to wait
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = humantime::parse_duration
    )]
    timeout: Duration,
    /// Time between two polls
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    interval: Duration,
}

/// The goal of `--until`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RolloutGoal {
    /// The file's `percent` is reached.
    Healthy,
    /// A weight of at least this runs, percent.
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
    let mut last_line = String::new();
    while args.wait && exit_if_ended(&rollout.view.summary, args.until).is_none() {
        let line = status_line(&rollout.view.summary);
        if line != last_line {
            eprintln!("{line}");
            last_line = line;
        }
        let remaining = args.timeout.saturating_sub(start.elapsed());
        if remaining.is_zero() {
            print_status(&rollout, global.format);
            return Ok(CliExit::TimedOut);
        }
        sleep(args.interval.max(MIN_INTERVAL).min(remaining)).await;
        // A server that does not answer may be restarting: keep waiting for it.
        match fetch_rollout(&client, args.route.as_deref()).await {
            Err(error @ CliError::Unreachable { .. }) => last_line = error.to_string(),
            next => rollout = next?,
        }
    }
    print_status(&rollout, global.format);
    Ok(exit_if_ended(&rollout.view.summary, args.until).unwrap_or(CliExit::Ok))
}

fn print_status(rollout: &ApiDocument<RolloutDocument>, format: OutputFormat) {
    match format {
        OutputFormat::Json => print_json(&rollout.raw),
        OutputFormat::Table => print_line(status_line(&rollout.view.summary)),
    }
}

/// The exit status that ends the waiting; none while it continues.
fn exit_if_ended(rollout: &RolloutSummaryDocument, goal: RolloutGoal) -> Option<CliExit> {
    let is_at_percent = rollout.weight.total_cmp(&rollout.percent).is_eq();
    let is_reached = |phase: &str| match goal {
        RolloutGoal::Healthy => phase == "healthy" || (phase == "manual" && is_at_percent),
        RolloutGoal::Step(step) => rollout.weight >= step && phase != "shifting",
    };
    match rollout.phase.as_deref().unwrap_or_default() {
        "degraded" | "rolling_back" => Some(CliExit::ROLLED_BACK),
        phase if is_reached(phase) => Some(CliExit::Ok),
        "paused" => Some(CliExit::PAUSED),
        _ => None,
    }
}

/// `invoke: soaking, 10 % of 50 %, waiting for soak`
fn status_line(rollout: &RolloutSummaryDocument) -> String {
    format!(
        "{}: {}, {} % of {} %, waiting for {}",
        rollout.route,
        format_optional(rollout.phase.as_deref()),
        format_decimal(rollout.weight),
        format_decimal(rollout.percent),
        format_optional(rollout.waiting_for.as_deref())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout_at(phase: &str, weight: f64) -> RolloutSummaryDocument {
        RolloutSummaryDocument {
            route: "invoke".to_owned(),
            phase: Some(phase.to_owned()),
            weight,
            percent: 50.0,
            waiting_for: Some("soak".to_owned()),
            ..RolloutSummaryDocument::default()
        }
    }

    #[test]
    fn waiting_ends_at_the_goal_or_when_an_operator_is_needed() {
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
                exit_if_ended(&rollout_at(phase, weight), goal),
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
    fn the_line_has_phase_weights_and_what_is_waited_for() {
        assert_eq!(
            status_line(&rollout_at("soaking", 10.0)),
            "invoke: soaking, 10 % of 50 %, waiting for soak"
        );
    }
}
