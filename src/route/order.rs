//! From a body that was read to a task under a configuration: the one place where a task is made of
//! an envelope, and where what it names (topic, webhook, topic of the reply) is found or refused.

use http::Uri;

use super::ParsedBody;
use crate::config::{Config, TopicConfig, WebhooksConfig};
use crate::task::{Task, TaskId, Topic, UnixMs};

/// The longest URL that is called.
const LONGEST_URL: usize = 2048;

/// Why a body that was read is no task here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskRequestError {
    /// It names no topic, and there is none for it.
    #[error("send {{\"topic\": …, \"payload\": …}} and nothing else")]
    NoTopic,
    /// The topic is not in the configuration.
    #[error("there is no topic {0} in the configuration")]
    UnknownTopic(Topic),
    /// The topic of the reply is not in the configuration.
    #[error("reply_to: there is no topic {0} in the configuration")]
    UnknownReplyTopic(Topic),
    /// The webhook cannot be called.
    #[error("webhook: {0}")]
    Webhook(WebhookUrlError),
}

/// Why a URL is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    /// Not a URL, or not one of HTTP.
    #[error("write an http or https URL of at most {LONGEST_URL} characters, without user info")]
    NotUrl,
    /// Its host is not listed.
    #[error("the host {0} is not listed: add it to webhooks.hosts")]
    Unlisted(String),
}

/// A URL that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookTarget {
    /// The URL.
    pub uri: Uri,
    /// Whether it is `https`.
    pub tls: bool,
    /// Its host in lower case, IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it may lead into a private network.
    pub allows_private: bool,
}

/// Makes a task of what was read, for its topic or `fallback`. It is retried as its topic says, and
/// nothing else is known of it.
pub fn build_task<'c>(
    parsed: ParsedBody,
    fallback: Option<&Topic>,
    config: &'c Config,
    id: TaskId,
    now: UnixMs,
) -> Result<(Task, &'c TopicConfig), TaskRequestError> {
    let topic = parsed.topic.or_else(|| fallback.cloned()).ok_or(TaskRequestError::NoTopic)?;
    let Some(known) = config.topics.get(&topic) else {
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
        retries: known.retries,
        due: parsed.delay.map(|delay| now.plus(delay)),
        webhook: parsed.webhook,
        reply_to: parsed.reply_to,
        ..Task::new(id, topic, parsed.payload, now)
    };
    Ok((task, known))
}

/// The sink of a webhook's URL, if its host is listed.
pub fn parse_webhook_target(
    url: &str,
    webhooks: &WebhooksConfig,
) -> Result<WebhookTarget, WebhookUrlError> {
    let uri: Uri = url.parse().map_err(|_| WebhookUrlError::NotUrl)?;
    let authority = uri.authority().ok_or(WebhookUrlError::NotUrl)?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(WebhookUrlError::NotUrl),
    };
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let usual = if tls { 443 } else { 80 };
    // A port that cannot be read is none to the parser, but it is there.
    let port_is_read =
        authority.port_u16().is_some() || authority.as_str().ends_with(authority.host());
    if url.len() > LONGEST_URL
        || host.is_empty()
        || authority.as_str().contains('@')
        || !port_is_read
    {
        return Err(WebhookUrlError::NotUrl);
    }
    let port = authority.port_u16().unwrap_or(usual);
    let listed = webhooks
        .allowed_hosts
        .iter()
        .find(|entry| entry.host == host && entry.port.unwrap_or(usual) == port);
    let Some(entry) = listed else {
        return Err(WebhookUrlError::Unlisted(authority.as_str().to_owned()));
    };
    let private = entry.allow_private;
    Ok(WebhookTarget { uri, tls, host, port, allows_private: private })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AllowedWebhookHost;

    fn test_webhooks() -> WebhooksConfig {
        let entry = |host: &str, port, private| AllowedWebhookHost {
            host: host.into(),
            port,
            allow_private: private,
        };
        let hosts = vec![
            entry("hooks.example.com", None, false),
            entry("::1", Some(8080), true),
            entry("a.example", Some(80), false),
        ];
        WebhooksConfig { allowed_hosts: hosts, ..WebhooksConfig::default() }
    }

    #[test]
    fn a_listed_host_is_called_on_its_port_alone() {
        let webhooks = test_webhooks();
        let to = |url| {
            parse_webhook_target(url, &webhooks)
                .map(|sink| (sink.tls, sink.host, sink.port, sink.allows_private))
        };
        assert_eq!(
            to("https://Hooks.Example.com/x?y=1"),
            Ok((true, "hooks.example.com".into(), 443, false))
        );
        assert_eq!(
            to("http://hooks.example.com"),
            Ok((false, "hooks.example.com".into(), 80, false))
        );
        assert_eq!(to("http://[::1]:8080/x"), Ok((false, "::1".into(), 8080, true)));
        for unlisted in [
            "https://hooks.example.com:444/",
            "https://evil.example/?hooks.example.com",
            "http://hooks.example.com.evil/",
            "https://a.example/",
            "http://127.1/",
            "http://169.254.169.254/latest",
            "http://hooks.example.com./",
        ] {
            assert!(matches!(to(unlisted), Err(WebhookUrlError::Unlisted(_))), "{unlisted}");
        }
        let long = format!("https://hooks.example.com/{}", "x".repeat(LONGEST_URL));
        for bad in [
            "",
            "/x",
            "hooks.example.com",
            "ftp://hooks.example.com",
            "file:///etc/passwd",
            "http://",
            "http://u:p@hooks.example.com",
            "http://evil@hooks.example.com/",
            "http://hooks.example.com:99999/",
            "http://hooks.example.com/\r\nx: y",
            &long,
        ] {
            assert_eq!(to(bad), Err(WebhookUrlError::NotUrl), "{bad}");
        }
    }
}
