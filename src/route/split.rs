//! Which way a request goes: its cohort, and whether it can go async at all.

use http::{HeaderMap, Method, header};

use crate::cohort::{self, Weight};
use crate::config::{HandlerConfig, PinConfig, RolloutConfig, StickyKey};

/// A request's side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigned {
    /// To the upstream.
    Sync,
    /// Through the queue.
    Async,
}

/// Where a request goes, and whom it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CohortAssignment {
    /// Its side.
    pub path: Assigned,
    /// The [group](cohort::client_group) of its client, where both sides have requests and a
    /// sticky key tells clients apart.
    pub client_group: Option<u8>,
    /// Whether it should have had a sticky key, and goes at random for want of one.
    pub lacks_sticky_key: bool,
}

impl From<Assigned> for CohortAssignment {
    /// Of no client that is known.
    fn from(side: Assigned) -> Self {
        Self { path: side, client_group: None, lacks_sticky_key: false }
    }
}

/// Assigns a request. `random` is used for one without a sticky key. A pinned key has its path
/// while the weight is not 0, and one that is kept out stays so at 100 %.
#[must_use]
pub fn assign_cohort(
    rollout: &RolloutConfig,
    weight: Weight,
    headers: &HeaderMap,
    random: impl FnOnce() -> u64,
) -> CohortAssignment {
    if weight == Weight::ZERO {
        return Assigned::Sync.into();
    }
    if weight == Weight::FULL && rollout.pin.sync_key_values.is_empty() {
        return Assigned::Async.into();
    }
    let key = find_sticky_key(rollout, headers).map(|(_, key)| key);
    let hash = key.map(|key| cohort::hash_sticky_key(&rollout.salt, key));
    let side = key.and_then(|key| find_pinned_path(&rollout.pin, key)).unwrap_or_else(|| {
        let is_async = weight == Weight::FULL
            || weight.covers(cohort::cohort_bucket(hash.unwrap_or_else(random)));
        if is_async { Assigned::Async } else { Assigned::Sync }
    });
    let unkeyed = hash.is_none() && weight != Weight::FULL && !rollout.sticky_keys.is_empty();
    CohortAssignment {
        path: side,
        client_group: hash.map(cohort::client_group),
        lacks_sticky_key: unkeyed,
    }
}

fn find_pinned_path(pin: &PinConfig, key: &[u8]) -> Option<Assigned> {
    let among = |list: &[String]| list.iter().any(|pinned| pinned.as_bytes() == key);
    match pin {
        pin if among(&pin.sync_key_values) => Some(Assigned::Sync),
        pin if among(&pin.async_key_values) => Some(Assigned::Async),
        _ => None,
    }
}

/// Whether a request's client is kept out of the async path.
#[must_use]
pub fn is_pinned_sync(rollout: &RolloutConfig, headers: &HeaderMap) -> bool {
    let is_pinned =
        |key: &[u8]| rollout.pin.sync_key_values.iter().any(|pinned| pinned.as_bytes() == key);
    find_sticky_key(rollout, headers).is_some_and(|(_, key)| is_pinned(key))
}

/// What names the client of a request: the first of the sticky keys that it has, and its value.
#[must_use]
pub fn find_sticky_key<'r, 'h>(
    rollout: &'r RolloutConfig,
    headers: &'h HeaderMap,
) -> Option<(&'r StickyKey, &'h [u8])> {
    rollout.sticky_keys.iter().find_map(|key| Some((key, find_sticky_value(key, headers)?)))
}

fn find_sticky_value<'h>(key: &StickyKey, headers: &'h HeaderMap) -> Option<&'h [u8]> {
    let value = match key {
        StickyKey::Header(name) => headers.get(name)?.as_bytes(),
        StickyKey::Cookie(name) => find_cookie(headers, name)?.as_bytes(),
    };
    (!value.is_empty()).then_some(value)
}

fn find_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Why a request cannot be captured, judged by its head; none when it can.
///
/// `length` is the declared body length, where there is one; a body that outgrows `max_body` on the
/// way is the data plane's to notice.
#[must_use]
pub fn check_capturable(
    method: &Method,
    headers: &HeaderMap,
    handler: &HandlerConfig,
    length: Option<u64>,
    max_body: usize,
) -> Option<&'static str> {
    if method != Method::POST {
        return Some("only POST can be captured");
    }
    if headers.contains_key(header::UPGRADE) {
        return Some("it asks for an upgrade");
    }
    if accepts_event_stream(headers) {
        return Some("it accepts an event stream");
    }
    if length.is_some_and(|length| length > max_body as u64) {
        return Some("its body is over max_body");
    }
    if *handler != HandlerConfig::Upstream && !is_json_request(headers) {
        return Some("its content type is not JSON");
    }
    None
}

fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("text/event-stream"))
}

/// Whether a request says that its body is JSON; without a content type it is taken as such.
#[must_use]
pub fn is_json_request(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let text = value.to_str().unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || media.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RolloutMode;

    fn test_rollout_config(sticky: Vec<StickyKey>) -> RolloutConfig {
        RolloutConfig {
            sticky_keys: sticky,
            ..RolloutConfig::new("s", Weight::FULL, RolloutMode::Manual)
        }
    }

    fn assigned_path(
        rollout: &RolloutConfig,
        weight: Weight,
        headers: &HeaderMap,
        random: impl FnOnce() -> u64,
    ) -> Assigned {
        assign_cohort(rollout, weight, headers, random).path
    }

    fn build_headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn a_client_with_a_key_stays_on_its_side_while_the_weight_stands() {
        let sticky = vec![StickyKey::Header(header::FROM), StickyKey::Cookie("sid".into())];
        let (rollout, half) = (test_rollout_config(sticky), Weight::from_basis_points(5_000));
        for who in [
            build_headers(&[("from", "a")]),
            build_headers(&[("cookie", "x=1; sid=b"), ("from", "")]),
        ] {
            let first = assigned_path(&rollout, half, &who, || unreachable!("it has a key"));
            assert!(
                (0..50).all(|_| assigned_path(&rollout, half, &who, || unreachable!()) == first)
            );
        }
    }

    #[test]
    fn the_ends_are_exact_and_a_request_without_a_key_is_random() {
        let (rollout, none) = (
            test_rollout_config(vec![StickyKey::Cookie("sid".into())]),
            build_headers(&[("cookie", "sidx=1")]),
        );
        assert_eq!(assigned_path(&rollout, Weight::ZERO, &none, || 0), Assigned::Sync);
        assert_eq!(assigned_path(&rollout, Weight::FULL, &none, || u64::MAX), Assigned::Async);
        let tenth = Weight::from_basis_points(1_000);
        assert_eq!(assigned_path(&rollout, tenth, &none, || 999), Assigned::Async);
        assert_eq!(assigned_path(&rollout, tenth, &none, || 1_000), Assigned::Sync);
    }

    #[test]
    fn a_client_is_of_one_group_on_either_side_and_nobody_else_is() {
        let rollout = test_rollout_config(vec![StickyKey::Header(header::FROM)]);
        let split = |points, who: &HeaderMap| {
            assign_cohort(&rollout, Weight::from_basis_points(points), who, || 7)
        };
        let clients = |points, who: &HeaderMap| split(points, who).client_group;
        let known = build_headers(&[("from", "a")]);
        assert!(clients(1, &known).is_some());
        assert_eq!(clients(1, &known), clients(9_999, &known));
        assert_eq!(
            (clients(5_000, &build_headers(&[])), clients(0, &known), clients(10_000, &known)),
            (None, None, None)
        );
        let unkeyed = [(5_000, ""), (5_000, "a"), (0, ""), (10_000, "")]
            .map(|(points, who)| split(points, &build_headers(&[("from", who)])).lacks_sticky_key);
        assert_eq!(unkeyed, [true, false, false, false]);
        let (none, half) =
            (self::test_rollout_config(Vec::new()), Weight::from_basis_points(5_000));
        assert!(!assign_cohort(&none, half, &known, || 7).lacks_sticky_key, "none was asked for");
    }

    #[test]
    fn a_pinned_client_has_its_path_at_every_weight_but_0() {
        let pin = PinConfig {
            sync_key_values: vec!["out".into()],
            async_key_values: vec!["first".into()],
        };
        let rollout =
            RolloutConfig { pin, ..test_rollout_config(vec![StickyKey::Header(header::FROM)]) };
        let assigned = |who: &str, points| {
            assigned_path(
                &rollout,
                Weight::from_basis_points(points),
                &build_headers(&[("from", who)]),
                || unreachable!("it has a key"),
            )
        };
        for points in [1, 5_000, 9_999, 10_000] {
            assert_eq!(
                (assigned("out", points), assigned("first", points)),
                (Assigned::Sync, Assigned::Async)
            );
        }
        assert_eq!((assigned("out", 0), assigned("first", 0)), (Assigned::Sync, Assigned::Sync));
        let kept_out = |who| is_pinned_sync(&rollout, &build_headers(&[("from", who)]));
        assert_eq!(["out", "first", "outer"].map(kept_out), [true, false, false]);
        // A value that only begins like a pinned one is another client.
        assert_eq!(assigned("outer", 10_000), Assigned::Async);
        assert_eq!(
            assigned_path(&rollout, Weight::FULL, &HeaderMap::new(), || u64::MAX),
            Assigned::Async
        );
    }

    #[test]
    fn only_what_can_be_replayed_is_eligible() {
        let judge =
            |method: &Method, pairs: &[(&'static str, &str)], handler: &HandlerConfig, length| {
                check_capturable(method, &build_headers(pairs), handler, length, 100).is_none()
            };
        let (upstream, external) = (HandlerConfig::Upstream, HandlerConfig::External);
        assert!(judge(&Method::POST, &[("content-type", "text/plain")], &upstream, Some(100)));
        assert!(judge(
            &Method::POST,
            &[("content-type", "Application/JSON; charset=utf-8")],
            &external,
            None
        ));
        assert!(judge(&Method::POST, &[("content-type", "application/ld+json")], &external, None));
        assert!(!judge(&Method::POST, &[("content-type", "text/plain")], &external, None));
        assert!(!judge(&Method::PUT, &[], &upstream, None));
        assert!(!judge(&Method::POST, &[("upgrade", "websocket")], &upstream, None));
        assert!(!judge(
            &Method::POST,
            &[("accept", "text/html, text/event-stream;q=0.5")],
            &upstream,
            None
        ));
        assert!(!judge(&Method::POST, &[], &upstream, Some(101)));
    }
}
