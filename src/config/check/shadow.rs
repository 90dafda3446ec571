//! What shadow traffic asks of its route and topic: a copy runs a request a second time, so the
//! operator has to allow side effects, and the handler has to be another one than the upstream.

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
    let unsafe_one = route.methods.iter().find(|method| !method.is_safe())?;
    (!shadow.side_effects_allowed).then(|| {
        let message = format!(
            "runs a copy of {unsafe_one} requests, which may do what they do \
            twice"
        );
        (
            message,
            "write `side_effects: allowed` where its handler changes nothing for a copy, or \
            `percent: 0`",
        )
    })
}
