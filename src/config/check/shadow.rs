//! Checks shadow traffic against the methods and the topic of its route.
//!
//! A copy runs a request a second time. So the operator must allow side effects for methods that
//! may have some, and the handler of the copies must not be the upstream itself.

use crate::config::check::position::problem_at_path;
use crate::config::diagnostics::ConfigDiagnostics;
use crate::config::yaml::YamlNode;
use crate::config::{Config, HandlerConfig, RouteConfig, ShadowConfig};

/// Adds a problem for each route whose shadow traffic its topic or methods make impossible.
pub(crate) fn check_shadow_routes(
    config: &Config,
    root: &YamlNode,
    report: &mut ConfigDiagnostics,
) {
    for route in &config.routes {
        if let Some(shadow) = &route.rollout.shadow {
            let refused = refuse_shadow_by_topic(config, route)
                .or_else(|| refuse_shadow_by_methods(route, shadow));
            let path = ["routes", &route.name, "rollout", "shadow", "percent"];
            report
                .problems
                .extend(refused.map(|(message, hint)| problem_at_path(root, &path, message, hint)));
        }
    }
}

/// A message and a hint.
type ShadowRefusal = (String, &'static str);

fn refuse_shadow_by_topic(config: &Config, route: &RouteConfig) -> Option<ShadowRefusal> {
    let topic = config.topics.get(&route.topic)?;
    (topic.handler == HandlerConfig::Upstream).then(|| {
        let message = format!(
            "copies to `{}`, whose handler is the upstream: it would run them twice",
            route.topic
        );
        (message, "give the topic another handler, or write `percent: 0`")
    })
}

fn refuse_shadow_by_methods(route: &RouteConfig, shadow: &ShadowConfig) -> Option<ShadowRefusal> {
    if !route.methods.contains(&http::Method::POST) {
        return Some((
            "copies POST alone, and `methods` has none".into(),
            "add POST to it, or write `percent: 0`",
        ));
    }
    let unsafe_method = route.methods.iter().find(|method| !method.is_safe())?;
    (!shadow.side_effects_allowed).then(|| {
        let message = format!(
            "runs a copy of {unsafe_method} requests, so that their side effects may happen twice"
        );
        (
            message,
            "write `side_effects: allowed` where its handler changes nothing for a copy, or \
            `percent: 0`",
        )
    })
}
