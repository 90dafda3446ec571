//! `GET config`: the configuration in force, without its secrets.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::AdminServices;
use super::rollout_view::render_plan;
use crate::config::{Config, HandlerConfig, RouteConfig, TopicConfig, UpstreamUrl};
use crate::task::Topic;

pub(super) async fn get_config(State(parts): State<AdminServices>) -> Json<Value> {
    let snapshot = parts.snapshots.load();
    let mut view = render_config(&snapshot.config);
    view["file"] = parts.config_file.as_deref().into();
    view["generation"] = snapshot.generation.into();
    Json(view)
}

fn render_config(config: &Config) -> Value {
    let urls = |urls: &[UpstreamUrl]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "proxy": {
            "listen": config.proxy.listen,
            "max_body": config.proxy.max_body_bytes,
            "task_path": config.proxy.task_path,
            "drain_seconds": config.proxy.drain_timeout.as_secs_f64(),
        },
        "admin": {"listen": config.admin.listen, "token": config.admin.token.is_some(),
                  "read_token": config.admin.read_token.is_some(), "hosts": config.admin.allowed_hosts},
        "upstream": {"urls": urls(&config.upstream.urls)},
        "store": {"url": config.store.url.to_string(), "timeout_seconds": config.store.timeout.as_secs_f64()},
        "routes": config.routes.iter().map(render_route_config).collect::<Vec<_>>(),
        "topics": config.topics.iter().map(render_topic_config).collect::<Vec<_>>(),
        "workers": {"count": config.workers.count, "concurrency": config.workers.concurrency},
        "results": {"ttl_seconds": config.results.ttl.as_secs_f64(), "max_result": config.results.max_result_bytes},
    })
}

fn render_route_config(route: &RouteConfig) -> Value {
    json!({
        "route": route.name,
        "path": route.path.source_text,
        "methods": route.methods.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "topic": route.topic.as_str(),
        "wait_seconds": route.client_wait.as_secs_f64(),
        "rollout": render_plan(&route.rollout),
        "prometheus": route.rollout.prometheus.as_ref().map(|prometheus| prometheus.url.masked_url()),
        "deprecation": {"mode": route.deprecation.mode.as_str(), "successor": route.deprecation.successor},
    })
}

fn render_topic_config((topic, config): (&Topic, &TopicConfig)) -> Value {
    json!({
        "topic": topic.as_str(),
        "handler": describe_handler(&config.handler),
        "timeout_seconds": config.timeout.as_secs_f64(),
        "retries": config.retries,
        "max_backlog": config.max_backlog,
    })
}

/// Without arguments and queries: there may be keys among them.
fn describe_handler(handler: &HandlerConfig) -> String {
    match handler {
        HandlerConfig::Upstream => "upstream".to_owned(),
        HandlerConfig::Http(url) => {
            format!("http {}", url.split(['?', '#']).next().unwrap_or_default())
        }
        HandlerConfig::Command(words) => {
            format!("command {}", words.first().map_or("", String::as_str))
        }
        HandlerConfig::External => "external".to_owned(),
    }
}
