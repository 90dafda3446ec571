//! Checks that concern more than one section of a parsed configuration.
//!
//! Each check compares values of different sections, such as the ports of `proxy` and `admin`, and
//! adds a problem or a warning with the position of the key and a hint what to write.

pub(crate) mod position;
pub(crate) mod rollout_plan;
pub(crate) mod self_upstream;
mod shadow;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::check::position::{find_origin, problem_at_path};
use crate::config::check::self_upstream::self_upstream_problem;
use crate::config::diagnostics::ConfigDiagnostics;
use crate::config::yaml::YamlNode;
use crate::config::{Config, HandlerConfig, StoreUrl, UpstreamUrl};

/// The path at which the data port serves metrics with `proxy.expose: [metrics]`.
const METRICS_PATH: &str = "/metrics";

/// Adds to `report` the settings that contradict each other.
pub(crate) fn check_config(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    check_listeners(config, root, report);
    check_upstream(config, root, report);
    check_store(config, root, report);
    check_reserved_paths(config, root, report);
    check_external_topics(config, root, report);
    check_drain_times(config, root, report);
    rollout_plan::check_rollout_plans(config, root, report);
    shadow::check_shadow_routes(config, root, report);
}

fn check_listeners(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    let (proxy, admin) = (config.proxy.listen, config.admin.listen);
    let path = ["admin", "listen"];
    if !admin.ip().to_canonical().is_loopback() && config.admin.token.is_none() {
        let hint = "set `admin.token` (or OMNIDAEMON_ADMIN_TOKEN), or listen on 127.0.0.1";
        report.problems.push(problem_at_path(
            root,
            &path,
            format!("{admin} is not loopback, and there is no token"),
            hint,
        ));
    }
    if config.admin.read_token.is_some()
        && config
            .admin
            .token
            .as_ref()
            .is_none_or(|token| Some(token) == config.admin.read_token.as_ref())
    {
        let message = "allows less than `admin.token`, but `admin.token` is absent or the same";
        report.problems.push(problem_at_path(
            root,
            &["admin", "read_token"],
            message,
            "set another `admin.token`, or delete it",
        ));
    }
    let same_ip =
        proxy.ip() == admin.ip() || proxy.ip().is_unspecified() || admin.ip().is_unspecified();
    if same_ip && proxy.port() == admin.port() && admin.port() != 0 {
        let message = format!("{admin} is also taken by proxy.listen, {proxy}");
        report.problems.push(problem_at_path(root, &path, message, "write another port"));
    }
}

fn check_upstream(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    let key = if root.find_path(&["upstream", "urls"]).is_some() { "urls" } else { "url" };
    for url in &config.upstream.urls {
        for (listen, name) in
            [(config.proxy.listen, "the proxy itself"), (config.admin.listen, "the admin port")]
        {
            if url_reaches_listener(url, listen) {
                let path = ["upstream", key];
                report.problems.push(
                    self_upstream_problem(url, listen, name)
                        .with_field(path.join("."))
                        .with_origin(find_origin(root, &path)),
                );
            }
        }
    }
}

fn check_store(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    if config.store.partitions > 1 && !matches!(config.store.url, StoreUrl::Cluster(_)) {
        let hint =
            "write `partitions: 1`, or the URL of a cluster, `redis+cluster://a:6379,b:6379`";
        report.problems.push(problem_at_path(
            root,
            &["store", "partitions"],
            "only a Redis Cluster has several",
            hint,
        ));
    }
}

/// Whether a request to `url` would arrive at `listen`.
fn url_reaches_listener(url: &UpstreamUrl, listen: SocketAddr) -> bool {
    if url.port != listen.port() {
        return false;
    }
    let own = listen.ip().to_canonical();
    let here = own.is_loopback() || own.is_unspecified();
    match url.host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip == own => true,
        Ok(ip) if own.is_unspecified() => ip.is_loopback() || ip.is_unspecified(),
        Ok(ip) => ip.is_unspecified() && here,
        Err(_) => here && url.host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

/// Refuses routes at paths that the proxy serves itself: tasks and metrics.
fn check_reserved_paths(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    let exposed = config.proxy.expose_metrics;
    if exposed && config.proxy.task_path == METRICS_PATH {
        let message = "is where metrics are served";
        report.problems.push(problem_at_path(
            root,
            &["proxy", "task_path"],
            message,
            "write another path, such as `/task`",
        ));
    }
    let tasks: Vec<&str> = config.proxy.task_path.split('/').skip(1).collect();
    for route in &config.routes {
        let path = ["routes", &route.name, "path"];
        let segments = &route.path.segments;
        let below_tasks = segments.len() >= tasks.len()
            && segments.iter().zip(&tasks).all(|(segment, task)| segment.as_deref() == Some(*task));
        if below_tasks {
            let message = format!("is below {}, where tasks are read", config.proxy.task_path);
            report.problems.push(problem_at_path(
                root,
                &path,
                message,
                "write another path, or another `proxy.task_path`",
            ));
        }
        if exposed && route.path.source_text == METRICS_PATH {
            let hint = "write another path, or `proxy.expose: []`";
            report.problems.push(problem_at_path(root, &path, "is where metrics are served", hint));
        }
    }
}

/// Warns of external handlers on a SQLite store, which other programs cannot consume from.
fn check_external_topics(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    if !matches!(config.store.url, StoreUrl::Sqlite(_)) {
        return;
    }
    for (topic, _) in
        config.topics.iter().filter(|(_, topic)| topic.handler == HandlerConfig::External)
    {
        let message =
            "is left to other consumers, which a SQLite store does not have: its tasks stay queued";
        let warning = problem_at_path(
            root,
            &["topics", topic.as_str(), "handler"],
            message,
            "set REDIS_URL or `store.url`",
        );
        report.warnings.push(warning);
    }
}

/// The time in which a drain interrupts attempts and gives their tasks back to the store.
const RELEASE_TIME: Duration = Duration::from_secs(4);

fn check_drain_times(config: &Config, root: &YamlNode, report: &mut ConfigDiagnostics) {
    let needed = config.workers.drain_timeout + RELEASE_TIME;
    if needed > config.proxy.drain_timeout {
        let message = format!(
            "is shorter than workers.drain and the {} in which tasks are given back, {}",
            humantime::format_duration(RELEASE_TIME),
            humantime::format_duration(needed)
        );
        report.warnings.push(problem_at_path(
            root,
            &["proxy", "drain"],
            message,
            "raise it, or tasks are released before their drain time is over",
        ));
    }
}
