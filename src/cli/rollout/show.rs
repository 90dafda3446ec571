//! `rollout get`: how a rollout stands, on a page.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Color, Table};
use serde_json::Value;
use tokio::time::sleep;

use super::find;
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, pairs, print, print_json, table, text};
use crate::config::SHADOW_MISMATCH;
use crate::rollout::words::{share, span};

/// `omnidaemon rollout get`
#[derive(Args)]
pub(in crate::cli) struct GetArgs {
    /// The route; without one all of them are listed, or the only one is shown
    route: Option<String>,
    /// Look again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// How often --watch looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

pub(super) async fn run(args: GetArgs, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    loop {
        let seen = look(&client, args.route.as_deref()).await;
        if args.watch && global.format == Format::Table && stdout().is_terminal() {
            print!("\x1b[2J\x1b[H"); // a new page
        }
        match seen {
            Ok(seen) => show(&seen, global.format),
            Err(error @ CliError::Unreachable { .. }) if args.watch => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
        if !args.watch {
            return Ok(Exit::Ok);
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

/// The route that was named, or the only one; else the list of all.
async fn look(client: &Client, route: Option<&str>) -> Result<Value, CliError> {
    if route.is_some() {
        return find(client, route).await;
    }
    match client.get("rollouts").await? {
        Value::Array(mut one) if one.len() == 1 => Ok(one.remove(0)),
        all => Ok(all),
    }
}

fn show(seen: &Value, format: Format) {
    match (format, seen) {
        (Format::Json, _) => print_json(seen),
        (Format::Table, Value::Array(all)) => print(&list(all)),
        (Format::Table, one) => page(one),
    }
}

fn list(rollouts: &[Value]) -> Table {
    let mut rows = table(&["route", "mode", "phase", ">weight", ">desired", ">percent", "waiting for"]);
    for rollout in rollouts {
        let [route, mode, phase, waits] = ["route", "mode", "phase", "waiting_for"].map(|field| text(&rollout[field]));
        let [weight, desired, percent] = ["weight", "desired", "percent"].map(|field| percent(&rollout[field]));
        rows.add_row([route, mode, phase, weight, desired, percent, waits]);
    }
    rows
}

fn page(rollout: &Value) {
    print(&pairs(head(rollout)));
    for table in [gates(rollout), replicas(rollout)].iter().filter(|table| !table.is_empty()) {
        line("");
        print(table);
    }
    if let Some(text) = rollout["explain"].as_str() {
        line("");
        line(text);
    }
}

fn head(rollout: &Value) -> Vec<(&'static str, String)> {
    let of = |field: &str| text(&rollout[field]);
    let phase = match rollout["pause_reason"].as_str() {
        Some(why) => format!("paused ({why})"),
        None => of("phase"),
    };
    let next = rollout["next"].as_f64().map(|next| format!(", next {next} %")).unwrap_or_default();
    let weights = [("weight", "runs here"), ("desired", "desired"), ("percent", "allowed")];
    let weights = weights.map(|(field, what)| format!("{} {what}", percent(&rollout[field]))).join(", ");
    let (done, of_soak) = (seconds(&rollout["soak"]["done"]), seconds(&rollout["soak"]["of"]));
    let mut rows = vec![
        ("route", of("route")),
        ("phase", format!("{phase} since {}", of("since"))),
        ("reason", format!("{} (by {})", of("reason"), of("by"))),
        ("weight", format!("{weights}{next}")),
        ("mode", of("mode")),
        ("waiting for", waits(rollout)),
        ("soak", format!("{done} of {of_soak}")),
    ];
    let counted = |field: &str| rollout["evidence"][field].as_u64().unwrap_or_default();
    if counted("copied") > 0 {
        let [copied, compared, mismatched] = ["copied", "compared", "mismatched"].map(counted);
        rows.push(("copies", format!("{compared} of {copied} compared, {mismatched} answered otherwise")));
    }
    let odd = [("held", "held", "true"), ("saved", "saved", "false"), ("store", "store answers", "false")];
    rows.extend(odd.iter().filter(|(field, _, odd)| of(field) == *odd).map(|(field, name, _)| (*name, of(field))));
    if !rollout["frozen"].is_null() {
        rows.push(("standing still", of("frozen")));
    }
    rows
}

/// `soak, 18 min to go`
fn waits(rollout: &Value) -> String {
    let waits = text(&rollout["waiting_for"]);
    let left = |field: &str| rollout[field].as_u64().map(|left| span(Duration::from_secs(left)));
    let goes_on = left("countdown").map(|left| format!(", about {left} to go")).unwrap_or_default();
    let pauses = left("pauses_in").map(|left| format!(", pauses in {left}")).unwrap_or_default();
    format!("{waits}{goes_on}{pauses}")
}

fn gates(rollout: &Value) -> Table {
    let mut rows = table(&["gate", "type", "verdict", ">async", ">sync", ">value", "interval", ">needs"]);
    for gate in rollout["gates"].as_array().into_iter().flatten() {
        let is_ratio = gate["type"].as_str().is_some_and(|kind| kind.ends_with("_ratio") || kind == SHADOW_MISMATCH);
        let number = |value: &Value| match value.as_f64() {
            Some(number) if is_ratio => share(number),
            _ => text(value),
        };
        let counts = |side: &Value| match side {
            Value::Null => "-".to_owned(),
            side => format!("{} of {}", text(&side["x"]), text(&side["n"])),
        };
        let interval = match gate["interval"].as_array().map(Vec::as_slice) {
            Some([low, high]) => format!("{} to {}", number(low), number(high)),
            _ => "-".to_owned(),
        };
        rows.add_row([
            Cell::new(text(&gate["gate"])),
            Cell::new(text(&gate["type"])),
            coloured(&text(&gate["verdict"])),
            Cell::new(counts(&gate["async"])),
            Cell::new(counts(&gate["sync"])),
            Cell::new(number(&gate["value"])),
            Cell::new(interval),
            Cell::new(text(&gate["needs"])),
        ]);
    }
    rows
}

fn coloured(verdict: &str) -> Cell {
    let cell = Cell::new(verdict);
    match verdict {
        "pass" => cell.fg(Color::Green),
        "fail" => cell.fg(Color::Red),
        "error" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

fn replicas(rollout: &Value) -> Table {
    let mut rows = table(&["replica", ">weight", ">epoch", "config", ""]);
    for replica in rollout["replicas"].as_array().into_iter().flatten() {
        let marks =
            [("this", "this one"), ("leader", "leads")].map(|(field, word)| (replica[field] == true).then_some(word));
        let marks: Vec<&str> = marks.into_iter().flatten().collect();
        let [process, epoch, config] = ["process", "epoch", "config"].map(|field| text(&replica[field]));
        rows.add_row([process, percent(&replica["weight"]), epoch, config, marks.join(", ")]);
    }
    rows
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

fn seconds(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |seconds| span(Duration::from_secs(seconds)))
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
        let table = gates(&json!({"gates": [gate, asked]}));
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "errors error_ratio inconclusive 0 of 143 12 of 1204 0 % 0 % to 1.9 % 125");
        assert_eq!(lines[2], "lag prometheus - - - 0.5 - -");
    }

    #[test]
    fn the_head_says_what_is_unusual_and_nothing_of_what_is_not() {
        let rollout = json!({
            "route": "invoke", "phase": "paused", "pause_reason": "operator", "since": "2026", "reason": "lunch", "by": "ada",
            "weight": 10.0, "desired": 10.0, "percent": 50.0, "next": 25.0, "mode": "gated", "waiting_for": "operator",
            "soak": {"done": 60, "of": 1800}, "held": false, "saved": true, "store": true, "frozen": null,
        });
        let rows = head(&rollout);
        assert!(rows.contains(&("phase", "paused (operator) since 2026".to_owned())), "{rows:?}");
        assert!(
            rows.contains(&("weight", "10 % runs here, 10 % desired, 50 % allowed, next 25 %".to_owned())),
            "{rows:?}"
        );
        assert!(rows.contains(&("soak", "1 min of 30 min".to_owned())), "{rows:?}");
        assert!(!rows.iter().any(|(name, _)| ["held", "saved", "standing still", "copies"].contains(name)), "{rows:?}");
        let mut odd = rollout;
        (odd["held"], odd["saved"]) = (true.into(), false.into());
        odd["evidence"] = json!({"copied": 23, "compared": 21, "mismatched": 2});
        assert!(head(&odd).contains(&("copies", "21 of 23 compared, 2 answered otherwise".to_owned())));
        assert!(head(&odd).iter().any(|row| *row == ("saved", "false".to_owned())));
    }
}
