//! Which handler runs a topic: a library's own, else the configured one, built for each attempt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::Clients;
use super::command::Command;
use super::http::Http;
use super::upstream::Upstream;
use super::{Handler, LARGEST_ANSWER};
use crate::config::{Config, HandlerConfig, PathPattern, UpstreamUrl};
use crate::task::{Failure, FailureKind, Topic};

/// The handlers of a process; cheap to clone.
#[derive(Clone, Default)]
pub struct Handlers {
    own: BTreeMap<Topic, Arc<dyn Handler>>,
    clients: Arc<Clients>,
    turn: Arc<AtomicUsize>,
}

// === impl Handlers ===

impl Handlers {
    /// The configured handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` run `topic`, whatever the configuration says runs it.
    #[must_use]
    pub fn with(mut self, topic: Topic, handler: impl Handler + 'static) -> Self {
        self.own.insert(topic, Arc::new(handler));
        self
    }

    /// Whether this process runs the tasks of `topic`, which `config` names.
    pub(in crate::worker) fn runs(&self, topic: &Topic, handler: &HandlerConfig) -> bool {
        self.own.contains_key(topic) || *handler != HandlerConfig::External
    }

    /// The handler of one attempt.
    pub(in crate::worker) fn build(&self, topic: &Topic, config: &Config) -> Result<Arc<dyn Handler>, Failure> {
        if let Some(own) = self.own.get(topic) {
            return Ok(Arc::clone(own));
        }
        let max_result = config.results.max_result;
        let unhandled = |message| Err(Failure::new(FailureKind::Unreachable, message));
        Ok(match config.topics.get(topic).map(|topic| &topic.handler) {
            Some(HandlerConfig::Upstream) => Arc::new(Upstream {
                client: self.clients.get(config.upstream.connect_timeout),
                urls: self.in_turn(&config.upstream.urls),
                timeout: config.upstream.timeout,
                largest: max_result.max(LARGEST_ANSWER),
                path: path_of(topic, config),
            }),
            Some(HandlerConfig::Http(url)) => Arc::new(Http {
                client: self.clients.get(config.upstream.connect_timeout),
                url: match url.parse() {
                    Ok(url) => url,
                    Err(error) => return unhandled(format!("topics.{topic}.handler.http is no URL: {error}")),
                },
                max_result,
            }),
            Some(HandlerConfig::Command(line)) => Arc::new(Command { line: line.clone(), max_result }),
            Some(HandlerConfig::External) | None => {
                return unhandled(format!("no handler runs {topic} here: add one under topics.{topic}.handler"));
            }
        })
    }

    /// The servers, another one first each time.
    fn in_turn(&self, urls: &[UpstreamUrl]) -> Vec<UpstreamUrl> {
        let mut urls = urls.to_vec();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % urls.len().max(1);
        urls.rotate_left(first);
        urls
    }
}

/// The path of the first route of `topic`, `/` without one; else its pattern, where that names no single path.
fn path_of(topic: &Topic, config: &Config) -> Result<String, String> {
    let single = |path: &PathPattern| path.segments.iter().all(Option::is_some);
    match config.routes.iter().find(|route| route.topic == *topic) {
        None => Ok("/".into()),
        Some(route) if single(&route.path) => Ok(route.path.text.clone()),
        Some(route) => Err(route.path.text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::{self, Echo, Server, attempt, task, topic};
    use axum::response::IntoResponse;

    fn at(port: u16) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port }
    }

    #[tokio::test]
    async fn a_librarys_handler_takes_precedence_and_an_external_topic_has_none() {
        let config = testing::config(&[("own", HandlerConfig::External), ("other", HandlerConfig::External)]);
        let handlers = Handlers::new().with(topic("own"), Echo);
        let handler = handlers.build(&topic("own"), &config).expect("registered");
        let answer = handler.handle(&attempt(task(1, "own", "[1]"))).await.expect("completed");
        assert_eq!(answer.body, "[1]");
        let failure = handlers.build(&topic("other"), &config).err().expect("none");
        assert!(failure.message.contains("topics.other.handler"), "{}", failure.message);
    }

    #[tokio::test]
    async fn the_next_attempt_goes_to_the_next_server_and_by_the_new_configuration() {
        let reply = |_| async { "1".into_response() };
        let (one, two) = (Server::start(reply).await, Server::start(reply).await);
        let mut config = testing::config(&[("t", HandlerConfig::Upstream)]);
        config.upstream.urls = vec![one.url(), two.url()];
        let handlers = Handlers::new();
        let running = handlers.build(&topic("t"), &config).expect("built");
        for _ in 0..3 {
            let handler = handlers.build(&topic("t"), &config).expect("built");
            handler.handle(&attempt(task(1, "t", "{}"))).await.expect("completed");
        }
        assert_eq!((one.seen().len(), two.seen().len()), (1, 2));
        config.upstream.urls = vec![at(testing::closed_port())];
        let edited = handlers.build(&topic("t"), &config).expect("built");
        edited.handle(&attempt(task(1, "t", "{}"))).await.expect_err("the new server is not there");
        running.handle(&attempt(task(1, "t", "{}"))).await.expect("a running attempt keeps its own");
    }

    #[test]
    fn a_topics_path_is_its_first_routes_or_the_root() {
        let mut config = testing::config(&[("t", HandlerConfig::Upstream)]);
        assert_eq!(path_of(&topic("t"), &config), Ok("/".into()));
        for (path, expected) in [("/a/{b}", Err("/a/{b}")), ("/invoke", Ok("/invoke"))] {
            config.routes.insert(0, testing::route(path, "t"));
            assert_eq!(path_of(&topic("t"), &config), expected.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
