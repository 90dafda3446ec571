//! `routes:`, with their deprecation; their rollout is in `rollout.rs`.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use super::addresses::{header, link, method, pattern, successor};
use super::rollout::rollout;
use super::section::{Section, meant};
use super::values::{duration, name, switch, time, topic, word};
use crate::config::problem::shown;
use crate::config::yaml::{Node, Value};
use crate::config::{Deprecation, DeprecationMode, OnUnknown, OnWaitTimeout, Route};

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
