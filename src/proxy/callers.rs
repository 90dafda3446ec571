//! Who still calls a deprecated route: noted by each thread for itself, and given to the store
//! every few seconds.
//!
//! A caller is named by its sticky key where the route has one, else by a digest of its API key,
//! else by its user agent and address. What may be a credential is never written down, only a
//! digest of it. What is kept is bounded: of the callers of one pause over [`MOST`], only their
//! number is known.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::service::ProxyThread;
use crate::config::{RouteConfig, StickyKey};
use crate::route::find_sticky_key;
use crate::store::{DeprecatedCaller, OTHER_CALLERS};
use crate::task::UnixMs;

/// How often what was noted is given to the store.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Callers that one thread keeps between two times.
const MAX_CALLERS: usize = 1000;
/// How much of a name is kept, characters.
const MAX_NAME_CHARS: usize = 120;

/// The callers that the store does not know yet, by route and name.
#[derive(Default)]
pub(super) struct DeprecatedCallers(RefCell<HashMap<String, CallerCounts>>);

/// Calls and the last of them, by caller.
type CallerCounts = HashMap<String, (u64, UnixMs)>;

// === impl Callers ===

impl DeprecatedCallers {
    /// Notes a call.
    pub(super) fn record_call(&self, route: &RouteConfig, headers: &HeaderMap, address: IpAddr) {
        self.add_calls(
            &route.name,
            name_caller(route, headers, address),
            1,
            jiff::Timestamp::now().into(),
        );
    }

    fn add_calls(&self, route: &str, who: String, count: u64, last: UnixMs) {
        let mut routes = self.0.borrow_mut();
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), HashMap::new());
        }
        let Some(callers) = routes.get_mut(route) else { return };
        let is_room = callers.len() < MAX_CALLERS || callers.contains_key(&who);
        let (calls, at) =
            callers.entry(if is_room { who } else { OTHER_CALLERS.to_owned() }).or_default();
        *calls += count;
        *at = last.max(*at);
    }

    fn take_all(&self) -> Vec<(String, Vec<DeprecatedCaller>)> {
        let caller = |(who, (count, last))| DeprecatedCaller {
            name: who,
            call_count: count,
            last_called_at: last,
        };
        let routes = std::mem::take(&mut *self.0.borrow_mut());
        routes
            .into_iter()
            .map(|(route, callers)| (route, callers.into_iter().map(caller).collect()))
            .collect()
    }

    fn put_back(&self, route: &str, callers: Vec<DeprecatedCaller>) {
        for DeprecatedCaller { name: who, call_count: count, last_called_at: last } in callers {
            self.add_calls(route, who, count, last);
        }
    }
}

/// Gives the store what a thread has noted, every few seconds and once more when the thread drains.
pub(super) async fn flush_callers(thread: Rc<ProxyThread>) {
    let mut is_over = false;
    while !is_over {
        is_over = thread.draining.run_until_cancelled(sleep(FLUSH_INTERVAL)).await.is_none();
        let circuit = &thread.services.circuit;
        for (route, callers) in thread.deprecated_callers.take_all() {
            if let Err(error) =
                circuit.call(circuit.store().record_deprecated_calls(&route, &callers)).await
            {
                tracing::debug!(%error, route, "callers of a deprecated route are not noted yet");
                thread.deprecated_callers.put_back(&route, callers);
            }
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
    if let Some(key) = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key")) {
        return format!("key {}", digest_secret(key.as_bytes()));
    }
    let agent =
        headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    format!("{} ({address})", sanitize_text(agent.as_deref().unwrap_or("no user agent")))
}

/// Whether a header's name says that its value opens something.
fn is_credential_header(name: &header::HeaderName) -> bool {
    ["auth", "cookie", "key", "secret", "session", "token"]
        .iter()
        .any(|word| name.as_str().contains(word))
}

/// Enough to tell keys apart and to look one up, and too little to guess from.
fn digest_secret(secret: &[u8]) -> String {
    BASE64.encode(&Sha256::digest(secret)[..6])
}

/// The beginning, without what would break a line.
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
    fn more_callers_than_are_kept_are_counted_together() {
        let callers = DeprecatedCallers::default();
        for n in 0..MAX_CALLERS + 50 {
            callers.add_calls("invoke", format!("c{n}"), 1, UnixMs(7));
        }
        callers.add_calls("invoke", "c0".into(), 2, UnixMs(6));
        let mut taken = callers.take_all();
        let (route, noted) = taken.remove(0);
        let of = |who: &str| {
            noted
                .iter()
                .find(|caller| caller.name == who)
                .map(|caller| (caller.call_count, caller.last_called_at.0))
        };
        assert_eq!(
            (of("c0"), of(OTHER_CALLERS), noted.len()),
            (Some((3, 7)), Some((50, 7)), MAX_CALLERS + 1)
        );
        assert!(callers.take_all().is_empty());
        callers.put_back(&route, noted);
        assert_eq!(
            callers.take_all()[0].1.iter().map(|caller| caller.call_count).sum::<u64>(),
            MAX_CALLERS as u64 + 52
        );
    }
}
