//! `rollout plan`: what a file would change about the running rollouts, before it is saved.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::admin::render_plan;
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_json, print_line};
use crate::cli::scrape::MetricsScrape;
use crate::cohort::Weight;
use crate::config::{self, DeprecationMode, EnvVars, RolloutMode, RouteConfig, WaitTimeoutAction};
use crate::metrics::names;
use crate::rollout::format::{format_exact_span, format_share, format_span};
use crate::rollout::preview::{RunningRollout, preview_edit};
use crate::store::{DeprecatedCaller, RECENT_CALL_DAYS, summarize_recent_callers};
use crate::task::UnixMs;

/// What else of a plan is compared, and how it is called.
const COMPARED_PLAN_FIELDS: [(&str, &str); 6] = [
    ("steps", "the steps change"),
    ("gates", "the gates change"),
    ("min_samples", "min_samples changes"),
    ("max_wait", "max_wait changes"),
    ("on_fail", "on_fail changes"),
    ("shadow", "shadow.percent changes"),
];

/// `omnidaemon rollout plan`
#[derive(Args)]
pub(in crate::cli) struct RolloutPlanArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

pub(super) async fn run(args: RolloutPlanArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let file = args.file.unwrap_or_else(|| global.config.clone());
    let env: EnvVars = std::env::vars().collect();
    let loaded = config::load_file(&file, &env)?;
    let client = AdminClient::new(global)?;
    let running = client.get("rollouts").await?;
    let scrape = MetricsScrape::parse(&client.get_text("metrics").await?);
    let mut plans = Vec::new();
    for route in &loaded.config.routes {
        let now = running
            .as_array()
            .into_iter()
            .flatten()
            .find(|rollout| rollout["route"] == route.name.as_str());
        let mut said = describe_changes(route, now);
        said.extend(latency_note(route, &scrape));
        said.extend(gone_warning(route, now, &client).await?);
        plans.push((route.name.clone(), said));
    }
    let name = file.display().to_string();
    let warnings = loaded.warnings.iter().map(|warning| warning.render_line(&name));
    let warnings: Vec<String> = warnings.collect();
    match global.format {
        OutputFormat::Json => {
            let plans = plans.iter().map(|(route, said)| json!({"route": route, "changes": said}));
            print_json(&json!({"routes": plans.collect::<Vec<_>>(), "warnings": warnings}));
        }
        OutputFormat::Table => {
            for warning in &warnings {
                print_line(format_args!("warning: {warning}"));
            }
            for (route, said) in
                plans.iter().flat_map(|(route, said)| said.iter().map(move |said| (route, said)))
            {
                print_line(format_args!("{route}: {said}"));
            }
        }
    }
    Ok(CliExit::Ok)
}

/// What would be different; that nothing would be is said too.
fn describe_changes(route: &RouteConfig, now: Option<&Value>) -> Vec<String> {
    let Some(now) = now else {
        let percent = route.rollout.percent;
        return vec![format!("is new: percent {percent}, mode {}", route.rollout.mode.as_str())];
    };
    let percent = |value: &Value| value.as_f64().and_then(Weight::from_percent).unwrap_or_default();
    let running = RunningRollout {
        route: &route.name,
        percent: percent(&now["percent"]),
        mode: if now["mode"] == "manual" { RolloutMode::Manual } else { RolloutMode::Gated },
        weight: percent(&now["desired"]),
        phase: now["phase"].as_str().unwrap_or_default(),
        manual_hold: now["held"] == true,
    };
    let mut said = preview_edit(&running, &route.rollout);
    let (old, new) = (&now["plan"], render_plan(&route.rollout));
    let differs = |field: &str| !is_same_json(&old[field], &new[field]);
    said.extend(COMPARED_PLAN_FIELDS.iter().filter(|(field, _)| differs(field)).map(
        |(field, what)| match *field {
            "gates" => {
                format!(
                    "{what} ({}): the present soak begins anew",
                    format_gate_changes(&old["gates"], &new["gates"])
                )
            }
            "steps" => {
                format!("{what}: {} → {}", format_steps(&old["steps"]), format_steps(&new["steps"]))
            }
            "min_samples" => {
                format!(
                    "{what}: {} → {}: the present soak begins anew",
                    format_min_samples(&old[*field]),
                    format_min_samples(&new[*field])
                )
            }
            field => {
                format!("{what}: {} → {}", format_field(&old[field]), format_field(&new[field]))
            }
        },
    ));
    let deprecation = route.deprecation.mode.as_str();
    if now["deprecation"] != deprecation {
        said.push(format!("deprecation {} → {deprecation}", format_field(&now["deprecation"])));
    }
    if said.is_empty() {
        said.push(format!(
            "nothing changes (percent {}, weight {})",
            running.percent, running.weight
        ));
    }
    said
}

/// Whether two documents say the same; 10 is 10.0.
fn is_same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same_json(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| {
                    other.get(key).is_some_and(|other| is_same_json(value, other))
                })
        }
        (one, other) => one == other,
    }
}

/// `10 % (30 min), 25 % (2 h)`
fn format_steps(steps: &Value) -> String {
    let say = |step: &Value| {
        let soak = Duration::from_secs(step["soak"].as_u64().unwrap_or_default());
        let approval = if step["approval"] == true { ", approval" } else { "" };
        format!("{} % ({}{approval})", format_field(&step["weight"]), format_span(soak))
    };
    steps.as_array().into_iter().flatten().map(say).collect::<Vec<_>>().join(", ")
}

/// `300 async, 300 sync`
fn format_min_samples(least: &Value) -> String {
    format!("{} async, {} sync", format_field(&least["async"]), format_field(&least["sync"]))
}

/// `+ lag, - e2e, errors edited`
fn format_gate_changes(old: &Value, new: &Value) -> String {
    let list = |gates: &Value| gates.as_array().cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let find =
        |gates: &[Value], name: &Value| gates.iter().find(|gate| gate["gate"] == *name).cloned();
    let added = new.iter().filter_map(|gate| match find(&old, &gate["gate"]) {
        None => Some(format!("+ {}", format_field(&gate["gate"]))),
        Some(before) if !is_same_json(&before, gate) => {
            Some(format!("{} edited", format_field(&gate["gate"])))
        }
        Some(_) => None,
    });
    let gone = old.iter().filter(|gate| find(&new, &gate["gate"]).is_none());
    let gone = gone.map(|gate| format!("- {}", format_field(&gate["gate"])));
    let all: Vec<String> = added.chain(gone).collect();
    if all.is_empty() { "their order".to_owned() } else { all.join(", ") }
}

/// How the sync path's latency compares with `wait`: what canaried clients would notice.
fn latency_note(route: &RouteConfig, scrape: &MetricsScrape) -> Option<String> {
    if route.rollout.percent == Weight::ZERO {
        return None;
    }
    let buckets = scrape
        .histogram_buckets(names::REQUEST_DURATION, &[("route", &route.name), ("path", "sync")]);
    let (p95, over) = (
        histogram_quantile(&buckets, 0.95)?,
        share_above(&buckets, route.client_wait.as_secs_f64())?,
    );
    let (p95, wait) = (format_span_secs(p95), format_exact_span(route.client_wait));
    if over < 0.01 {
        return None;
    }
    let fate = match route.on_wait_timeout {
        WaitTimeoutAction::Accepted => "would get a 202 and have to poll",
        WaitTimeoutAction::KeepWaiting => "would be waited for beyond it (on_wait_timeout: hold)",
    };
    Some(format!(
        "the sync path's p95 is {p95}, wait {wait}: about {} of canaried calls {fate}",
        format_share(over)
    ))
}

fn format_span_secs(seconds: f64) -> String {
    format_span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The value below which a share of the requests is, straight within a bucket; over the last bound
/// it is that.
fn histogram_quantile(buckets: &[(f64, f64)], of: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let at = buckets.iter().position(|(_, count)| *count >= total * of)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    if !high.is_finite() {
        return Some(low);
    }
    Some(low + (high - low) * (total * of - below) / (count - below).max(1.0))
}

/// The share of the requests that took longer than `seconds`, straight within a bucket.
fn share_above(buckets: &[(f64, f64)], seconds: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let at = buckets.iter().position(|(bound, _)| *bound >= seconds)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    let within =
        if high.is_finite() { (count - below) * (seconds - low) / (high - low) } else { 0.0 };
    Some(1.0 - (below + within) / total)
}

/// Who would be turned away by `gone`, though they called lately.
async fn gone_warning(
    route: &RouteConfig,
    now: Option<&Value>,
    client: &AdminClient,
) -> Result<Option<String>, CliError> {
    let Some(now) = now.filter(|now| now["deprecation"] != "gone") else { return Ok(None) };
    if route.deprecation.mode != DeprecationMode::Gone {
        return Ok(None);
    }
    if now["deprecation"] == "none" {
        return Ok(Some(
            "warning: nobody knows who still calls it: let `mode: announce` run for some days first".into(),
        ));
    }
    let callers = client.get(&format!("rollouts/{}/clients", route.name)).await?;
    let caller = |caller: &Value| {
        let (count, last) = (caller["calls"].as_u64()?, UnixMs(caller["last_call_ms"].as_u64()?));
        Some(DeprecatedCaller {
            name: format_field(&caller["client"]),
            call_count: count,
            last_called_at: last,
        })
    };
    let callers: Vec<DeprecatedCaller> =
        callers["clients"].as_array().into_iter().flatten().filter_map(caller).collect();
    let (count, named) = summarize_recent_callers(&callers, jiff::Timestamp::now().into());
    let warning = format!(
        "warning: {count} clients called it in the last {RECENT_CALL_DAYS} days and would get 410: {named}"
    );
    Ok((count > 0).then_some(warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_read_off_a_histogram() {
        let buckets = [(1.0, 10.0), (10.0, 40.0), (60.0, 90.0), (f64::INFINITY, 100.0)];
        assert_eq!(share_above(&buckets, 10.0), Some(0.6));
        assert_eq!(histogram_quantile(&buckets, 0.5).map(f64::round), Some(20.0));
        assert_eq!(
            histogram_quantile(&buckets, 0.95),
            Some(60.0),
            "over the last bound it is that"
        );
        assert_eq!((histogram_quantile(&[], 0.95), share_above(&[(1.0, 0.0)], 1.0)), (None, None));
    }

    #[test]
    fn gates_that_come_go_or_change_are_named() {
        let old = json!([{"gate": "errors", "max": 0.01}, {"gate": "e2e", "max": 1}]);
        let new = json!([{"gate": "errors", "max": 0.02}, {"gate": "lag"}]);
        assert_eq!(format_gate_changes(&old, &new), "errors edited, + lag, - e2e");
        assert!(is_same_json(&json!({"a": [1, {"b": 10}]}), &json!({"a": [1.0, {"b": 10.0}]})));
        assert!(
            !is_same_json(&json!([1]), &json!([1, 2]))
                && !is_same_json(&json!({"a": 1}), &json!({"b": 1}))
        );
    }
}
