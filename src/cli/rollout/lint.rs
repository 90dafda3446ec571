//! `rollout lint`: runs the query of every prometheus gate in a file on the configured server.
//!
//! A query with a misspelled metric name has an empty result. A gate takes an empty result as no
//! evidence, so the rollout would wait forever without an error. The command reports such names,
//! other queries without a value, and values outside the gate's limits.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_decimal, format_optional};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_table, table_with_headings, verdict_cell};
use crate::config::{
    self, Config, EmptyResultPolicy, EnvVars, GateConfig, GateKind, PrometheusConfig, RouteConfig,
};
use crate::control;
use crate::rollout::gate::PrometheusSample;

/// The similarity, from 0 to 1, from which on a known metric name is suggested for an unknown one.
const SIMILARITY_THRESHOLD: f64 = 0.7;

/// `omnidaemon rollout lint`
#[derive(Args)]
pub(in crate::cli) struct RolloutLintArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// The result of the query of one gate.
struct QueryFinding {
    route: String,
    gate: String,
    query: String,
    value: Option<f64>,
    /// Why the gate cannot use the query; none when it can.
    problem: Option<String>,
    /// A remark on a query without a problem; often empty.
    note: String,
}

pub(super) async fn run(args: RolloutLintArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let env: EnvVars = std::env::vars().collect();
    let config = config::load_file(args.file.as_deref().unwrap_or(&global.config), &env)?.config;
    let findings = lint_queries(&config).await;
    let has_problem = findings.iter().any(|finding| finding.problem.is_some());
    match global.format {
        OutputFormat::Json => print_json(&findings.iter().map(QueryFinding::to_json).collect()),
        OutputFormat::Table if findings.is_empty() => {
            eprintln!("the file has no gate of type prometheus");
        }
        OutputFormat::Table => print_table(&findings_table(&findings)),
    }
    Ok(if has_problem { CliExit::Failed } else { CliExit::Ok })
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
    let (value, problem) = match sample {
        PrometheusSample::Value(value) => (Some(value), unknown),
        PrometheusSample::Empty => (None, unknown.or_else(|| empty_result_problem(*on_empty))),
        PrometheusSample::NotANumber => {
            (None, Some("the value is not a number: a division by 0, or no traffic".to_owned()))
        }
        PrometheusSample::Unavailable(reason) => {
            (None, Some(format!("{}: {reason}", server.url.masked_url())))
        }
    };
    let note = match (value, &problem) {
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
        problem,
        note: note.to_owned(),
    })
}

fn empty_result_problem(on_empty: EmptyResultPolicy) -> Option<String> {
    let problem = "the result is empty: the gate would never pass; check the labels, or set \
        `on_empty: pass`";
    (on_empty == EmptyResultPolicy::Inconclusive).then(|| problem.to_owned())
}

/// A sentence for each metric name in the query that the server does not know, with the most
/// similar known name; empty when the server knows all of them.
fn describe_unknown_metrics(query: &str, names: &[String]) -> String {
    let missing =
        control::extract_metric_names(query).into_iter().filter(|name| !names.contains(name));
    let describe = |name: String| match closest_name(&name, names) {
        Some(closest) => format!("there is no metric {name}: did you mean {closest}?"),
        None => format!("there is no metric {name}"),
    };
    missing.map(describe).collect::<Vec<_>>().join("; ")
}

/// The known name that is most similar to `name`; none when no name is similar enough.
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
        let is_ok = finding.problem.is_none();
        let value = format_optional(finding.value.map(format_decimal));
        let detail = finding.problem.as_ref().unwrap_or(&finding.note);
        let result = verdict_cell(if is_ok { "ok" } else { "wrong" }, is_ok);
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

// === impl QueryFinding ===

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
    fn an_unknown_metric_is_reported_with_the_most_similar_name() {
        let names =
            ["up", "omnidaemon_queue_oldest_seconds", "http_requests_total"].map(String::from);
        assert_eq!(describe_unknown_metrics("max(up)", &names), "");
        let problem = describe_unknown_metrics("max(omnidaemon_queue_oldest_second) + up", &names);
        assert_eq!(
            problem,
            "there is no metric omnidaemon_queue_oldest_second: did you mean \
                omnidaemon_queue_oldest_seconds?"
        );
        assert_eq!(describe_unknown_metrics("zzz", &names), "there is no metric zzz");
        let similar =
            ["omnidaemon_fallback_total", "omnidaemon_tasks_failed_total"].map(String::from);
        assert!(
            describe_unknown_metrics("omnidaemon_task_failed_total", &similar)
                .contains("did you mean omnidaemon_tasks_failed_total?")
        );
    }
}
