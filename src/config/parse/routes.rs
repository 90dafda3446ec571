//! Parses the section `routes` and the deprecation of each route; `rollout.rs` parses its rollout.
//!
//! Two routes must not answer the same path and method, and no route may have the path at which
//! another one accepts tasks: its own path with `/async` appended.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use crate::config::diagnostics::quote_for_message;
use crate::config::parse::addresses::{
    parse_cookie_name, parse_header_name, parse_link, parse_method, parse_path_pattern,
    parse_successor,
};
use crate::config::parse::field_error::suggest;
use crate::config::parse::rollout::parse_rollout;
use crate::config::parse::scalars::{
    duration_between, one_of_words, parse_bool, parse_name, parse_timestamp, parse_topic_name,
};
use crate::config::parse::section::ConfigSection;
use crate::config::yaml::{YamlNode, YamlValue};
use crate::config::{
    DeprecationConfig, DeprecationMode, RouteConfig, SaturationAction, UnknownEnqueueAction,
    WaitTimeoutAction,
};
use crate::task::Topic;

const DAY_SECS: u64 = 24 * 3600;

/// Parses all routes; `topics` is the node of the section `topics`, to check their topics.
pub(crate) fn parse_routes(
    file: &mut ConfigSection<'_>,
    topics: Option<&YamlNode>,
) -> Vec<RouteConfig> {
    let topics: Vec<&str> = match topics.map(|topics| &topics.value) {
        Some(YamlValue::Map(entries)) => entries.iter().map(|entry| entry.key.as_str()).collect(),
        _ => Vec::new(),
    };
    let cookies = parse_idempotency_cookies(file.subsection("idempotency"));
    let mut registry = RoutePathRegistry::default();
    let mut routes = Vec::new();
    for (key, mut section) in file.keyed_sections("routes") {
        let Some(mut route) = parse_route(key, &mut section, &topics) else { continue };
        if route.idempotency_cookies.is_none() {
            route.idempotency_cookies.clone_from(&cookies);
        }
        registry.register_route(&route, &section);
        routes.push(route);
    }
    routes
}

fn parse_route(key: &str, route: &mut ConfigSection<'_>, topics: &[&str]) -> Option<RouteConfig> {
    let name = parse_name(key).map_err(|wrong| route.add_section_problem(wrong)).ok();
    let path = route.read_required(
        "path",
        "write the path of the legacy endpoint, such as `path: /invoke`",
        parse_path_pattern,
    );
    let topic =
        route.read_required("topic", "write one of the names under `topics`", parse_topic_name);
    refuse_unknown_topics(route, "topic", topic.as_slice(), topics);
    let further_topics = parse_further_topics(route, topics);
    let methods = route.read_list("methods", vec![Method::POST], parse_method);
    if route.is_empty_list("methods") {
        route.add_problem("methods", "is empty", "write `[POST]`, or delete the line");
    }
    let wait =
        route.read_or_default("wait", Duration::from_secs(10), duration_between(0, DAY_SECS));
    let on_wait_timeout = route.read_or_default(
        "on_wait_timeout",
        WaitTimeoutAction::Accepted,
        one_of_words(&[
            ("accepted", WaitTimeoutAction::Accepted),
            ("redirect", WaitTimeoutAction::Redirect),
            ("hold", WaitTimeoutAction::KeepWaiting),
        ]),
    );
    let max_start_delay = route.read_optional("max_start_delay", duration_between(0, DAY_SECS));
    let on_saturation = route.read_or_default(
        "saturation",
        SaturationAction::ServeSync,
        one_of_words(&[("sync", SaturationAction::ServeSync), ("queue", SaturationAction::Queue)]),
    );
    let on_unknown = route.read_or_default(
        "on_unknown",
        UnknownEnqueueAction::ServeSync,
        one_of_words(&[
            ("sync", UnknownEnqueueAction::ServeSync),
            ("refuse", UnknownEnqueueAction::Refuse),
        ]),
    );
    let retry_canaried = route.read_or_default("retry_canaried", false, parse_bool);
    let drop_headers =
        route.subsection("capture").read_list("drop_headers", Vec::new(), parse_header_name);
    let idempotency_cookies = parse_idempotency_cookies(route.subsection("idempotency"));
    let rollout = parse_rollout(route.subsection("rollout"), key);
    let deprecation = parse_deprecation(
        route.subsection("deprecation"),
        path.as_ref().map(|path| path.source_text.as_str()),
    );
    Some(RouteConfig {
        name: name?,
        path: path?,
        topic: topic?,
        further_topics,
        methods,
        client_wait: wait,
        on_wait_timeout,
        max_start_delay,
        on_saturation,
        on_unknown_enqueue: on_unknown,
        retry_canaried,
        idempotency_cookies,
        drop_headers,
        rollout,
        deprecation,
    })
}

/// `idempotency.cookies`, of the file or of a route; `None` if it does not say.
fn parse_idempotency_cookies(mut section: ConfigSection<'_>) -> Option<Vec<String>> {
    section.find_node("cookies")?;
    Some(section.read_list("cookies", Vec::new(), parse_cookie_name))
}

/// The topics that an envelope may name beside the route's own; `None` if the file does not say.
fn parse_further_topics(route: &mut ConfigSection<'_>, topics: &[&str]) -> Option<Vec<Topic>> {
    route.find_node("topics")?;
    let further = route.read_list("topics", Vec::new(), parse_topic_name);
    refuse_unknown_topics(route, "topics", &further, topics);
    Some(further)
}

fn refuse_unknown_topics(
    route: &ConfigSection<'_>,
    key: &'static str,
    named: &[Topic],
    topics: &[&str],
) {
    for topic in named.iter().filter(|topic| !topics.contains(&topic.as_str())) {
        let hint = if topics.is_empty() {
            "add it there".to_owned()
        } else {
            suggest(topic.as_str(), topics)
        };
        let message = format!("{} is not under `topics`", quote_for_message(topic.as_str()));
        route.add_problem(key, message, hint);
    }
}

fn parse_deprecation(mut section: ConfigSection<'_>, path: Option<&str>) -> DeprecationConfig {
    let mode = section.read_or_default(
        "mode",
        DeprecationMode::None,
        one_of_words(&[
            ("none", DeprecationMode::None),
            ("announce", DeprecationMode::Announce),
            ("redirect", DeprecationMode::Redirect),
            ("gone", DeprecationMode::Gone),
            // YAML 1.1 tools write `off` as `false`: both mean `none`.
            ("off", DeprecationMode::None),
            ("false", DeprecationMode::None),
        ]),
    );
    let deprecation = DeprecationConfig {
        mode,
        deprecated_at: section.read_optional("deprecated_at", parse_timestamp),
        sunset_at: section.read_optional("sunset_at", parse_timestamp),
        successor: section.read_optional("successor", parse_successor),
        link: section.read_optional("link", parse_link),
        permanent_redirect: section.read_or_default("permanent", false, parse_bool),
    };
    check_deprecation(&section, &deprecation, path);
    deprecation
}

fn check_deprecation(
    section: &ConfigSection<'_>,
    deprecation: &DeprecationConfig,
    path: Option<&str>,
) {
    let DeprecationConfig { mode, deprecated_at, sunset_at, successor, .. } = deprecation;
    if let (Some(since), Some(until)) = (deprecated_at, sunset_at)
        && until < since
    {
        section.add_problem(
            "sunset_at",
            format!("is before deprecated_at, {since}"),
            "write a later time",
        );
    }
    if *mode == DeprecationMode::Redirect && !section.has_key("successor") {
        let hint = "write the target of the redirect, such as `successor: /invoke/async`";
        section.add_problem("successor", "is missing, which `mode: redirect` needs", hint);
    }
    if *mode == DeprecationMode::Redirect && successor.is_some() && successor.as_deref() == path {
        section.add_problem(
            "successor",
            "is the route's own path: a redirect would never end",
            "write another path",
        );
    }
    if *mode == DeprecationMode::Announce && deprecated_at.is_none() && sunset_at.is_none() {
        let hint = "write `deprecated_at` and `sunset_at`";
        let message = "announces neither the deprecation date nor the sunset date";
        section.add_warning("mode", message, hint);
    }
}

/// Segments of a path, as in [`crate::config::PathPattern`].
type PatternSegments = Vec<Option<String>>;

/// The paths of the routes so far, each with the name of its route.
#[derive(Default)]
struct RoutePathRegistry {
    by_path_and_method: HashMap<(PatternSegments, Method), String>,
    route_paths: HashMap<PatternSegments, String>,
    task_paths: HashMap<PatternSegments, String>,
}

impl RoutePathRegistry {
    /// Reports a route with the path and method of an earlier one, and a route whose path is the
    /// `/async` path of an earlier one or the other way round; then adds the route.
    fn register_route(&mut self, route: &RouteConfig, section: &ConfigSection<'_>) {
        let path = &route.path.segments;
        let mut tasks: PatternSegments =
            path.iter().filter(|segment| segment.as_deref() != Some("")).cloned().collect();
        tasks.push(Some("async".into()));
        for method in &route.methods {
            if let Some(other) = self.by_path_and_method.get(&(path.clone(), method.clone())) {
                let message = format!(
                    "{method} {} is already answered by `{other}`",
                    quote_for_message(&route.path.source_text)
                );
                section.add_problem(
                    "path",
                    message,
                    "write another path, or delete one of the routes",
                );
            }
        }
        if let Some(other) = self.task_paths.get(path) {
            section.add_problem(
                "path",
                format!("is where `{other}` takes tasks"),
                "write another path",
            );
        }
        if let Some(other) = self.route_paths.get(&tasks) {
            section.add_problem(
                "path",
                format!("would take tasks on the path of `{other}`"),
                "write another path",
            );
        }
        let entry = |method: &Method| ((path.clone(), method.clone()), route.name.clone());
        self.by_path_and_method.extend(route.methods.iter().map(entry));
        self.route_paths.insert(path.clone(), route.name.clone());
        self.task_paths.insert(tasks, route.name.clone());
    }
}
