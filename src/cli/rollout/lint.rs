//! `rollout lint`: every query of the file's prometheus gates, tried on the server that will be asked.
//!
//! A name that is not there gives an empty answer, which a gate holds for no evidence: the rollout would wait for ever
//! and nobody would know why.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{print, print_json, table, text, verdict};
use crate::config::{self, Config, Env, Gate, GateKind, OnEmpty, Prometheus, Route};
use crate::control;
use crate::rollout::gate::Sample;

/// How alike a name must be to be the one that was meant.
const ALIKE: f64 = 0.7;

/// `omnidaemon rollout lint`
#[derive(Args)]
pub(in crate::cli) struct LintArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// What became of a query.
struct Finding {
    route: String,
    gate: String,
    query: String,
    value: Option<f64>,
    /// What is wrong; none where nothing is.
    wrong: Option<String>,
    /// What there is to say of one that works.
    note: String,
}

pub(super) async fn run(args: LintArgs, global: &Global) -> Result<Exit, CliError> {
    let env: Env = std::env::vars().collect();
    let config = config::load(args.file.as_deref().unwrap_or(&global.config), &env)?.config;
    let findings = findings(&config).await;
    let is_wrong = findings.iter().any(|finding| finding.wrong.is_some());
    match global.format {
        Format::Json => print_json(&findings.iter().map(Finding::view).collect()),
        Format::Table if findings.is_empty() => eprintln!("no gate of this file asks Prometheus"),
        Format::Table => print(&rows(&findings)),
    }
    Ok(if is_wrong { Exit::Failed } else { Exit::Ok })
}

async fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in &config.routes {
        let Some(server) = &route.rollout.prometheus else { continue };
        let names = control::metric_names(server).await;
        for gate in &route.rollout.gates {
            findings.extend(try_gate(route, gate, server, &names).await);
        }
    }
    findings
}

async fn try_gate(
    route: &Route,
    gate: &Gate,
    server: &Prometheus,
    names: &Result<Vec<String>, String>,
) -> Option<Finding> {
    let GateKind::Prometheus { query, min, max, on_empty } = &gate.kind else { return None };
    let sample = control::query(server, query).await;
    let unknown = names.as_ref().ok().map(|names| unknown(query, names)).filter(|unknown| !unknown.is_empty());
    let (value, wrong) = match sample {
        Sample::Value(value) => (Some(value), unknown),
        Sample::Empty => (None, unknown.or_else(|| empty(*on_empty))),
        Sample::NotANumber => (None, Some("it gives no number: a division by 0, or no traffic".to_owned())),
        Sample::Unavailable(why) => (None, Some(format!("{}: {why}", server.url.masked_url()))),
    };
    let note = match (value, &wrong) {
        (Some(value), None) if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) => {
            "outside its limits now: the gate would fail"
        }
        (None, None) => "empty, which passes (on_empty: pass)",
        _ => "",
    };
    Some(Finding {
        route: route.name.clone(),
        gate: gate.name.clone(),
        query: query.clone(),
        value,
        wrong,
        note: note.to_owned(),
    })
}

fn empty(on_empty: OnEmpty) -> Option<String> {
    let says = "nothing matches: the gate would never pass; look at the labels, or set `on_empty: pass`";
    (on_empty == OnEmpty::Inconclusive).then(|| says.to_owned())
}

/// Names in the query that the server does not have, with what may be meant; nothing where it has all.
fn unknown(query: &str, names: &[String]) -> String {
    let missing = control::metrics_of(query).into_iter().filter(|name| !names.contains(name));
    let say = |name: String| match closest(&name, names) {
        Some(meant) => format!("there is no metric {name}: {meant} is meant?"),
        None => format!("there is no metric {name}"),
    };
    missing.map(say).collect::<Vec<_>>().join("; ")
}

fn closest<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let scored = names.iter().map(|known| (strsim::normalized_damerau_levenshtein(name, known), known.as_str()));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, known)| known)
}

fn rows(findings: &[Finding]) -> Table {
    let mut rows = table(&["route", "gate", "result", ">value", "detail"]);
    for finding in findings {
        let is_well = finding.wrong.is_none();
        let value = finding.value.map_or_else(|| "-".to_owned(), |value| text(&value.into()));
        let detail = finding.wrong.as_ref().unwrap_or(&finding.note);
        let result = verdict(if is_well { "ok" } else { "wrong" }, is_well);
        rows.add_row([(&finding.route).into(), (&finding.gate).into(), result, value.into(), detail.into()]);
    }
    rows
}

// === impl Finding ===

impl Finding {
    fn view(&self) -> Value {
        json!({
            "route": self.route,
            "gate": self.gate,
            "query": self.query,
            "ok": self.wrong.is_none(),
            "value": self.value,
            "detail": self.wrong.as_ref().unwrap_or(&self.note),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_is_told_with_the_one_that_may_be_meant() {
        let names = ["up", "omnidaemon_queue_oldest_seconds", "http_requests_total"].map(String::from);
        assert_eq!(unknown("max(up)", &names), "");
        let said = unknown("max(omnidaemon_queue_oldest_second) + up", &names);
        assert_eq!(
            said,
            "there is no metric omnidaemon_queue_oldest_second: omnidaemon_queue_oldest_seconds is meant?"
        );
        assert_eq!(unknown("zzz", &names), "there is no metric zzz");
        let alike = ["omnidaemon_fallback_total", "omnidaemon_tasks_failed_total"].map(String::from);
        assert!(unknown("omnidaemon_task_failed_total", &alike).contains("tasks_failed_total is meant"));
    }
}
