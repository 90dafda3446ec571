//! Who still calls a deprecated route: noted by each thread for itself, and given to the store every few seconds.
//!
//! A caller is named by its sticky key where the route has one, else by a digest of its API key, else by its user agent
//! and address. What may be a credential is never written down, only a digest of it. What is kept is bounded: of the
//! callers of one pause over [`MOST`], only their number is known.

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

use super::service::Thread;
use crate::config::{Route, StickyKey};
use crate::route::sticky_key;
use crate::store::{Caller, OTHERS};
use crate::task::UnixMs;

/// How often what was noted is given to the store.
const EVERY: Duration = Duration::from_secs(5);
/// Callers that one thread keeps between two times.
const MOST: usize = 1000;
/// How much of a name is kept, characters.
const LONGEST: usize = 120;

/// The callers that the store does not know yet, by route and name.
#[derive(Default)]
pub(super) struct Callers(RefCell<HashMap<String, Calls>>);

/// Calls and the last of them, by caller.
type Calls = HashMap<String, (u64, UnixMs)>;

// === impl Callers ===

impl Callers {
    /// Notes a call.
    pub(super) fn note(&self, route: &Route, headers: &HeaderMap, address: IpAddr) {
        self.add(&route.name, name(route, headers, address), 1, jiff::Timestamp::now().into());
    }

    fn add(&self, route: &str, who: String, count: u64, last: UnixMs) {
        let mut routes = self.0.borrow_mut();
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), HashMap::new());
        }
        let Some(callers) = routes.get_mut(route) else { return };
        let is_room = callers.len() < MOST || callers.contains_key(&who);
        let (calls, at) = callers.entry(if is_room { who } else { OTHERS.to_owned() }).or_default();
        *calls += count;
        *at = last.max(*at);
    }

    fn take(&self) -> Vec<(String, Vec<Caller>)> {
        let caller = |(who, (count, last))| Caller { who, count, last };
        let routes = std::mem::take(&mut *self.0.borrow_mut());
        routes.into_iter().map(|(route, callers)| (route, callers.into_iter().map(caller).collect())).collect()
    }

    fn put_back(&self, route: &str, callers: Vec<Caller>) {
        for Caller { who, count, last } in callers {
            self.add(route, who, count, last);
        }
    }
}

/// Gives the store what a thread has noted, every few seconds and once more when the thread drains.
pub(super) async fn hand_over(thread: Rc<Thread>) {
    let mut is_over = false;
    while !is_over {
        is_over = thread.draining.run_until_cancelled(sleep(EVERY)).await.is_none();
        let circuit = &thread.parts.circuit;
        for (route, callers) in thread.callers.take() {
            if let Err(error) = circuit.call(circuit.store().note_callers(&route, &callers)).await {
                tracing::debug!(%error, route, "callers of a deprecated route are not noted yet");
                thread.callers.put_back(&route, callers);
            }
        }
    }
}

fn name(route: &Route, headers: &HeaderMap, address: IpAddr) -> String {
    if let Some((key, value)) = sticky_key(&route.rollout, headers) {
        return match key {
            StickyKey::Header(name) if !is_credential(name) => plain(&String::from_utf8_lossy(value)),
            _ => format!("client {}", digest(value)),
        };
    }
    if let Some(key) = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key")) {
        return format!("key {}", digest(key.as_bytes()));
    }
    let agent = headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    format!("{} ({address})", plain(agent.as_deref().unwrap_or("no user agent")))
}

/// Whether a header's name says that its value opens something.
fn is_credential(name: &header::HeaderName) -> bool {
    ["auth", "cookie", "key", "secret", "session", "token"].iter().any(|word| name.as_str().contains(word))
}

/// Enough to tell keys apart and to look one up, and too little to guess from.
fn digest(secret: &[u8]) -> String {
    BASE64.encode(&Sha256::digest(secret)[..6])
}

/// The beginning, without what would break a line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn route(sticky: Vec<StickyKey>) -> Route {
        let loaded = config::from_upstream("http://127.0.0.1:9000", Some("/invoke"), None, &config::Env::new());
        let mut route = loaded.expect("a valid configuration").config.routes.remove(0);
        route.rollout.sticky = sticky;
        route
    }

    fn named(sticky: Vec<StickyKey>, pairs: &[(&'static str, &str)]) -> String {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        name(&route(sticky), &headers, "10.0.0.7".parse().expect("an address"))
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
        assert_eq!(named(vec![header("x-client-id")], &all), "billing");
        assert_eq!(named(vec![], &[("user-agent", "curl/8")]), "curl/8 (10.0.0.7)");
        assert_eq!(named(vec![], &[]), "no user agent (10.0.0.7)");
        let secret = [
            named(vec![], &all),
            named(vec![header("authorization")], &all),
            named(vec![header("x-team-token")], &[("x-team-token", "canary")]),
            named(vec![StickyKey::Cookie("sid".into())], &all),
            named(vec![], &[("x-api-key", "canary")]),
        ];
        for name in &secret {
            assert!(!name.contains("canary") && (name.starts_with("key ") || name.starts_with("client ")), "{name}");
        }
        assert_ne!(secret[0], named(vec![], &[("authorization", "Bearer other")]));
    }

    #[test]
    fn more_callers_than_are_kept_are_counted_together() {
        let callers = Callers::default();
        for n in 0..MOST + 50 {
            callers.add("invoke", format!("c{n}"), 1, UnixMs(7));
        }
        callers.add("invoke", "c0".into(), 2, UnixMs(6));
        let mut taken = callers.take();
        let (route, noted) = taken.remove(0);
        let of = |who: &str| noted.iter().find(|caller| caller.who == who).map(|caller| (caller.count, caller.last.0));
        assert_eq!((of("c0"), of(OTHERS), noted.len()), (Some((3, 7)), Some((50, 7)), MOST + 1));
        assert!(callers.take().is_empty());
        callers.put_back(&route, noted);
        assert_eq!(callers.take()[0].1.iter().map(|caller| caller.count).sum::<u64>(), MOST as u64 + 52);
    }
}
