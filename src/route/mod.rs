//! Pure routing: which route a request is for, whether it may go async, what its body means.
//!
//! No sockets, no clocks: the data plane asks, and acts on the answer. `path.rs` makes the one
//! canonical form that is matched *and* forwarded, `message.rs` says which fields end here and
//! which framing is beyond doubt, `envelope.rs` reads bodies, `order.rs` makes tasks of them,
//! `split.rs` assigns cohorts, `compare.rs` holds answers against each other.

mod compare;
mod envelope;
mod message;
mod order;
mod path;
mod prefer;
mod progress;
mod split;
mod wait;

use http::Method;

pub use self::compare::{ResponseDifference, compare_responses};
pub use self::envelope::{BodyError, ParsedBody, parse_body};
pub use self::message::{
    PROTECTED_HEADERS, find_framing_defect, is_only_chunked, is_own_header, strip_hop_by_hop,
};
pub use self::order::{
    TaskRequestError, WebhookTarget, WebhookUrlError, build_task, parse_webhook_target,
};
pub use self::path::{PathError, canonicalize_path};
pub use self::prefer::ClientPreferences;
pub use self::progress::parse_progress;
pub use self::split::{
    Assigned, CohortAssignment, assign_cohort, check_capturable, find_sticky_key, is_json_request,
    is_pinned_sync,
};
pub use self::wait::{WaitParamError, parse_wait_param};
use crate::config::{Config, PathPattern, RouteConfig};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget<'a> {
    /// The legacy call of the route with this index.
    Invoke(usize),
    /// `POST <path>/async` of the route with this index.
    InvokeAsync(usize),
    /// `/task/<id>`, with the id as it was written.
    Task(&'a str),
    /// The metrics page, where it is exposed.
    Metrics,
    /// Anything else: the upstream's.
    Other,
}

/// The routes of one configuration, ready to be matched.
#[derive(Clone, Debug)]
pub struct RouteTable {
    routes: Vec<(PathPattern, Vec<Method>)>,
    task_prefix: String,
    exposes_metrics: bool,
}

/// What is put behind a route's path to submit a task.
const ASYNC_SUFFIX: &str = "/async";

// === impl Table ===

impl RouteTable {
    /// The table of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let entry = |route: &RouteConfig| (route.path.clone(), route.methods.clone());
        Self {
            routes: config.routes.iter().map(entry).collect(),
            task_prefix: format!("{}/", config.proxy.task_path),
            exposes_metrics: config.proxy.expose_metrics,
        }
    }

    /// What a canonical path is for. OPTIONS and HEAD always are the upstream's, but on the own
    /// paths.
    #[must_use]
    pub fn match_request<'a>(&self, method: &Method, path: &'a str) -> RouteTarget<'a> {
        if let Some(id) = path.strip_prefix(&self.task_prefix) {
            return RouteTarget::Task(id);
        }
        if self.exposes_metrics && path == "/metrics" {
            return RouteTarget::Metrics;
        }
        for (index, (pattern, methods)) in self.routes.iter().enumerate() {
            if pattern.matches(path) && methods.contains(method) {
                return RouteTarget::Invoke(index);
            }
            // A pattern that ends in a slash has its tasks submitted under the same name as one
            // without.
            let base = path.strip_suffix(ASYNC_SUFFIX);
            if base
                .is_some_and(|base| pattern.matches(base) || pattern.matches(&format!("{base}/")))
            {
                return RouteTarget::InvokeAsync(index);
            }
        }
        RouteTarget::Other
    }
}

// === impl PathPattern ===

impl PathPattern {
    /// Whether a canonical path is of this pattern. A `{named}` segment matches any one that is not
    /// empty.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut given = rest.split('/');
        let all = self.segments.iter().all(|segment| {
            given.next().is_some_and(|text| {
                segment.as_ref().map_or(!text.is_empty(), |literal| literal == text)
            })
        });
        all && given.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_route_table(paths: &[&str]) -> RouteTable {
        let pattern = |text: &&str| {
            let segment = |s: &str| (!s.starts_with('{')).then(|| s.to_owned());
            PathPattern {
                source_text: (*text).to_owned(),
                segments: text[1..].split('/').map(segment).collect(),
            }
        };
        RouteTable {
            routes: paths.iter().map(|text| (pattern(text), vec![Method::POST])).collect(),
            task_prefix: "/task/".into(),
            exposes_metrics: false,
        }
    }

    #[test]
    fn requests_find_their_route_and_the_rest_is_the_upstreams() {
        let table = test_route_table(&["/invoke", "/agents/{agent}/invoke"]);
        let find = |method: &Method, path| format!("{:?}", table.match_request(method, path));
        assert_eq!(find(&Method::POST, "/invoke"), "Invoke(0)");
        assert_eq!(find(&Method::POST, "/agents/qa/invoke"), "Invoke(1)");
        assert_eq!(find(&Method::POST, "/agents/qa/invoke/async"), "InvokeAsync(1)");
        assert_eq!(find(&Method::GET, "/task/task_1"), "Task(\"task_1\")");
        for (method, path) in [
            (&Method::GET, "/invoke"),
            (&Method::OPTIONS, "/invoke"),
            (&Method::HEAD, "/invoke"),
            (&Method::POST, "/invoke/"),
            (&Method::POST, "/agents//invoke"),
            (&Method::POST, "/invokes"),
            (&Method::GET, "/metrics"),
            (&Method::GET, "/task"),
        ] {
            assert_eq!(find(method, path), "Other", "{method} {path}");
        }
    }
}
