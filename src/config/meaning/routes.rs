//! `routes:`, with their rollout and deprecation.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use super::addresses::{header, link, method, pattern, sticky_key, successor};
use super::section::{Section, meant};
use super::values::{Wrong, duration, name, percent, switch, text, time, topic, word};
use crate::cohort::Weight;
use crate::config::problem::shown;
use crate::config::yaml::{Node, Value};
use crate::config::{
    Deprecation, DeprecationMode, OnUnknown, OnWaitTimeout, Rollout, RolloutMode, Route, Step, StickyKey,
};

/// Keys of `rollout` that the rollout controller will know.
const LATER: [&str; 14] = [
    "interval",
    "soak",
    "min_samples",
    "max_wait",
    "failure_limit",
    "success_streak",
    "on_fail",
    "gates",
    "breaker",
    "prometheus",
    "shadow",
    "pin",
    "windows",
    "notify",
];
const DAY: u64 = 24 * 3600;

/// Reads all routes; `topics` is that section of the file.
pub(super) fn routes(file: &mut Section<'_>, topics: Option<&Node>) -> Vec<Route> {
    let topics: Vec<&str> = match topics.map(|topics| &topics.value) {
        Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.as_str()).collect(),
        _ => Vec::new(),
    };
    let mut taken = Taken::default();
    let mut routes = Vec::new();
    for (key, mut section) in file.named("routes") {
        let Some(route) = route(key, &mut section, &topics) else { continue };
        taken.take(&route, &section);
        routes.push(route);
    }
    routes
}

fn route(key: &str, route: &mut Section<'_>, topics: &[&str]) -> Option<Route> {
    let name = name(key).map_err(|wrong| route.fault(wrong)).ok();
    let path = route.require("path", "write the path of the legacy endpoint, such as `path: /invoke`", pattern);
    let topic = route.require("topic", "write one of the names under `topics`", topic);
    if let Some(topic) = topic.as_ref().filter(|topic| !topics.contains(&topic.as_str())) {
        let hint = if topics.is_empty() { "add it there".to_owned() } else { meant(topic.as_str(), topics) };
        route.problem("topic", format!("{} is not under `topics`", shown(topic.as_str())), hint);
    }
    let methods = route.list("methods", vec![Method::POST], method);
    if route.is_empty("methods") {
        route.problem("methods", "is empty", "write `[POST]`, or delete the line");
    }
    let wait = route.read("wait", Duration::from_secs(10), duration(0, DAY));
    let on_wait_timeout = route.read(
        "on_wait_timeout",
        OnWaitTimeout::Accepted,
        word(&[("accepted", OnWaitTimeout::Accepted), ("hold", OnWaitTimeout::Hold)]),
    );
    let on_unknown =
        route.read("on_unknown", OnUnknown::Sync, word(&[("sync", OnUnknown::Sync), ("refuse", OnUnknown::Refuse)]));
    let retry_canaried = route.read("retry_canaried", false, switch);
    let drop_headers = route.section("capture").list("drop_headers", Vec::new(), header);
    let rollout = rollout(route.section("rollout"), key);
    let deprecation = deprecation(route.section("deprecation"), path.as_ref().map(|path| path.text.as_str()));
    Some(Route {
        name: name?,
        path: path?,
        topic: topic?,
        methods,
        wait,
        on_wait_timeout,
        on_unknown,
        retry_canaried,
        drop_headers,
        rollout,
        deprecation,
    })
}

fn rollout(mut rollout: Section<'_>, route: &str) -> Rollout {
    rollout.refuse(&LATER, "comes with the rollout controller, which is not in this release", "delete it");
    let mode = rollout.read("mode", RolloutMode::Manual, |text| match text {
        "gated" => Err(Wrong::new("gated rollouts are not in this release", "write `mode: manual`")),
        text => word(&[("manual", RolloutMode::Manual)])(text),
    });
    let percent = allowed(&mut rollout);
    Rollout {
        steps: steps(&mut rollout).into_iter().map(Step::new).collect(),
        salt: rollout.read("salt", route.to_owned(), text),
        sticky: sticky(&mut rollout),
        ..Rollout::new(route, percent, mode)
    }
}

fn allowed(rollout: &mut Section<'_>) -> Weight {
    let weight = rollout.read("percent", Weight::ZERO, percent);
    if let Some(Value::Text(written)) = rollout.node("percent").map(|node| &node.value)
        && (1..100).contains(&weight.basis_points())
        && !written.ends_with('%')
    {
        let hint = format!("write `{written}%` where it is meant so, or {}", weight.basis_points());
        rollout.warning("percent", format!("{written} is less than one percent"), hint);
    }
    weight
}

fn steps(rollout: &mut Section<'_>) -> Vec<Weight> {
    const HINT: &str = "write rising weights, such as `[10, 25, 50, 100]`";
    if let Some(Value::List(items)) = rollout.node("steps").map(|node| &node.value)
        && items.iter().any(|item| matches!(item.value, Value::Map(_)))
    {
        let message = "has a step with conditions, which come with the rollout controller, not in this release";
        rollout.problem("steps", message, HINT);
        return Vec::new();
    }
    let phases = [1000, 2500, 5000, 10_000].map(Weight::from_basis_points).to_vec();
    let steps = rollout.list("steps", phases, percent);
    if steps.contains(&Weight::ZERO) {
        rollout.problem("steps", "has a step of 0", HINT);
    } else if let Some(pair) = steps.windows(2).find(|pair| pair[0] >= pair[1]) {
        let message = format!("does not rise: {} is followed by {}", pair[0].percent(), pair[1].percent());
        rollout.problem("steps", message, HINT);
    }
    steps
}

fn sticky(rollout: &mut Section<'_>) -> Vec<StickyKey> {
    if let Some(Value::List(_) | Value::Text(_)) = rollout.node("sticky").map(|node| &node.value) {
        let hint = "write `sticky: {keys: [header:x-client-id]}`";
        rollout.problem("sticky", "is not a section with `keys`", hint);
        return Vec::new();
    }
    let mut sticky = rollout.section("sticky");
    sticky.read("fallback", (), word(&[("random", ())]));
    sticky.list("keys", Vec::new(), sticky_key)
}

fn deprecation(mut section: Section<'_>, path: Option<&str>) -> Deprecation {
    let mode = section.read(
        "mode",
        DeprecationMode::None,
        word(&[
            ("none", DeprecationMode::None),
            ("announce", DeprecationMode::Announce),
            ("redirect", DeprecationMode::Redirect),
            ("gone", DeprecationMode::Gone),
            // What YAML 1.1 makes of `off` is what is meant.
            ("off", DeprecationMode::None),
            ("false", DeprecationMode::None),
        ]),
    );
    let deprecation = Deprecation {
        mode,
        deprecated_at: section.optional("deprecated_at", time),
        sunset_at: section.optional("sunset_at", time),
        successor: section.optional("successor", successor),
        link: section.optional("link", link),
        permanent: section.read("permanent", false, switch),
    };
    check_deprecation(&section, &deprecation, path);
    deprecation
}

fn check_deprecation(section: &Section<'_>, deprecation: &Deprecation, path: Option<&str>) {
    let Deprecation { mode, deprecated_at, sunset_at, successor, .. } = deprecation;
    if let (Some(since), Some(until)) = (deprecated_at, sunset_at)
        && until < since
    {
        section.problem("sunset_at", format!("is before deprecated_at, {since}"), "write a later time");
    }
    if *mode == DeprecationMode::Redirect && !section.has("successor") {
        let hint = "write where to go, such as `successor: /invoke/async`";
        section.problem("successor", "is missing, which `mode: redirect` needs", hint);
    }
    if *mode == DeprecationMode::Redirect && successor.is_some() && successor.as_deref() == path {
        section.problem("successor", "is the route's own path: a redirect would never end", "write another path");
    }
    if *mode == DeprecationMode::Announce && deprecated_at.is_none() && sunset_at.is_none() {
        let hint = "write `deprecated_at` and `sunset_at`";
        section.warning("mode", "announces neither since when nor until when", hint);
    }
}

/// Segments of a path, as in [`crate::config::PathPattern`].
type Segments = Vec<Option<String>>;

/// The names of the routes that have a path already.
#[derive(Default)]
struct Taken {
    by_method: HashMap<(Segments, Method), String>,
    paths: HashMap<Segments, String>,
    tasks: HashMap<Segments, String>,
}

impl Taken {
    /// Refuses a route whose requests an earlier one answers, or takes as tasks, and the other way round.
    fn take(&mut self, route: &Route, section: &Section<'_>) {
        let path = &route.path.segments;
        let mut tasks: Segments = path.iter().filter(|segment| segment.as_deref() != Some("")).cloned().collect();
        tasks.push(Some("async".into()));
        for method in &route.methods {
            if let Some(other) = self.by_method.get(&(path.clone(), method.clone())) {
                let message = format!("{method} {} is already answered by `{other}`", shown(&route.path.text));
                section.problem("path", message, "write another path, or delete one of the routes");
            }
        }
        if let Some(other) = self.tasks.get(path) {
            section.problem("path", format!("is where `{other}` takes tasks"), "write another path");
        }
        if let Some(other) = self.paths.get(&tasks) {
            section.problem("path", format!("would take tasks on the path of `{other}`"), "write another path");
        }
        let keep = |method: &Method| ((path.clone(), method.clone()), route.name.clone());
        self.by_method.extend(route.methods.iter().map(keep));
        self.paths.insert(path.clone(), route.name.clone());
        self.tasks.insert(tasks, route.name.clone());
    }
}
