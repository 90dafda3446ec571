//! Parsers of addresses, URLs, hosts, paths and header names.
//!
//! A URL can carry a password. So a message quotes a URL only when it has no user info, and never
//! quotes the URL of a store or webhook.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, Method, Uri};
use redis::IntoConnectionInfo;

use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::FieldError;
use crate::config::{
    AllowedWebhookHost, Cidr, PathPattern, Secret, StickyKey, StoreUrl, UpstreamUrl,
};

/// Parses an address to listen on: `127.0.0.1:8000`, `[::1]:8000` or `localhost:8000`.
pub(crate) fn parse_listen_address(text: &str) -> Result<SocketAddr, FieldError> {
    let local =
        text.strip_prefix("localhost:").map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST));
    let hint =
        "write an address and port such as `127.0.0.1:8000`, or `0.0.0.0:8000` for every interface";
    let wrong = |_| {
        FieldError::new(format!("{} is not an address to listen on", quote_for_message(text)), hint)
    };
    local.as_deref().unwrap_or(text).parse().map_err(wrong)
}

/// Parses a network such as `10.0.0.0/8`; an address alone is a network of one address.
pub(crate) fn parse_cidr(text: &str) -> Result<Cidr, FieldError> {
    let wrong = || {
        FieldError::new(
            format!("{} is not a network", quote_for_message(text)),
            "write one such as `10.0.0.0/8` or `::1`",
        )
    };
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let network: IpAddr = address.parse().map_err(|_| wrong())?;
    let longest = if network.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| wrong())?;
    if prefix <= longest {
        Ok(Cidr { network_address: network, prefix_length: prefix })
    } else {
        Err(wrong())
    }
}

/// Parses the base URL of an HTTP server: scheme, host and port, without a path.
pub(crate) fn parse_upstream_url(text: &str) -> Result<UpstreamUrl, FieldError> {
    let hint = "write scheme, host and port, such as `http://127.0.0.1:9000`";
    let uri = parse_http_uri(text, hint)?;
    if !matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/")) {
        return Err(FieldError::new(
            format!(
                "{} has a path: the path of each request is used instead",
                quote_for_message(text)
            ),
            hint,
        ));
    }
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Ok(UpstreamUrl { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
}

/// Parses the HTTP URL of an `http` handler.
pub(crate) fn parse_http_url(text: &str) -> Result<String, FieldError> {
    parse_http_uri(text, "write a URL such as `http://127.0.0.1:9000/build`")
        .map(|_| text.to_owned())
}

fn parse_http_uri(text: &str, hint: &str) -> Result<Uri, FieldError> {
    if text.contains('@') {
        return Err(FieldError::new("has user info, or an `@`", hint));
    }
    parse_absolute_uri(text).ok_or_else(|| {
        FieldError::new(format!("{} is not an http or https URL", quote_for_message(text)), hint)
    })
}

/// Parses an HTTP URL that may carry a password or a token; messages do not quote it.
pub(crate) fn parse_secret_url(text: &str) -> Result<Secret, FieldError> {
    let hint = "write a URL such as `https://hooks.example.com/rollout`";
    parse_absolute_uri(text)
        .map(|_| Secret::new(text))
        .ok_or_else(|| FieldError::new("is not an http or https URL", hint))
}

/// The URL when it has scheme `http` or `https`, a host, and no port or a valid one.
fn parse_absolute_uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let host_and_port = authority.as_str().rsplit('@').next().unwrap_or_default();
    let is_port_valid =
        uri.port_u16().is_some_and(|port| port > 0) || host_and_port == authority.host();
    let is_ipv6_valid = authority
        .host()
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_none_or(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_http =
        matches!(uri.scheme_str(), Some("http" | "https")) && !authority.host().is_empty();
    (is_http && is_port_valid && is_ipv6_valid).then_some(uri)
}

/// Parses the URL of a store: `sqlite:PATH`, or a URL with one of the Redis schemes.
pub(crate) fn parse_store_url(text: &str) -> Result<StoreUrl, FieldError> {
    let hint = "write `redis://host:6379/0`, `rediss://…`, \
        `redis+sentinel://a:26379,b:26379/master`, \
                `redis+cluster://a:6379,b:6379` or `sqlite:data/omnidaemon.db`";
    if let Some(path) = text.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let empty = FieldError::new(
            "names no SQLite file",
            "write its path, such as `sqlite:data/omnidaemon.db`",
        );
        return if path.is_empty() {
            Err(empty)
        } else {
            Ok(StoreUrl::Sqlite(PathBuf::from(path)))
        };
    }
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| FieldError::new("is not a store's URL", hint))?;
    let malformed = |what: &str| FieldError::new(format!("is a malformed Redis URL: {what}"), hint);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if !hosts.split(',').all(is_host_and_port) {
        return Err(malformed(
            "its host or port cannot be read; percent-encode `/`, `@`, `?` and `#` in the password",
        ));
    }
    let is_database = |db: &str| db.is_empty() || db.parse::<u16>().is_ok();
    let secret = Secret::new(text);
    match scheme {
        "redis" | "rediss" if hosts.contains(',') => Err(malformed("it has several hosts")),
        "redis" | "rediss" if !is_database(path) => Err(malformed("its database is not a number")),
        "redis" | "rediss" if text.into_connection_info().is_err() => {
            Err(malformed("the client cannot read it"))
        }
        "redis" | "rediss" => Ok(StoreUrl::Redis(secret)),
        "redis+sentinel" | "rediss+sentinel" => match path.split_once('/').unwrap_or((path, "")) {
            ("", _) => Err(malformed("it names no master")),
            (_, db) if !is_database(db) => Err(malformed("its database is not a number")),
            _ => Ok(StoreUrl::Sentinel(secret)),
        },
        "redis+cluster" | "rediss+cluster" if matches!(path, "" | "0") => {
            Ok(StoreUrl::Cluster(secret))
        }
        "redis+cluster" | "rediss+cluster" => Err(malformed("a cluster has no databases")),
        _ => Err(FieldError::new(
            format!("has the unknown scheme {}", quote_for_message(scheme)),
            hint,
        )),
    }
}

/// Whether the text is a host name or address with an optional port; IPv6 in brackets.
fn is_host_and_port(text: &str) -> bool {
    let is_host_name = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
        Some(_) => return false,
        None => {
            let at = text.find(':').unwrap_or(text.len());
            (Some(&text[..at]), &text[at..])
        }
    };
    let is_port_valid = port
        .strip_prefix(':')
        .map_or(port.is_empty(), |port| port.parse::<u16>().is_ok_and(|port| port > 0));
    host.is_none_or(is_host_name) && is_port_valid
}

/// Parses a route's path of literal and `{named}` segments.
pub(crate) fn parse_path_pattern(text: &str) -> Result<PathPattern, FieldError> {
    let wrong = |message: &str| {
        FieldError::new(
            format!("{} {message}", quote_for_message(text)),
            "write a path such as `/invoke` or `/agents/{agent}/invoke`",
        )
    };
    let path = text.strip_prefix('/').ok_or_else(|| wrong("does not begin with a slash"))?;
    let count = path.split('/').count();
    let mut segments = Vec::with_capacity(count);
    for (index, segment) in path.split('/').enumerate() {
        let named = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match (named, segment) {
            (Some(name), _) if is_identifier(name) => segments.push(None),
            (Some(_), _) => {
                return Err(wrong(
                    "has a named segment whose name is not of letters, digits and `_`",
                ));
            }
            (None, "") if index + 1 < count => return Err(wrong("has an empty segment")),
            (None, "." | "..") => return Err(wrong("has a dot segment")),
            (None, segment) if !is_path_text(segment) => {
                return Err(wrong(
                    "has a character that paths cannot have, or braces around part of a segment",
                ));
            }
            (None, segment) => segments.push(Some(segment.to_owned())),
        }
    }
    Ok(PathPattern { source_text: text.to_owned(), segments })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the text has only path characters of RFC 3986. `;` is refused, since servers differ in
/// whether it ends the path.
fn is_path_text(text: &str) -> bool {
    let encoded = text
        .split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()));
    encoded
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@%".contains(&byte))
}

/// Parses `proxy.task_path`: a path without named segments and without a slash at the end.
pub(crate) fn parse_task_path(text: &str) -> Result<String, FieldError> {
    let wrong = || {
        FieldError::new(
            format!("{} is not a path for tasks", quote_for_message(text)),
            "write a path such as `/task`",
        )
    };
    let pattern = parse_path_pattern(text).map_err(|_| wrong())?;
    let literal = pattern
        .segments
        .iter()
        .all(|segment| segment.as_ref().is_some_and(|text| !text.is_empty()));
    if literal { Ok(pattern.source_text) } else { Err(wrong()) }
}

/// Parses the successor of a deprecated route: a path or URL without a query, for redirects.
pub(crate) fn parse_successor(text: &str) -> Result<String, FieldError> {
    if text.contains(['?', '#']) {
        return Err(FieldError::new(
            format!("{} has a query or fragment", quote_for_message(text)),
            "write it without one: the query of the request is kept",
        ));
    }
    parse_link(text)
}

/// Parses a path or URL that is sent in a header field.
pub(crate) fn parse_link(text: &str) -> Result<String, FieldError> {
    let hint = "write a path such as `/invoke/async`, or an http or https URL";
    if text.bytes().any(|byte| !byte.is_ascii_graphic() || b"<>\"\\".contains(&byte)) {
        return Err(FieldError::new(
            format!("{} has characters that a header cannot carry", quote_for_message(text)),
            hint,
        ));
    }
    let path = text.starts_with('/') && !text.starts_with("//");
    if path { Ok(text.to_owned()) } else { parse_http_uri(text, hint).map(|_| text.to_owned()) }
}

/// Parses the name of a header field.
pub(crate) fn parse_header_name(text: &str) -> Result<HeaderName, FieldError> {
    let wrong = |_| {
        FieldError::new(
            format!("{} is not a header's name", quote_for_message(text)),
            "write one such as `x-client-id`",
        )
    };
    text.parse().map_err(wrong)
}

/// Parses a request method that a route may have.
pub(crate) fn parse_method(text: &str) -> Result<Method, FieldError> {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET];
    let wrong = || {
        FieldError::new(
            format!("{} is not a method of routes", quote_for_message(text)),
            "write POST, PUT, PATCH, DELETE or GET",
        )
    };
    known.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(text)).ok_or_else(wrong)
}

/// Parses `header:NAME` or `cookie:NAME`.
pub(crate) fn parse_sticky_key(text: &str) -> Result<StickyKey, FieldError> {
    let wrong = || {
        FieldError::new(
            format!("{} is not a sticky key", quote_for_message(text)),
            "write `header:x-client-id` or `cookie:sid`",
        )
    };
    match text.split_once(':') {
        Some(("header", name)) => {
            parse_header_name(name).map(StickyKey::Header).map_err(|_| wrong())
        }
        // The names of cookies and header fields have the same syntax: a token of RFC 9110.
        Some(("cookie", name)) if parse_header_name(name).is_ok() => {
            Ok(StickyKey::Cookie(name.to_owned()))
        }
        _ => Err(wrong()),
    }
}

/// Parses the name of a cookie: a token, as the name of a header is.
pub(crate) fn parse_cookie_name(text: &str) -> Result<String, FieldError> {
    let wrong = |_| {
        let message = format!("{} is not the name of a cookie", quote_for_message(text));
        FieldError::new(message, "write the name alone, such as `sid`")
    };
    parse_header_name(text).map(|_| text.to_owned()).map_err(wrong)
}

/// Parses an origin for CORS, such as `https://app.example.com`, or `*`.
pub(crate) fn parse_cors_origin(text: &str) -> Result<String, FieldError> {
    let hint = "write one such as `https://app.example.com`, or `*` for any";
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url =
        parse_upstream_url(text).map_err(|wrong| FieldError { hint: hint.into(), ..wrong })?;
    Ok(url.to_string().to_ascii_lowercase())
}

/// Parses a host with or without a port, as in a Host header.
pub(crate) fn parse_host(text: &str) -> Result<String, FieldError> {
    let wrong = || {
        FieldError::new(
            format!("{} is not a host", quote_for_message(text)),
            "write one such as `omnidaemon.example.com`",
        )
    };
    if is_host_and_port(text) { Ok(text.to_ascii_lowercase()) } else { Err(wrong()) }
}

/// Parses a host that webhooks may be posted to, with or without a port. The prefix `private:`
/// allows addresses that are not public.
pub(crate) fn parse_webhook_host(text: &str) -> Result<AllowedWebhookHost, FieldError> {
    let hint = "write a host such as `hooks.example.com` or `hooks.example.com:8443`; \
                `private:hooks.internal:8080` for one of your own network";
    let (allow_private, host_and_port) =
        text.strip_prefix("private:").map_or((false, text), |host| (true, host));
    let bad = || FieldError::new(format!("{} is not a host", quote_for_message(text)), hint);
    if !is_host_and_port(host_and_port) || host_and_port.is_empty() {
        return Err(bad());
    }
    let authority: http::uri::Authority = host_and_port.parse().map_err(|_| bad())?;
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    Ok(AllowedWebhookHost { host, port: authority.port_u16(), allow_private })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        for (text, expected) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:80", "[::]:80"),
        ] {
            assert_eq!(
                parse_listen_address(text).map(|address| address.to_string()),
                Ok(expected.into())
            );
        }
        for bad in [":8000", "8000", "example.com:80", "127.0.0.1", "127.0.0.1:99999", ""] {
            assert!(parse_listen_address(bad).is_err(), "{bad}");
        }
        for (text, prefix) in
            [("10.0.0.0/8", 8), ("127.0.0.1", 32), ("::1", 128), ("fd00::/8", 8), ("0.0.0.0/0", 0)]
        {
            assert_eq!(parse_cidr(text).map(|cidr| cidr.prefix_length), Ok(prefix), "{text}");
        }
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "*"] {
            assert!(parse_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstreams_are_scheme_host_and_port() {
        for (text, expected) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://api/", "http://api"),
            ("https://api.example.com", "https://api.example.com"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(parse_upstream_url(text).map(|url| url.to_string()), Ok(expected.into()));
        }
        for bad in [
            "127.0.0.1:9000",
            "http://",
            "http://:80",
            "ftp://x",
            "http://x:0",
            "http://x:99999",
            "http://x/api",
            "http://x/?q",
            "http://[::zz]",
            "http://a b",
            "/x",
            "",
        ] {
            assert!(parse_upstream_url(bad).is_err(), "{bad}");
        }
        let Err(wrong) = parse_upstream_url("http://user:canary@host") else {
            panic!("user info was taken")
        };
        assert!(!format!("{wrong:?}").contains("canary"));
    }

    #[test]
    fn the_scheme_of_a_store_url_selects_the_store() {
        for (text, expected) in [
            ("sqlite:data/o.db", "sqlite:data/o.db"),
            ("sqlite:///abs/o.db", "sqlite:/abs/o.db"),
            ("redis://h", "redis://h"),
            ("redis://:p%40ss@h:6379/3", "redis://***@h:6379/3"),
            ("rediss://u:p@[::1]:6379", "rediss://***@[::1]:6379"),
            ("redis+sentinel://:p@a:1,b:2/mymaster/0", "redis+sentinel://***@a:1,b:2/mymaster/0"),
            ("rediss+cluster://a:1,b:2", "rediss+cluster://a:1,b:2"),
        ] {
            assert_eq!(parse_store_url(text).map(|url| url.to_string()), Ok(expected.into()));
        }
        for bad in [
            "",
            "sqlite:",
            "sqlite://",
            "canary",
            "canary:",
            "http://canary",
            "redis://",
            "redis://canary:x",
            "redis://canary:0",
            "redis://u:canary/x@h",
            "redis://h/canary",
            "redis://a,b",
            "redis+sentinel://canary:1",
            "redis+cluster://canary/1",
        ] {
            let Err(wrong) = parse_store_url(bad) else { panic!("{bad} was taken") };
            assert!(!format!("{wrong:?}").contains("canary"), "{wrong:?}");
        }
    }

    #[test]
    fn patterns_are_literal_and_named_segments() {
        let segments = |text| parse_path_pattern(text).map(|pattern| pattern.segments);
        let literal = |text: &str| Some(text.to_owned());
        assert_eq!(segments("/invoke"), Ok(vec![literal("invoke")]));
        assert_eq!(
            segments("/a/{agent_1}/b%20c/"),
            Ok(vec![literal("a"), None, literal("b%20c"), literal("")])
        );
        for bad in [
            "", "invoke", "//x", "/a//b", "/a/../b", "/./a", "/a?b", "/a#b", "/{}", "/a{b}", "/{a",
            "/{a-b}", "/a b", "/a;b", "/%2", "/é", "/a\r\n",
        ] {
            assert!(parse_path_pattern(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_task_path("/v1/task"), Ok("/v1/task".into()));
        for bad in ["/", "/task/", "/{a}", "task"] {
            assert!(parse_task_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirect_targets_cannot_split_a_header() {
        for good in ["/invoke/async", "https://api.example.com/v2"] {
            assert_eq!(parse_successor(good), Ok(good.into()));
        }
        for bad in [
            "",
            "/a\r\nset-cookie: x",
            "/a\u{7f}",
            "/a b",
            "//evil.example",
            "/a?b",
            "/a#b",
            "ftp://x",
            "/é",
            "/<a>",
        ] {
            assert!(parse_successor(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_link("/docs?a=b#c"), Ok("/docs?a=b#c".into()));
    }

    #[test]
    fn sticky_keys_methods_origins_and_hosts() {
        assert_eq!(
            parse_sticky_key("header:X-Client-Id"),
            Ok(StickyKey::Header(HeaderName::from_static("x-client-id")))
        );
        assert_eq!(parse_sticky_key("cookie:sid"), Ok(StickyKey::Cookie("sid".into())));
        for bad in ["x-client-id", "header:", "header:a b", "cookie:", "cookie:a=b", "query:x"] {
            assert!(parse_sticky_key(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (parse_method("post"), parse_method("OPTIONS").is_err(), parse_method("HEAD").is_err()),
            (Ok(Method::POST), true, true)
        );
        assert_eq!(
            (parse_cors_origin("*"), parse_cors_origin("https://A.example")),
            (Ok("*".into()), Ok("https://a.example".into()))
        );
        assert!(
            parse_cors_origin("a.example").is_err() && parse_cors_origin("https://a/x").is_err()
        );
        assert_eq!(
            (parse_host("A.example:80"), parse_host("a b").is_err()),
            (Ok("a.example:80".into()), true)
        );
    }

    #[test]
    fn webhook_hosts_are_names_with_a_port_and_a_prefix() {
        let entry = |host: &str, port, private| {
            Ok(AllowedWebhookHost { host: host.into(), port, allow_private: private })
        };
        assert_eq!(
            parse_webhook_host("Hooks.example.com"),
            entry("hooks.example.com", None, false)
        );
        assert_eq!(
            parse_webhook_host("hooks.example.com:8443"),
            entry("hooks.example.com", Some(8443), false)
        );
        assert_eq!(parse_webhook_host("private:[::1]:80"), entry("::1", Some(80), true));
        for bad in ["", "private:", "https://a", "a/b", "a@b", "*.example.com", "a:0"] {
            assert!(parse_webhook_host(bad).is_err(), "{bad}");
        }
    }
}
