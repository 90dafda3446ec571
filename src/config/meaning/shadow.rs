//! `rollout.shadow`, and what it asks of its route and topic: a copy runs the request a second time, so somebody has to
//! have said that this does no harm, and it has to run elsewhere than the request itself.

use super::checks::problem;
use super::section::Section;
use super::values::{Wrong, percent, share, word};
use crate::cohort::Weight;
use crate::config::problem::{Report, shown};
use crate::config::yaml::Node;
use crate::config::{Config, HandlerConfig, Route, Shadow};

/// Reads the section; none where nothing is to be copied.
pub(super) fn shadow(mut shadow: Section<'_>) -> Option<Shadow> {
    let read = Shadow {
        percent: shadow.read("percent", Weight::ZERO, percent),
        side_effects: shadow.read("side_effects", false, word(&[("refused", false), ("allowed", true)])),
        ignore: shadow.section("compare").list("ignore", Vec::new(), pointer),
        max_mismatch: shadow.read("max_mismatch", 0.01, share(1.0)),
    };
    (read.percent > Weight::ZERO).then_some(read)
}

/// A JSON pointer (RFC 6901) to a part of an answer.
fn pointer(text: &str) -> Result<String, Wrong> {
    let hint = "write one such as `/timestamp` or `/items/0/id`, with `~1` for `/` and `~0` for `~` within a key";
    let Some(inside) = text.strip_prefix('/') else {
        return Err(Wrong::new(format!("{} is no JSON pointer to a part of an answer", shown(text)), hint));
    };
    if inside.split('~').skip(1).any(|escaped| !escaped.starts_with(['0', '1'])) {
        return Err(Wrong::new(format!("{} has a `~` that is neither `~0` nor `~1`", shown(text)), hint));
    }
    Ok(text.to_owned())
}

/// Adds what its route and topic make impossible to `report`.
pub(super) fn check(config: &Config, root: &Node, report: &mut Report) {
    for route in &config.routes {
        if let Some(shadow) = &route.rollout.shadow {
            let refused = by_topic(config, route).or_else(|| by_methods(route, shadow));
            let path = ["routes", &route.name, "rollout", "shadow", "percent"];
            report.problems.extend(refused.map(|(message, hint)| problem(root, &path, message, hint)));
        }
    }
}

type Refused = (String, &'static str);

fn by_topic(config: &Config, route: &Route) -> Option<Refused> {
    let topic = config.topics.get(&route.topic)?;
    (topic.handler == HandlerConfig::Upstream).then(|| {
        let message = format!("copies to `{}`, whose handler is the upstream: it would run them twice", route.topic);
        (message, "give the topic another handler, or write `percent: 0`")
    })
}

fn by_methods(route: &Route, shadow: &Shadow) -> Option<Refused> {
    if !route.methods.contains(&http::Method::POST) {
        return Some(("copies POST alone, and `methods` has none".into(), "add POST to it, or write `percent: 0`"));
    }
    let unsafe_one = route.methods.iter().find(|method| !method.is_safe())?;
    (!shadow.side_effects).then(|| {
        let message = format!("runs a copy of {unsafe_one} requests, which may do what they do twice");
        (message, "write `side_effects: allowed` where its handler changes nothing for a copy, or `percent: 0`")
    })
}
