//! Builds a task from a parsed body under a configuration.
//!
//! The one place where the names in an envelope (topic, webhook, reply topic) are checked against
//! the configuration.

use super::envelope::ParsedBody;
use super::webhook_url::{WebhookUrlError, parse_webhook_target};
use crate::config::{Config, TopicConfig};
use crate::task::{Task, TaskId, Topic, UnixMs};

/// Why a parsed body is not a valid task under the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskRequestError {
    /// The body names no topic, and the request has no default topic.
    #[error("send {{\"topic\": …, \"payload\": …}} and nothing else")]
    NoTopic,
    /// The topic is not in the configuration.
    #[error("there is no topic {0} in the configuration")]
    UnknownTopic(Topic),
    /// The topic is not among those that the route lists.
    #[error("topic {0} cannot be named here: the route does not list it")]
    TopicOfOtherRoute(Topic),
    /// The reply topic is not in the configuration.
    #[error("reply_to: there is no topic {0} in the configuration")]
    UnknownReplyTopic(Topic),
    /// The webhook URL is not allowed.
    #[error("webhook: {0}")]
    Webhook(WebhookUrlError),
}

/// Builds the task of a parsed body for its topic, or for `default_topic` if it names none. The
/// topic's configuration sets the retries; owner, route and request are left for the caller to set.
pub fn build_task<'c>(
    parsed: ParsedBody,
    default_topic: Option<&Topic>,
    config: &'c Config,
    id: TaskId,
    now: UnixMs,
) -> Result<(Task, &'c TopicConfig), TaskRequestError> {
    let topic = parsed.topic.or_else(|| default_topic.cloned()).ok_or(TaskRequestError::NoTopic)?;
    let Some(topic_config) = config.topics.get(&topic) else {
        return Err(TaskRequestError::UnknownTopic(topic));
    };
    if let Some(reply) =
        parsed.reply_to.as_ref().filter(|reply| !config.topics.contains_key(*reply))
    {
        return Err(TaskRequestError::UnknownReplyTopic(reply.clone()));
    }
    if let Some(url) = &parsed.webhook {
        parse_webhook_target(url, &config.webhooks).map_err(TaskRequestError::Webhook)?;
    }
    let task = Task {
        correlation_id: parsed.correlation_id,
        retries: topic_config.retries,
        due: parsed.delay.map(|delay| now.plus(delay)),
        webhook: parsed.webhook,
        reply_to: parsed.reply_to,
        ..Task::new(id, topic, parsed.payload, now)
    };
    Ok((task, topic_config))
}
