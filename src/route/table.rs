//! The routing table: which route, task or page a canonical path addresses.

use http::Method;

use crate::config::{Config, PathPattern, RouteConfig};

/// What a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget<'a> {
    /// The legacy call of the route with this index.
    Invoke(usize),
    /// `POST <path>/async` of the route with this index.
    InvokeAsync(usize),
    /// `/task/<id>`, with the id as written in the path.
    Task(&'a str),
    /// The metrics page, if the proxy exposes it.
    Metrics,
    /// Any other path, which the upstream serves.
    Other,
}

/// The routes of one configuration, prepared for matching.
#[derive(Clone, Debug)]
pub struct RouteTable {
    routes: Vec<(PathPattern, Vec<Method>)>,
    task_prefix: String,
    exposes_metrics: bool,
}

/// The suffix of a route's path under which tasks are submitted.
const ASYNC_SUFFIX: &str = "/async";

// === impl RouteTable ===

impl RouteTable {
    /// The table of the routes of `config`, indexed in their order.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let entry = |route: &RouteConfig| (route.path.clone(), route.methods.clone());
        Self {
            routes: config.routes.iter().map(entry).collect(),
            task_prefix: format!("{}/", config.proxy.task_path),
            exposes_metrics: config.proxy.expose_metrics,
        }
    }

    /// What a request with this method and canonical path addresses. A route matches only its
    /// configured methods; task and metrics paths match any method.
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
            // Tasks of a pattern that ends in a slash are submitted to the same path as those of
            // the pattern without it.
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
    /// Whether a canonical path matches this pattern. A `{named}` segment matches any one segment
    /// that is not empty.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut texts = rest.split('/');
        let all_match = self.segments.iter().all(|segment| {
            texts.next().is_some_and(|text| {
                segment.as_ref().map_or(!text.is_empty(), |literal| literal == text)
            })
        });
        all_match && texts.next().is_none()
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
