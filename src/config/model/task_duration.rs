//! The longest time that a task may take: all attempts that its topic allows, and the pauses
//! between them.

use std::time::Duration;

use crate::config::TopicConfig;
use crate::task::retry_backoff;

/// The time from a canaried request to the latest end of its task: the `timeout` of each attempt
/// and the pauses between them. There is one attempt, unless the route sets `retry_canaried`.
#[must_use]
pub fn max_task_duration(topic: &TopicConfig, retry_canaried: bool) -> Duration {
    let retries = if retry_canaried { topic.retries } else { 0 };
    (1..=retries).fold(topic.timeout, |sum, attempt| {
        sum.saturating_add(retry_backoff(attempt, topic.retry_delay)).saturating_add(topic.timeout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContentForm, GroupStartPosition, HandlerConfig};

    #[test]
    fn a_task_takes_all_attempts_and_the_pauses_between_them() {
        let topic = |timeout, retries, retry_delay| TopicConfig {
            handler: HandlerConfig::Upstream,
            timeout: Duration::from_secs(timeout),
            retries,
            retry_delay: Duration::from_secs(retry_delay),
            concurrency: 1,
            external_slots: 1,
            agent: String::new(),
            content_form: ContentForm::String,
            max_backlog: 1,
            reclaim_idle: Duration::ZERO,
            group_start: GroupStartPosition::NewEntries,
        };
        assert_eq!(max_task_duration(&topic(60, 3, 5), false).as_secs(), 60);
        assert_eq!(max_task_duration(&topic(60, 3, 5), true).as_secs(), 4 * 60 + 5 + 10 + 20);
        assert_eq!(max_task_duration(&topic(60, 2, 7200), true).as_secs(), 3 * 60 + 2 * 3600);
    }
}
