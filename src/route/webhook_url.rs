//! Webhook URLs: which may be called, by the list `webhooks.hosts`.

use http::Uri;

use crate::config::WebhooksConfig;

/// The longest accepted URL, characters.
const MAX_URL_LENGTH: usize = 2048;

/// Why a webhook URL is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    /// The text is not an HTTP or HTTPS URL of the allowed form.
    #[error("write an http or https URL of at most {MAX_URL_LENGTH} characters, without user info")]
    NotUrl,
    /// The host is not listed in `webhooks.hosts`.
    #[error("the host {0} is not listed: add it to webhooks.hosts")]
    Unlisted(String),
}

/// A webhook URL that was checked against `webhooks.hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookTarget {
    /// The URL.
    pub uri: Uri,
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// The host in lower case, IPv6 addresses without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the host may resolve to an address of a private network.
    pub allows_private: bool,
}

/// The target of a webhook URL, if its host is listed in `webhooks.hosts` on the URL's port.
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
    let default_port = if tls { 443 } else { 80 };
    // The parser reports an unreadable port as no port, although the URL has one.
    let port_is_readable =
        authority.port_u16().is_some() || authority.as_str().ends_with(authority.host());
    if url.len() > MAX_URL_LENGTH
        || host.is_empty()
        || authority.as_str().contains('@')
        || !port_is_readable
    {
        return Err(WebhookUrlError::NotUrl);
    }
    let port = authority.port_u16().unwrap_or(default_port);
    let listed = webhooks
        .allowed_hosts
        .iter()
        .find(|entry| entry.host == host && entry.port.unwrap_or(default_port) == port);
    let Some(entry) = listed else {
        return Err(WebhookUrlError::Unlisted(authority.as_str().to_owned()));
    };
    Ok(WebhookTarget { uri, tls, host, port, allows_private: entry.allow_private })
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
    fn only_listed_hosts_on_their_ports_are_allowed() {
        let webhooks = test_webhooks();
        let to = |url| {
            parse_webhook_target(url, &webhooks)
                .map(|target| (target.tls, target.host, target.port, target.allows_private))
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
        let long = format!("https://hooks.example.com/{}", "x".repeat(MAX_URL_LENGTH));
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
