//! Selects the handler of a topic: a registered one of the library, else the configured one, which
//! is built for each attempt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Handler;
use super::command::CommandHandler;
use super::http::HttpHandler;
use super::http_client::HandlerClientCache;
use super::upstream::{DefaultPath, UpstreamHandler};
use crate::config::{Config, HandlerConfig, PathPattern, UpstreamUrl};
use crate::task::{FailureKind, TaskFailure, Topic};
use crate::worker::program_guard::GuardCommand;

/// The largest answer of an upstream that is read, bytes, unless `results.max_result` is larger. An
/// answer that is too large to be stored still goes to the client that waits for it.
const MAX_UPSTREAM_ANSWER: usize = 64 << 20;

/// The handlers of a process; cheap to clone.
#[derive(Clone, Default)]
pub struct HandlerRegistry {
    library_handlers: BTreeMap<Topic, Arc<dyn Handler>>,
    program_guard: Option<GuardCommand>,
    client_cache: Arc<HandlerClientCache>,
    next_server: Arc<AtomicUsize>,
}

// === impl HandlerRegistry ===

impl HandlerRegistry {
    /// A registry of the configured handlers alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `handler` run the tasks of `topic`, in place of the configured handler.
    #[must_use]
    pub fn with_handler(mut self, topic: Topic, handler: impl Handler + 'static) -> Self {
        self.library_handlers.insert(topic, Arc::new(handler));
        self
    }

    /// Starts the programs of `command` handlers under a guard, so that they end with this process.
    #[must_use]
    pub fn with_program_guard(mut self, guard: GuardCommand) -> Self {
        self.program_guard = Some(guard);
        self
    }

    /// Whether this process runs the tasks of `topic`, whose configured handler is `handler`.
    pub(in crate::worker) fn runs_topic(&self, topic: &Topic, handler: &HandlerConfig) -> bool {
        self.library_handlers.contains_key(topic) || *handler != HandlerConfig::External
    }

    /// Builds the handler of one attempt of a task of `topic`.
    pub(in crate::worker) fn build_handler(
        &self,
        topic: &Topic,
        config: &Config,
    ) -> Result<Arc<dyn Handler>, TaskFailure> {
        if let Some(own) = self.library_handlers.get(topic) {
            return Ok(Arc::clone(own));
        }
        let max_result = config.results.max_result_bytes;
        let unhandled = |message| Err(TaskFailure::new(FailureKind::Unreachable, message));
        Ok(match config.topics.get(topic).map(|topic| &topic.handler) {
            Some(HandlerConfig::Upstream) => Arc::new(UpstreamHandler {
                client: self.client_cache.get(config.upstream.connect_timeout),
                urls: self.rotate_servers(&config.upstream.urls),
                first_byte_timeout: config.upstream.timeout,
                max_answer: max_result.max(MAX_UPSTREAM_ANSWER),
                default_path: find_default_path(topic, config),
            }),
            Some(HandlerConfig::Http(url)) => Arc::new(HttpHandler {
                client: self.client_cache.get(config.upstream.connect_timeout),
                url: match url.parse() {
                    Ok(url) => url,
                    Err(error) => {
                        return unhandled(format!(
                            "topics.{topic}.handler.http is not a URL: {error}"
                        ));
                    }
                },
                max_result,
            }),
            Some(HandlerConfig::Command(line)) => Arc::new(CommandHandler {
                command_line: line.clone(),
                guard: self.program_guard.clone(),
                max_result,
            }),
            Some(HandlerConfig::External) | None => {
                return unhandled(format!(
                    "no handler runs {topic} here: add one under topics.{topic}.handler"
                ));
            }
        })
    }

    /// The servers, rotated so that each call starts with the next one.
    fn rotate_servers(&self, urls: &[UpstreamUrl]) -> Vec<UpstreamUrl> {
        let mut urls = urls.to_vec();
        let first = self.next_server.fetch_add(1, Ordering::Relaxed) % urls.len().max(1);
        urls.rotate_left(first);
        urls
    }
}

/// The path of the first route of `topic`, or `/` without a route.
fn find_default_path(topic: &Topic, config: &Config) -> DefaultPath {
    let is_single = |path: &PathPattern| path.segments.iter().all(Option::is_some);
    match config.routes.iter().find(|route| route.topic == *topic) {
        None => DefaultPath::Single("/".into()),
        Some(route) if is_single(&route.path) => {
            DefaultPath::Single(route.path.source_text.clone())
        }
        Some(route) => DefaultPath::Pattern(route.path.source_text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::{
        self, EchoHandler, RecordingServer, test_attempt, test_task, test_topic,
    };
    use axum::response::IntoResponse;

    fn local_url(port: u16) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port }
    }

    #[tokio::test]
    async fn a_librarys_handler_takes_precedence_and_an_external_topic_has_none() {
        let config = testing::test_config(&[
            ("own", HandlerConfig::External),
            ("other", HandlerConfig::External),
        ]);
        let handlers = HandlerRegistry::new().with_handler(test_topic("own"), EchoHandler);
        let handler = handlers.build_handler(&test_topic("own"), &config).expect("registered");
        let answer =
            handler.handle(&test_attempt(test_task(1, "own", "[1]"))).await.expect("completed");
        assert_eq!(answer.body, "[1]");
        let failure = handlers.build_handler(&test_topic("other"), &config).err().expect("none");
        assert!(failure.message.contains("topics.other.handler"), "{}", failure.message);
    }

    #[tokio::test]
    async fn the_next_attempt_goes_to_the_next_server_and_by_the_new_configuration() {
        let reply = |_| async { "1".into_response() };
        let (one, two) = (RecordingServer::start(reply).await, RecordingServer::start(reply).await);
        let mut config = testing::test_config(&[("t", HandlerConfig::Upstream)]);
        config.upstream.urls = vec![one.url(), two.url()];
        let handlers = HandlerRegistry::new();
        let running = handlers.build_handler(&test_topic("t"), &config).expect("built");
        for _ in 0..3 {
            let handler = handlers.build_handler(&test_topic("t"), &config).expect("built");
            handler.handle(&test_attempt(test_task(1, "t", "{}"))).await.expect("completed");
        }
        assert_eq!((one.received_requests().len(), two.received_requests().len()), (1, 2));
        config.upstream.urls = vec![local_url(testing::closed_port())];
        let edited = handlers.build_handler(&test_topic("t"), &config).expect("built");
        edited
            .handle(&test_attempt(test_task(1, "t", "{}")))
            .await
            .expect_err("nothing listens on the new server");
        running
            .handle(&test_attempt(test_task(1, "t", "{}")))
            .await
            .expect("a running attempt keeps its own servers");
    }

    #[test]
    fn the_default_path_of_a_topic_is_that_of_its_first_route_or_the_root() {
        let mut config = testing::test_config(&[("t", HandlerConfig::Upstream)]);
        let topic = test_topic("t");
        assert_eq!(find_default_path(&topic, &config), DefaultPath::Single("/".into()));
        for (path, expected) in [
            ("/a/{b}", DefaultPath::Pattern("/a/{b}".into())),
            ("/invoke", DefaultPath::Single("/invoke".into())),
        ] {
            config.routes.insert(0, testing::test_route(path, "t"));
            assert_eq!(find_default_path(&topic, &config), expected);
        }
    }
}
