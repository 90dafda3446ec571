//! `rollout lint`: every query of the file's prometheus gates, tried on the server that will be
//! asked.
//!
//! A name that is not there gives an empty answer, which a gate holds for no evidence: the rollout
//! would wait for ever and nobody would know why.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{
    format_field, print_json, print_table, table_with_headings, verdict_cell,
};
use crate::config::{
    self, Config, EmptyResultPolicy, EnvVars, GateConfig, GateKind, PrometheusConfig, RouteConfig,
};
use crate::control;
use crate::rollout::gate::PrometheusSample;

/// How alike a name must be to be the one that was meant.
const SIMILARITY_THRESHOLD: f64 = 0.7;

/// `omnidaemon rollout lint`
#[derive(Args)]
pub(in crate::cli) struct RolloutLintArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// What became of a query.
struct QueryFinding {
    route: String,
    gate: String,
    query: String,
    value: Option<f64>,
    /// What is wrong; none where nothing is.
    problem: Option<String>,
    /// What there is to say of one that works.
    note: String,
}

pub(super) async fn run(args: RolloutLintArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let env: EnvVars = std::env::vars().collect();
    let config = config::load_file(args.file.as_deref().unwrap_or(&global.config), &env)?.config;
    let findings = lint_queries(&config).await;
    let is_wrong = findings.iter().any(|finding| finding.problem.is_some());
    match global.format {
        OutputFormat::Json => print_json(&findings.iter().map(QueryFinding::to_json).collect()),
        OutputFormat::Table if findings.is_empty() => {
            eprintln!("no gate of this file asks Prometheus");
        }
        OutputFormat::Table => print_table(&findings_table(&findings)),
    }
    Ok(if is_wrong { CliExit::Failed } else { CliExit::Ok })
}

async fn lint_queries(config: &Config) -> Vec<QueryFinding> {
    let mut findings = Vec::new();
    for route in &config.routes {
        let Some(server) = &route.rollout.prometheus else { continue };
        let names = control::fetch_metric_names(server).await;
        for gate in &route.rollout.gates {
            findings.extend(lint_gate(route, gate, server, &names).await);
        }
    }
    findings
}

async fn lint_gate(
    route: &RouteConfig,
    gate: &GateConfig,
    server: &PrometheusConfig,
    names: &Result<Vec<String>, String>,
) -> Option<QueryFinding> {
    let GateKind::PrometheusQuery { query, min, max, on_empty_result: on_empty } = &gate.kind
    else {
        return None;
    };
    let sample = control::query_prometheus(server, query).await;
    let unknown = names
        .as_ref()
        .ok()
        .map(|names| describe_unknown_metrics(query, names))
        .filter(|unknown| !unknown.is_empty());
    let (value, wrong) = match sample {
        PrometheusSample::Value(value) => (Some(value), unknown),
        PrometheusSample::Empty => (None, unknown.or_else(|| empty_result_problem(*on_empty))),
        PrometheusSample::NotANumber => {
            (None, Some("it gives no number: a division by 0, or no traffic".to_owned()))
        }
        PrometheusSample::Unavailable(why) => {
            (None, Some(format!("{}: {why}", server.url.masked_url())))
        }
    };
    let note = match (value, &wrong) {
        (Some(value), None)
            if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) =>
        {
            "outside its limits now: the gate would fail"
        }
        (None, None) => "empty, which passes (on_empty: pass)",
        _ => "",
    };
    Some(QueryFinding {
        route: route.name.clone(),
        gate: gate.name.clone(),
        query: query.clone(),
        value,
        problem: wrong,
        note: note.to_owned(),
    })
}

fn empty_result_problem(on_empty: EmptyResultPolicy) -> Option<String> {
    let says =
        "nothing matches: the gate would never pass; look at the labels, or set `on_empty: pass`";
    (on_empty == EmptyResultPolicy::Inconclusive).then(|| says.to_owned())
}

/// Names in the query that the server does not have, with what may be meant; nothing where it has
/// all.
fn describe_unknown_metrics(query: &str, names: &[String]) -> String {
    let missing =
        control::extract_metric_names(query).into_iter().filter(|name| !names.contains(name));
    let say = |name: String| match closest_name(&name, names) {
        Some(meant) => format!("there is no metric {name}: {meant} is meant?"),
        None => format!("there is no metric {name}"),
    };
    missing.map(say).collect::<Vec<_>>().join("; ")
}

fn closest_name<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let scored = names
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known.as_str()));
    scored
        .filter(|(score, _)| *score >= SIMILARITY_THRESHOLD)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}

fn findings_table(findings: &[QueryFinding]) -> Table {
    let mut rows = table_with_headings(&["route", "gate", "result", ">value", "detail"]);
    for finding in findings {
        let is_well = finding.problem.is_none();
        let value =
            finding.value.map_or_else(|| "-".to_owned(), |value| format_field(&value.into()));
        let detail = finding.problem.as_ref().unwrap_or(&finding.note);
        let result = verdict_cell(if is_well { "ok" } else { "wrong" }, is_well);
        rows.add_row([
            (&finding.route).into(),
            (&finding.gate).into(),
            result,
            value.into(),
            detail.into(),
        ]);
    }
    rows
}

// === impl Finding ===

impl QueryFinding {
    fn to_json(&self) -> Value {
        json!({
            "route": self.route,
            "gate": self.gate,
            "query": self.query,
            "ok": self.problem.is_none(),
            "value": self.value,
            "detail": self.problem.as_ref().unwrap_or(&self.note),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_is_told_with_the_one_that_may_be_meant() {
        let names =
            ["up", "omnidaemon_queue_oldest_seconds", "http_requests_total"].map(String::from);
        assert_eq!(describe_unknown_metrics("max(up)", &names), "");
        let said = describe_unknown_metrics("max(omnidaemon_queue_oldest_second) + up", &names);
        assert_eq!(
            said,
            "there is no metric omnidaemon_queue_oldest_second: omnidaemon_queue_oldest_seconds \
                is meant?"
        );
        assert_eq!(describe_unknown_metrics("zzz", &names), "there is no metric zzz");
        let alike =
            ["omnidaemon_fallback_total", "omnidaemon_tasks_failed_total"].map(String::from);
        assert!(
            describe_unknown_metrics("omnidaemon_task_failed_total", &alike)
                .contains("tasks_failed_total is meant")
        );
    }
}
