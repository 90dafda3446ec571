//! `rollout plan`: what a file would change about the running rollouts, before it is saved.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::admin::plan_view;
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, print_json, text};
use crate::cli::scrape::Scrape;
use crate::cohort::Weight;
use crate::config::{self, DeprecationMode, Env, OnWaitTimeout, RolloutMode, Route};
use crate::metrics::names;
use crate::rollout::preview::{Running, preview};
use crate::rollout::words::{exact, share, span};
use crate::store::{Caller, LATELY, lately};
use crate::task::UnixMs;

/// What else of a plan is compared, and how it is called.
const COMPARED: [(&str, &str); 6] = [
    ("steps", "the steps change"),
    ("gates", "the gates change"),
    ("min_samples", "min_samples changes"),
    ("max_wait", "max_wait changes"),
    ("on_fail", "on_fail changes"),
    ("shadow", "shadow.percent changes"),
];

/// `omnidaemon rollout plan`
#[derive(Args)]
pub(in crate::cli) struct PlanArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

pub(super) async fn run(args: PlanArgs, global: &Global) -> Result<Exit, CliError> {
    let file = args.file.unwrap_or_else(|| global.config.clone());
    let env: Env = std::env::vars().collect();
    let loaded = config::load(&file, &env)?;
    let client = Client::new(global)?;
    let running = client.get("rollouts").await?;
    let scrape = Scrape::parse(&client.text("metrics").await?);
    let mut plans = Vec::new();
    for route in &loaded.config.routes {
        let now = running.as_array().into_iter().flatten().find(|rollout| rollout["route"] == route.name.as_str());
        let mut said = changes(route, now);
        said.extend(latency(route, &scrape));
        said.extend(gone(route, now, &client).await?);
        plans.push((route.name.clone(), said));
    }
    let name = file.display().to_string();
    let warnings = loaded.warnings.iter().map(|warning| warning.in_file(&name));
    let warnings: Vec<String> = warnings.collect();
    match global.format {
        Format::Json => {
            let plans = plans.iter().map(|(route, said)| json!({"route": route, "changes": said}));
            print_json(&json!({"routes": plans.collect::<Vec<_>>(), "warnings": warnings}));
        }
        Format::Table => {
            for warning in &warnings {
                line(format_args!("warning: {warning}"));
            }
            for (route, said) in plans.iter().flat_map(|(route, said)| said.iter().map(move |said| (route, said))) {
                line(format_args!("{route}: {said}"));
            }
        }
    }
    Ok(Exit::Ok)
}

/// What would be different; that nothing would be is said too.
fn changes(route: &Route, now: Option<&Value>) -> Vec<String> {
    let Some(now) = now else {
        let percent = route.rollout.percent;
        return vec![format!("is new: percent {percent}, mode {}", route.rollout.mode.as_str())];
    };
    let percent = |value: &Value| value.as_f64().and_then(Weight::from_percent).unwrap_or_default();
    let running = Running {
        route: &route.name,
        percent: percent(&now["percent"]),
        mode: if now["mode"] == "manual" { RolloutMode::Manual } else { RolloutMode::Gated },
        weight: percent(&now["desired"]),
        phase: now["phase"].as_str().unwrap_or_default(),
        held: now["held"] == true,
    };
    let mut said = preview(&running, &route.rollout);
    let (old, new) = (&now["plan"], plan_view(&route.rollout));
    let differs = |field: &str| !same(&old[field], &new[field]);
    said.extend(COMPARED.iter().filter(|(field, _)| differs(field)).map(|(field, what)| match *field {
        "gates" => format!("{what} ({}): the present soak begins anew", gates(&old["gates"], &new["gates"])),
        "steps" => format!("{what}: {} → {}", steps(&old["steps"]), steps(&new["steps"])),
        "min_samples" => {
            format!("{what}: {} → {}: the present soak begins anew", samples(&old[*field]), samples(&new[*field]))
        }
        field => format!("{what}: {} → {}", text(&old[field]), text(&new[field])),
    }));
    let deprecation = route.deprecation.mode.as_str();
    if now["deprecation"] != deprecation {
        said.push(format!("deprecation {} → {deprecation}", text(&now["deprecation"])));
    }
    if said.is_empty() {
        said.push(format!("nothing changes (percent {}, weight {})", running.percent, running.weight));
    }
    said
}

/// Whether two documents say the same; 10 is 10.0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (one, other) => one == other,
    }
}

/// `10 % (30 min), 25 % (2 h)`
fn steps(steps: &Value) -> String {
    let say = |step: &Value| {
        let soak = Duration::from_secs(step["soak"].as_u64().unwrap_or_default());
        let approval = if step["approval"] == true { ", approval" } else { "" };
        format!("{} % ({}{approval})", text(&step["weight"]), span(soak))
    };
    steps.as_array().into_iter().flatten().map(say).collect::<Vec<_>>().join(", ")
}

/// `300 async, 300 sync`
fn samples(least: &Value) -> String {
    format!("{} async, {} sync", text(&least["async"]), text(&least["sync"]))
}

/// `+ lag, - e2e, errors edited`
fn gates(old: &Value, new: &Value) -> String {
    let list = |gates: &Value| gates.as_array().cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let find = |gates: &[Value], name: &Value| gates.iter().find(|gate| gate["gate"] == *name).cloned();
    let added = new.iter().filter_map(|gate| match find(&old, &gate["gate"]) {
        None => Some(format!("+ {}", text(&gate["gate"]))),
        Some(before) if !same(&before, gate) => Some(format!("{} edited", text(&gate["gate"]))),
        Some(_) => None,
    });
    let gone = old.iter().filter(|gate| find(&new, &gate["gate"]).is_none());
    let gone = gone.map(|gate| format!("- {}", text(&gate["gate"])));
    let all: Vec<String> = added.chain(gone).collect();
    if all.is_empty() { "their order".to_owned() } else { all.join(", ") }
}

/// How the sync path's latency compares with `wait`: what canaried clients would notice.
fn latency(route: &Route, scrape: &Scrape) -> Option<String> {
    if route.rollout.percent == Weight::ZERO {
        return None;
    }
    let buckets = scrape.buckets(names::REQUEST_DURATION, &[("route", &route.name), ("path", "sync")]);
    let (p95, over) = (quantile(&buckets, 0.95)?, over(&buckets, route.wait.as_secs_f64())?);
    let (p95, wait) = (span_of(p95), exact(route.wait));
    if over < 0.01 {
        return None;
    }
    let fate = match route.on_wait_timeout {
        OnWaitTimeout::Accepted => "would get a 202 and have to poll",
        OnWaitTimeout::Hold => "would be waited for beyond it (on_wait_timeout: hold)",
    };
    Some(format!("the sync path's p95 is {p95}, wait {wait}: about {} of canaried calls {fate}", share(over)))
}

fn span_of(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The value below which a share of the requests is, straight within a bucket; over the last bound it is that.
fn quantile(buckets: &[(f64, f64)], of: f64) -> Option<f64> {
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
fn over(buckets: &[(f64, f64)], seconds: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let at = buckets.iter().position(|(bound, _)| *bound >= seconds)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    let within = if high.is_finite() { (count - below) * (seconds - low) / (high - low) } else { 0.0 };
    Some(1.0 - (below + within) / total)
}

/// Who would be turned away by `gone`, though they called lately.
async fn gone(route: &Route, now: Option<&Value>, client: &Client) -> Result<Option<String>, CliError> {
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
        Some(Caller { who: text(&caller["client"]), count, last })
    };
    let callers: Vec<Caller> = callers["clients"].as_array().into_iter().flatten().filter_map(caller).collect();
    let (count, named) = lately(&callers, jiff::Timestamp::now().into());
    let warning = format!("warning: {count} clients called it in the last {LATELY} days and would get 410: {named}");
    Ok((count > 0).then_some(warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_read_off_a_histogram() {
        let buckets = [(1.0, 10.0), (10.0, 40.0), (60.0, 90.0), (f64::INFINITY, 100.0)];
        assert_eq!(over(&buckets, 10.0), Some(0.6));
        assert_eq!(quantile(&buckets, 0.5).map(f64::round), Some(20.0));
        assert_eq!(quantile(&buckets, 0.95), Some(60.0), "over the last bound it is that");
        assert_eq!((quantile(&[], 0.95), over(&[(1.0, 0.0)], 1.0)), (None, None));
    }

    #[test]
    fn gates_that_come_go_or_change_are_named() {
        let old = json!([{"gate": "errors", "max": 0.01}, {"gate": "e2e", "max": 1}]);
        let new = json!([{"gate": "errors", "max": 0.02}, {"gate": "lag"}]);
        assert_eq!(gates(&old, &new), "errors edited, + lag, - e2e");
        assert!(same(&json!({"a": [1, {"b": 10}]}), &json!({"a": [1.0, {"b": 10.0}]})));
        assert!(!same(&json!([1]), &json!([1, 2])) && !same(&json!({"a": 1}), &json!({"b": 1})));
    }
}
