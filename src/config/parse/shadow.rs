//! `rollout.shadow`, and what it asks of its route and topic: a copy runs the request a second
//! time, so somebody has to have said that this does no harm, and it has to run elsewhere than the
//! request itself.

use crate::cohort::Weight;
use crate::config::check::position::problem_at_path;
use crate::config::diagnostics::{ConfigDiagnostics, quote_for_message};
use crate::config::parse::field_error::FieldError;
use crate::config::parse::scalars::{one_of_words, parse_percent, share_up_to};
use crate::config::parse::section::ConfigSection;
use crate::config::yaml::YamlNode;
use crate::config::{Config, HandlerConfig, RouteConfig, ShadowConfig};

/// Reads the section; none where nothing is to be copied.
pub(crate) fn parse_shadow(mut shadow: ConfigSection<'_>) -> Option<ShadowConfig> {
    let read = ShadowConfig {
        percent: shadow.read_or_default("percent", Weight::ZERO, parse_percent),
        side_effects_allowed: shadow.read_or_default(
            "side_effects",
            false,
            one_of_words(&[("refused", false), ("allowed", true)]),
        ),
        ignored_pointers: shadow.subsection("compare").read_list(
            "ignore",
            Vec::new(),
            parse_json_pointer,
        ),
        max_mismatch_ratio: shadow.read_or_default("max_mismatch", 0.01, share_up_to(1.0)),
    };
    (read.percent > Weight::ZERO).then_some(read)
}

/// A JSON pointer (RFC 6901) to a part of an answer.
fn parse_json_pointer(text: &str) -> Result<String, FieldError> {
    let hint = "write one such as `/timestamp` or `/items/0/id`, with `~1` for `/` and `~0` for \
        `~` within a key";
    let Some(inside) = text.strip_prefix('/') else {
        return Err(FieldError::new(
            format!("{} is no JSON pointer to a part of an answer", quote_for_message(text)),
            hint,
        ));
    };
    if inside.split('~').skip(1).any(|escaped| !escaped.starts_with(['0', '1'])) {
        return Err(FieldError::new(
            format!("{} has a `~` that is neither `~0` nor `~1`", quote_for_message(text)),
            hint,
        ));
    }
    Ok(text.to_owned())
}

/// Adds what its route and topic make impossible to `report`.
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
