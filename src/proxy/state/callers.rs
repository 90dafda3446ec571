//! The callers of deprecated routes, as one thread has counted them since it last wrote them to the
//! store.
//!
//! A caller is named by its sticky key if the route has one, else by a digest of its API key, else
//! by its user agent and address. A value that may be a credential is never stored, only a digest
//! of it. The number of callers is bounded: those over [`MAX_CALLERS`] are counted together. The
//! names are stored and shown to operators: their forms must not change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{RouteConfig, StickyKey};
use crate::proxy::http::api_key::find_api_key;
use crate::route::find_sticky_key;
use crate::store::{DeprecatedCaller, OTHER_CALLERS};
use crate::task::UnixMs;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// Callers per route that one thread counts by name between two writes.
const MAX_CALLERS: usize = 1000;
/// The longest part of a sticky key or user agent that goes into a name, characters.
const MAX_NAME_CHARS: usize = 120;

/// Calls that are not in the store yet, by route and caller.
#[derive(Default)]
pub(crate) struct DeprecatedCallers(RefCell<HashMap<String, CallerCounts>>);

/// The number of calls and the time of the last one, by caller.
type CallerCounts = HashMap<String, (u64, UnixMs)>;

// === impl DeprecatedCallers ===

impl DeprecatedCallers {
    /// Counts a call of a deprecated route from `address`.
    pub(crate) fn record_call(&self, route: &RouteConfig, headers: &HeaderMap, address: IpAddr) {
        self.add_calls(
            &route.name,
            name_caller(route, headers, address),
            1,
            jiff::Timestamp::now().into(),
        );
    }

    fn add_calls(&self, route: &str, name: String, count: u64, last: UnixMs) {
        let mut routes = self.0.borrow_mut();
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), HashMap::new());
        }
        let Some(callers) = routes.get_mut(route) else { return };
        let fits = callers.len() < MAX_CALLERS || callers.contains_key(&name);
        let name = if fits { name } else { OTHER_CALLERS.to_owned() };
        let (calls, last_called_at) = callers.entry(name).or_default();
        *calls += count;
        *last_called_at = last.max(*last_called_at);
    }

    /// Takes all counts, by route.
    pub(crate) fn take_all(&self) -> Vec<(String, Vec<DeprecatedCaller>)> {
        let caller = |(name, (call_count, last_called_at))| DeprecatedCaller {
            name,
            call_count,
            last_called_at,
        };
        let routes = std::mem::take(&mut *self.0.borrow_mut());
        routes
            .into_iter()
            .map(|(route, callers)| (route, callers.into_iter().map(caller).collect()))
            .collect()
    }

    /// Adds counts back that could not be written.
    pub(crate) fn put_back(&self, route: &str, callers: Vec<DeprecatedCaller>) {
        for DeprecatedCaller { name, call_count, last_called_at } in callers {
            self.add_calls(route, name, call_count, last_called_at);
        }
    }
}

fn name_caller(route: &RouteConfig, headers: &HeaderMap, address: IpAddr) -> String {
    if let Some((key, value)) = find_sticky_key(&route.rollout, headers) {
        return match key {
            StickyKey::Header(name) if !is_credential_header(name) => {
                sanitize_text(&String::from_utf8_lossy(value))
            }
            _ => format!("client {}", digest_secret(value)),
        };
    }
    if let Some(key) = find_api_key(headers) {
        return format!("key {}", digest_secret(key.as_bytes()));
    }
    let agent =
        headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    format!("{} ({address})", sanitize_text(agent.as_deref().unwrap_or("no user agent")))
}

/// Whether the name of a header suggests that its value is a credential.
fn is_credential_header(name: &header::HeaderName) -> bool {
    ["auth", "cookie", "key", "secret", "session", "token"]
        .iter()
        .any(|word| name.as_str().contains(word))
}

/// A short digest: enough to distinguish keys and to look one up, too little to guess the key.
fn digest_secret(secret: &[u8]) -> String {
    BASE64.encode(&Sha256::digest(secret)[..6])
}

/// The first [`MAX_NAME_CHARS`] characters, with control characters as spaces.
fn sanitize_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn test_route(sticky: Vec<StickyKey>) -> RouteConfig {
        let loaded = config::load_for_upstream(
            "http://127.0.0.1:9000",
            Some("/invoke"),
            None,
            &config::EnvVars::new(),
        );
        let mut route = loaded.expect("a valid configuration").config.routes.remove(0);
        route.rollout.sticky_keys = sticky;
        route
    }

    fn name_test_caller(sticky: Vec<StickyKey>, pairs: &[(&'static str, &str)]) -> String {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        name_caller(&test_route(sticky), &headers, "10.0.0.7".parse().expect("an address"))
    }

    #[test]
    fn a_caller_is_named_without_its_credentials() {
        let all = [
            ("x-client-id", "billing"),
            ("authorization", "Bearer canary"),
            ("user-agent", "curl/8"),
            ("cookie", "sid=canary"),
        ];
        let header = |name: &'static str| StickyKey::Header(header::HeaderName::from_static(name));
        assert_eq!(name_test_caller(vec![header("x-client-id")], &all), "billing");
        assert_eq!(name_test_caller(vec![], &[("user-agent", "curl/8")]), "curl/8 (10.0.0.7)");
        assert_eq!(name_test_caller(vec![], &[]), "no user agent (10.0.0.7)");
        let secret = [
            name_test_caller(vec![], &all),
            name_test_caller(vec![header("authorization")], &all),
            name_test_caller(vec![header("x-team-token")], &[("x-team-token", "canary")]),
            name_test_caller(vec![StickyKey::Cookie("sid".into())], &all),
            name_test_caller(vec![], &[("x-api-key", "canary")]),
        ];
        for name in &secret {
            assert!(
                !name.contains("canary")
                    && (name.starts_with("key ") || name.starts_with("client ")),
                "{name}"
            );
        }
        assert_ne!(secret[0], name_test_caller(vec![], &[("authorization", "Bearer other")]));
    }

    #[test]
    fn callers_over_the_limit_are_counted_together() {
        let callers = DeprecatedCallers::default();
        for n in 0..MAX_CALLERS + 50 {
            callers.add_calls("invoke", format!("c{n}"), 1, UnixMs(7));
        }
        callers.add_calls("invoke", "c0".into(), 2, UnixMs(6));
        let mut taken = callers.take_all();
        let (route, counted) = taken.remove(0);
        let find = |name: &str| {
            counted
                .iter()
                .find(|caller| caller.name == name)
                .map(|caller| (caller.call_count, caller.last_called_at.0))
        };
        assert_eq!(
            (find("c0"), find(OTHER_CALLERS), counted.len()),
            (Some((3, 7)), Some((50, 7)), MAX_CALLERS + 1)
        );
        assert!(callers.take_all().is_empty());
        callers.put_back(&route, counted);
        assert_eq!(
            callers.take_all()[0].1.iter().map(|caller| caller.call_count).sum::<u64>(),
            MAX_CALLERS as u64 + 52
        );
    }
}
