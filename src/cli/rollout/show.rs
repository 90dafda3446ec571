//! `rollout get`: how a rollout stands, on a page.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Color, Table};
use serde_json::Value;
use tokio::time::sleep;

use super::fetch_rollout;
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{
    format_field, name_value_table, print_json, print_line, print_table, table_with_headings,
};
use crate::config::SHADOW_MISMATCH_GATE;
use crate::rollout::format::{format_share, format_span};

/// `omnidaemon rollout get`
#[derive(Args)]
pub(in crate::cli) struct RolloutGetArgs {
    /// The route; without one all of them are listed, or the only one is shown
    route: Option<String>,
    /// Look again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// How often --watch looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

pub(super) async fn run(args: RolloutGetArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    loop {
        let seen = fetch_rollouts(&client, args.route.as_deref()).await;
        if args.watch && global.format == OutputFormat::Table && stdout().is_terminal() {
            print!("\x1b[2J\x1b[H"); // a new page
        }
        match seen {
            Ok(seen) => print_rollouts(&seen, global.format),
            Err(error @ CliError::Unreachable { .. }) if args.watch => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
        if !args.watch {
            return Ok(CliExit::Ok);
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

/// The route that was named, or the only one; else the list of all.
async fn fetch_rollouts(client: &AdminClient, route: Option<&str>) -> Result<Value, CliError> {
    if route.is_some() {
        return fetch_rollout(client, route).await;
    }
    match client.get("rollouts").await? {
        Value::Array(mut one) if one.len() == 1 => Ok(one.remove(0)),
        all => Ok(all),
    }
}

fn print_rollouts(seen: &Value, format: OutputFormat) {
    match (format, seen) {
        (OutputFormat::Json, _) => print_json(seen),
        (OutputFormat::Table, Value::Array(all)) => print_table(&rollouts_table(all)),
        (OutputFormat::Table, one) => print_rollout(one),
    }
}

fn rollouts_table(rollouts: &[Value]) -> Table {
    let mut rows = table_with_headings(&[
        "route",
        "mode",
        "phase",
        ">weight",
        ">desired",
        ">percent",
        "waiting for",
    ]);
    for rollout in rollouts {
        let [route, mode, phase, waits] =
            ["route", "mode", "phase", "waiting_for"].map(|field| format_field(&rollout[field]));
        let [weight, desired, percent] =
            ["weight", "desired", "percent"].map(|field| format_percent(&rollout[field]));
        rows.add_row([route, mode, phase, weight, desired, percent, waits]);
    }
    rows
}

fn print_rollout(rollout: &Value) {
    print_table(&name_value_table(summary_rows(rollout)));
    for table in
        [gates_table(rollout), replicas_table(rollout)].iter().filter(|table| !table.is_empty())
    {
        print_line("");
        print_table(table);
    }
    if let Some(text) = rollout["explain"].as_str() {
        print_line("");
        print_line(text);
    }
}

fn summary_rows(rollout: &Value) -> Vec<(&'static str, String)> {
    let of = |field: &str| format_field(&rollout[field]);
    let phase = match rollout["pause_reason"].as_str() {
        Some(why) => format!("paused ({why})"),
        None => of("phase"),
    };
    let next = rollout["next"].as_f64().map(|next| format!(", next {next} %")).unwrap_or_default();
    let weights = [("weight", "runs here"), ("desired", "desired"), ("percent", "allowed")];
    let weights = weights
        .map(|(field, what)| format!("{} {what}", format_percent(&rollout[field])))
        .join(", ");
    let (done, of_soak) =
        (format_seconds(&rollout["soak"]["done"]), format_seconds(&rollout["soak"]["of"]));
    let mut rows = vec![
        ("route", of("route")),
        ("phase", format!("{phase} since {}", of("since"))),
        ("reason", format!("{} (by {})", of("reason"), of("by"))),
        ("weight", format!("{weights}{next}")),
        ("mode", of("mode")),
        ("waiting for", format_waiting(rollout)),
        ("soak", format!("{done} of {of_soak}")),
    ];
    let counted = |field: &str| rollout["evidence"][field].as_u64().unwrap_or_default();
    if counted("copied") > 0 {
        let [copied, compared, mismatched] = ["copied", "compared", "mismatched"].map(counted);
        rows.push((
            "copies",
            format!("{compared} of {copied} compared, {mismatched} answered otherwise"),
        ));
    }
    let odd = [
        ("held", "held", "true"),
        ("saved", "saved", "false"),
        ("store", "store answers", "false"),
    ];
    rows.extend(
        odd.iter()
            .filter(|(field, _, odd)| of(field) == *odd)
            .map(|(field, name, _)| (*name, of(field))),
    );
    if !rollout["frozen"].is_null() {
        rows.push(("standing still", of("frozen")));
    }
    rows
}

/// `soak, 18 min to go`
fn format_waiting(rollout: &Value) -> String {
    let waits = format_field(&rollout["waiting_for"]);
    let left =
        |field: &str| rollout[field].as_u64().map(|left| format_span(Duration::from_secs(left)));
    let goes_on = left("countdown").map(|left| format!(", about {left} to go")).unwrap_or_default();
    let pauses = left("pauses_in").map(|left| format!(", pauses in {left}")).unwrap_or_default();
    format!("{waits}{goes_on}{pauses}")
}

fn gates_table(rollout: &Value) -> Table {
    let mut rows = table_with_headings(&[
        "gate", "type", "verdict", ">async", ">sync", ">value", "interval", ">needs",
    ]);
    for gate in rollout["gates"].as_array().into_iter().flatten() {
        let is_ratio = gate["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("_ratio") || kind == SHADOW_MISMATCH_GATE);
        let number = |value: &Value| match value.as_f64() {
            Some(number) if is_ratio => format_share(number),
            _ => format_field(value),
        };
        let counts = |side: &Value| match side {
            Value::Null => "-".to_owned(),
            side => format!("{} of {}", format_field(&side["x"]), format_field(&side["n"])),
        };
        let interval = match gate["interval"].as_array().map(Vec::as_slice) {
            Some([low, high]) => format!("{} to {}", number(low), number(high)),
            _ => "-".to_owned(),
        };
        rows.add_row([
            Cell::new(format_field(&gate["gate"])),
            Cell::new(format_field(&gate["type"])),
            gate_verdict_cell(&format_field(&gate["verdict"])),
            Cell::new(counts(&gate["async"])),
            Cell::new(counts(&gate["sync"])),
            Cell::new(number(&gate["value"])),
            Cell::new(interval),
            Cell::new(format_field(&gate["needs"])),
        ]);
    }
    rows
}

fn gate_verdict_cell(verdict: &str) -> Cell {
    let cell = Cell::new(verdict);
    match verdict {
        "pass" => cell.fg(Color::Green),
        "fail" => cell.fg(Color::Red),
        "error" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

fn replicas_table(rollout: &Value) -> Table {
    let mut rows = table_with_headings(&["replica", ">weight", ">epoch", "config", ""]);
    for replica in rollout["replicas"].as_array().into_iter().flatten() {
        let marks = [("this", "this one"), ("leader", "leads")]
            .map(|(field, word)| (replica[field] == true).then_some(word));
        let marks: Vec<&str> = marks.into_iter().flatten().collect();
        let [process, epoch, config] =
            ["process", "epoch", "config"].map(|field| format_field(&replica[field]));
        rows.add_row([
            process,
            format_percent(&replica["weight"]),
            epoch,
            config,
            marks.join(", "),
        ]);
    }
    rows
}

fn format_percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

fn format_seconds(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| "-".to_owned(), |seconds| format_span(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gates_show_their_counts_their_interval_and_what_they_need() {
        let gate = json!({
            "gate": "errors", "type": "error_ratio", "verdict": "inconclusive", "async": {"x": 0, "n": 143},
            "sync": {"x": 12, "n": 1204}, "value": 0.0, "interval": [0.0, 0.019], "needs": 125,
        });
        let asked = json!({"gate": "lag", "type": "prometheus", "verdict": null, "value": 0.5});
        let table = gates_table(&json!({"gates": [gate, asked]}));
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
    fn the_head_says_what_is_unusual_and_nothing_of_what_is_not() {
        let rollout = json!({
            "route": "invoke", "phase": "paused", "pause_reason": "operator", "since": "2026", "reason": "lunch", "by": "ada",
            "weight": 10.0, "desired": 10.0, "percent": 50.0, "next": 25.0, "mode": "gated", "waiting_for": "operator",
            "soak": {"done": 60, "of": 1800}, "held": false, "saved": true, "store": true, "frozen": null,
        });
        let rows = summary_rows(&rollout);
        assert!(rows.contains(&("phase", "paused (operator) since 2026".to_owned())), "{rows:?}");
        assert!(
            rows.contains(&(
                "weight",
                "10 % runs here, 10 % desired, 50 % allowed, next 25 %".to_owned()
            )),
            "{rows:?}"
        );
        assert!(rows.contains(&("soak", "1 min of 30 min".to_owned())), "{rows:?}");
        assert!(
            !rows
                .iter()
                .any(|(name, _)| ["held", "saved", "standing still", "copies"].contains(name)),
            "{rows:?}"
        );
        let mut odd = rollout;
        (odd["held"], odd["saved"]) = (true.into(), false.into());
        odd["evidence"] = json!({"copied": 23, "compared": 21, "mismatched": 2});
        assert!(
            summary_rows(&odd)
                .contains(&("copies", "21 of 23 compared, 2 answered otherwise".to_owned()))
        );
        assert!(summary_rows(&odd).iter().any(|row| *row == ("saved", "false".to_owned())));
    }
}
