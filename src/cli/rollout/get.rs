//! `rollout get`: the state of a rollout on a page, or a table of all rollouts.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Color, Table};

use super::lookup::{fetch_rollout, fetch_rollouts};
use crate::admin::views::{
    GateDocument, ReplicaDocument, RolloutDetailsDocument, RolloutDocument, ShareDocument,
};
use crate::cli::client::AdminClient;
use crate::cli::document::{ApiDocument, to_json_list};
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_decimal, format_optional};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{
    name_value_table, print_json, print_line, print_table, table_with_headings,
};
use crate::cli::watch::{WatchArgs, fetch_and_print};
use crate::cohort_hash::CLIENT_GROUPS;
use crate::config::SHADOW_MISMATCH_GATE;
use crate::rollout::format::{format_share, format_span};

/// `omnidaemon rollout get`
#[derive(Args)]
pub(in crate::cli) struct RolloutGetArgs {
    /// The route; by default all routes are listed, or the only one is shown
    route: Option<String>,
    #[command(flatten)]
    watch_args: WatchArgs,
}

/// The rollouts that the command shows: one as a page, or all as a list.
enum ShownRollouts {
    One(Box<ApiDocument<RolloutDocument>>),
    All(Vec<ApiDocument<RolloutDocument>>),
}

pub(super) async fn run(args: RolloutGetArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let clears_screen = global.format == OutputFormat::Table;
    let fetch = async || fetch_shown_rollouts(&client, args.route.as_deref()).await;
    let print = |fetched: Result<ShownRollouts, CliError>| {
        match fetched {
            Ok(shown) => print_rollouts(&shown, global.format),
            Err(error @ CliError::Unreachable { .. }) if args.watch_args.watch => {
                eprintln!("{error}");
            }
            Err(error) => return Err(error),
        }
        Ok(CliExit::Ok)
    };
    fetch_and_print(&args.watch_args, clears_screen, fetch, print).await
}

/// The rollout of the named route, or of the only one; else all rollouts.
async fn fetch_shown_rollouts(
    client: &AdminClient,
    route: Option<&str>,
) -> Result<ShownRollouts, CliError> {
    if route.is_some() {
        return Ok(ShownRollouts::One(Box::new(fetch_rollout(client, route).await?)));
    }
    let mut rollouts = fetch_rollouts(client).await?;
    if rollouts.len() == 1 {
        return Ok(ShownRollouts::One(Box::new(rollouts.remove(0))));
    }
    Ok(ShownRollouts::All(rollouts))
}

fn print_rollouts(shown: &ShownRollouts, format: OutputFormat) {
    match (format, shown) {
        (OutputFormat::Json, ShownRollouts::One(rollout)) => print_json(&rollout.raw),
        (OutputFormat::Json, ShownRollouts::All(rollouts)) => print_json(&to_json_list(rollouts)),
        (OutputFormat::Table, ShownRollouts::One(rollout)) => print_rollout(&rollout.view),
        (OutputFormat::Table, ShownRollouts::All(rollouts)) => {
            print_table(&rollouts_table(rollouts));
        }
    }
}

fn rollouts_table(rollouts: &[ApiDocument<RolloutDocument>]) -> Table {
    let mut table = table_with_headings(&[
        "route",
        "mode",
        "phase",
        ">weight",
        ">desired",
        ">percent",
        "waiting for",
    ]);
    for rollout in rollouts {
        let rollout = &rollout.view.summary;
        table.add_row([
            rollout.route.clone(),
            rollout.mode.clone(),
            format_optional(rollout.phase.as_deref()),
            format_percent(Some(rollout.weight)),
            format_percent(rollout.desired),
            format_percent(Some(rollout.percent)),
            format_optional(rollout.waiting_for.as_deref()),
        ]);
    }
    table
}

fn print_rollout(rollout: &RolloutDocument) {
    print_table(&name_value_table(rollout_rows(rollout)));
    let Some(details) = &rollout.details else { return };
    let tables = [gates_table(&details.gates), replicas_table(&details.replicas)];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        print_line("");
        print_table(table);
    }
    print_line("");
    print_line(&details.explain);
}

/// The rows at the top of the page, each with name and value. Until the server has loaded the
/// stored state of the rollout, empty details take its place.
fn rollout_rows(rollout: &RolloutDocument) -> Vec<(&'static str, String)> {
    let (summary, unloaded) = (&rollout.summary, RolloutDetailsDocument::default());
    let details = rollout.details.as_ref().unwrap_or(&unloaded);
    let phase = match &details.pause_reason {
        Some(reason) => format!("paused ({reason})"),
        None => format_optional(summary.phase.as_deref()),
    };
    let since = format_optional(details.since.as_deref());
    let next = summary.next.map(|next| format!(", next {next} %")).unwrap_or_default();
    let weights = format!(
        "{} runs here, {} desired, {} allowed{next}",
        format_percent(Some(summary.weight)),
        format_percent(summary.desired),
        format_percent(Some(summary.percent))
    );
    let (done, required) = (format_seconds(details.soak.done), format_seconds(details.soak.of));
    let mut rows = vec![
        ("route", summary.route.clone()),
        ("phase", format!("{phase} since {since}")),
        ("reason", format!("{} (by {})", details.reason, details.by)),
        ("weight", weights),
        ("mode", summary.mode.clone()),
        ("waiting for", format_waiting(summary.waiting_for.as_deref(), details)),
        ("soak", format!("{done} of {required}")),
    ];
    if rollout.details.is_some() {
        rows.extend(exception_rows(details));
    }
    rows
}

/// Rows for exceptional states only, such as a weight that was set by hand.
fn exception_rows(details: &RolloutDetailsDocument) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(evidence) = details.evidence.as_ref().filter(|evidence| evidence.copied > 0) {
        let (copied, compared) = (evidence.copied, evidence.compared);
        let mismatched = evidence.mismatched;
        rows.push((
            "copies",
            format!("{compared} of {copied} compared, {mismatched} with another answer"),
        ));
    }
    if let Some(evidence) = &details.evidence {
        let warning = evidence.noisy_client.as_ref();
        rows.extend(warning.map(|noisy| ("warning", format!("failures: {noisy}"))));
        rows.extend(evidence.served_share.clone().map(|share| ("split", share)));
        if evidence.mismatched_assignments > 0 {
            let calls = evidence.mismatched_assignments;
            rows.push(("mismatched", format!("{calls} calls on the other path of their bucket")));
        }
        if evidence.groups_on_both_paths > 0 {
            let groups = evidence.groups_on_both_paths;
            rows.push(("on both paths", format!("{groups} of {CLIENT_GROUPS} client groups")));
        }
        let by_request = evidence.counted_why.as_ref();
        rows.extend(by_request.map(|why| ("failures", format!("count by request: {why}"))));
    }
    if details.held {
        rows.push(("held", "true".to_owned()));
    }
    if !details.saved {
        rows.push(("saved", "false".to_owned()));
    }
    if !details.store {
        rows.push(("store answers", "false".to_owned()));
    }
    if let Some(reason) = &details.frozen {
        rows.push(("blocked", reason.clone()));
    }
    rows
}

/// `soak, about 18 min to go, pauses in 2 h`
fn format_waiting(waiting_for: Option<&str>, details: &RolloutDetailsDocument) -> String {
    let countdown = details.countdown.map(format_seconds);
    let countdown = countdown.map(|time| format!(", about {time} to go")).unwrap_or_default();
    let pauses_in = details.pauses_in.map(format_seconds);
    let pauses_in = pauses_in.map(|time| format!(", pauses in {time}")).unwrap_or_default();
    format!("{}{countdown}{pauses_in}", format_optional(waiting_for))
}

fn gates_table(gates: &[GateDocument]) -> Table {
    let mut table = table_with_headings(&[
        "gate", "type", "verdict", ">async", ">sync", ">value", "interval", ">needs",
    ]);
    for gate in gates {
        let is_ratio = gate.kind.ends_with("_ratio") || gate.kind == SHADOW_MISMATCH_GATE;
        let number =
            |number: f64| if is_ratio { format_share(number) } else { format_decimal(number) };
        let interval =
            gate.interval.map(|[low, high]| format!("{} to {}", number(low), number(high)));
        table.add_row([
            Cell::new(&gate.gate),
            Cell::new(&gate.kind),
            gate_verdict_cell(gate.verdict.as_deref()),
            Cell::new(format_counts(gate.async_share.as_ref())),
            Cell::new(format_counts(gate.sync_share.as_ref())),
            Cell::new(format_optional(gate.value.map(number))),
            Cell::new(format_optional(interval)),
            Cell::new(format_optional(gate.needs)),
        ]);
    }
    table
}

fn gate_verdict_cell(verdict: Option<&str>) -> Cell {
    let cell = Cell::new(format_optional(verdict));
    match verdict {
        Some("pass") => cell.fg(Color::Green),
        Some("fail") => cell.fg(Color::Red),
        Some("error") => cell.fg(Color::Yellow),
        _ => cell,
    }
}

/// `12 of 1204`
fn format_counts(share: Option<&ShareDocument>) -> String {
    format_optional(share.map(|share| format!("{} of {}", share.x, share.n)))
}

fn replicas_table(replicas: &[ReplicaDocument]) -> Table {
    let mut table = table_with_headings(&["replica", ">weight", ">epoch", "config", ""]);
    for replica in replicas {
        let marks = [(replica.this, "this one"), (replica.leader, "leads")];
        let marks: Vec<&str> =
            marks.into_iter().filter_map(|(is_set, mark)| is_set.then_some(mark)).collect();
        table.add_row([
            replica.process.clone(),
            format_percent(replica.weight),
            format_optional(replica.epoch),
            replica.config.clone(),
            marks.join(", "),
        ]);
    }
    table
}

fn format_percent(percent: Option<f64>) -> String {
    format_optional(percent.map(|percent| format!("{percent} %")))
}

fn format_seconds(seconds: u64) -> String {
    format_span(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn gates_show_their_counts_their_interval_and_what_they_need() {
        let gates: Vec<GateDocument> = from_value(json!([
            {
                "gate": "errors", "type": "error_ratio", "verdict": "inconclusive",
                "async": {"x": 0, "n": 143}, "sync": {"x": 12, "n": 1204},
                "value": 0.0, "interval": [0.0, 0.019], "needs": 125,
            },
            {"gate": "lag", "type": "prometheus", "verdict": null, "value": 0.5},
        ]))
        .expect("gates");
        let table = gates_table(&gates);
        let lines: Vec<String> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines[1],
            "errors error_ratio inconclusive 0 of 143 12 of 1204 0 % 0 % to 1.9 % 125"
        );
        assert_eq!(lines[2], "lag prometheus - - - 0.5 - -");
    }

    #[test]
    fn the_head_shows_exceptions_only_where_there_are_some() {
        let mut rollout: RolloutDocument = from_value(json!({
            "route": "invoke", "phase": "paused", "pause_reason": "operator", "since": "2026",
            "reason": "lunch", "by": "ada", "weight": 10.0, "desired": 10.0, "percent": 50.0,
            "next": 25.0, "mode": "gated", "waiting_for": "operator", "epoch": 3,
            "soak": {"done": 60, "of": 1800}, "held": false, "saved": true, "store": true,
            "frozen": null,
        }))
        .expect("a rollout");
        let rows = rollout_rows(&rollout);
        let has = |rows: &[(&str, String)], name: &str, value: &str| {
            rows.iter().any(|row| row.0 == name && row.1 == value)
        };
        assert!(has(&rows, "phase", "paused (operator) since 2026"), "{rows:?}");
        let weights = "10 % runs here, 10 % desired, 50 % allowed, next 25 %";
        assert!(has(&rows, "weight", weights), "{rows:?}");
        assert!(has(&rows, "soak", "1 min of 30 min"), "{rows:?}");
        let exceptions =
            ["held", "saved", "store answers", "blocked", "copies", "failures", "warning", "split"];
        assert!(!rows.iter().any(|(name, _)| exceptions.contains(name)), "{rows:?}");
        let details = rollout.details.as_mut().expect("the details");
        (details.held, details.saved) = (true, false);
        details.evidence = from_value(json!({
            "copied": 23, "compared": 21, "mismatched": 2,
            "served_share": "8.1 % served async of 10 % assigned: 1.9 % over max_body",
            "mismatched_assignments": 3, "groups_on_both_paths": 12,
            "counted_why": "client group 3 makes more than half of the requests",
            "noisy_client": "60 of 61 come from client group 17",
        }))
        .expect("evidence");
        let rows = rollout_rows(&rollout);
        assert!(has(&rows, "copies", "21 of 23 compared, 2 with another answer"), "{rows:?}");
        assert!(has(&rows, "on both paths", "12 of 32 client groups"), "{rows:?}");
        let split = "8.1 % served async of 10 % assigned: 1.9 % over max_body";
        assert!(has(&rows, "split", split), "{rows:?}");
        assert!(rows.iter().any(|(name, _)| *name == "mismatched"), "{rows:?}");
        let by_request = "count by request: client group 3 makes more than half of the requests";
        assert!(has(&rows, "failures", by_request), "{rows:?}");
        assert!(rows.iter().any(|(name, _)| *name == "warning"), "{rows:?}");
        assert!(has(&rows, "held", "true") && has(&rows, "saved", "false"), "{rows:?}");
    }
}
