//! The request header `Prefer: respond-async, wait=N` (RFC 7240).
//!
//! It never chooses the path of a request, only how long a client on the async path waits.

use std::time::Duration;

use http::{HeaderMap, header::HeaderName};

/// The header name `prefer`.
static PREFER_HEADER: HeaderName = HeaderName::from_static("prefer");
/// The longest wait; a longer preference is reduced to it.
const MAX_PREFERRED_WAIT: Duration = Duration::from_hours(24);

/// The preferences of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientPreferences {
    /// `respond-async`: the client prefers a 202 to waiting.
    pub respond_async: bool,
    /// `wait=SECONDS`: how long the client wants to wait.
    pub wait: Option<Duration>,
}

// === impl ClientPreferences ===

impl ClientPreferences {
    /// Parses the `Prefer` headers. The first of a repeated preference counts; unknown and
    /// malformed preferences are ignored.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        let values = headers.get_all(&PREFER_HEADER).iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            let token = preference.split(';').next().unwrap_or_default();
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("respond-async") {
                preferences.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && preferences.wait.is_none() {
                preferences.wait = value
                    .parse()
                    .ok()
                    .map(|seconds| Duration::from_secs(seconds).min(MAX_PREFERRED_WAIT));
            }
        }
        preferences
    }

    /// The wait that the client prefers, if any; `respond-async` alone means zero.
    #[must_use]
    pub fn preferred_wait(self) -> Option<Duration> {
        self.wait.or(self.respond_async.then_some(Duration::ZERO))
    }

    /// The value of `Preference-Applied`; `None` without a preference.
    #[must_use]
    pub fn render_applied(self) -> Option<String> {
        match (self.respond_async, self.wait) {
            (false, None) => None,
            (true, None) => Some("respond-async".into()),
            (false, Some(wait)) => Some(format!("wait={}", wait.as_secs())),
            (true, Some(wait)) => Some(format!("respond-async, wait={}", wait.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferences_from(values: &[&str]) -> ClientPreferences {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", value.parse().expect("a header value"));
        }
        ClientPreferences::from_headers(&headers)
    }

    #[test]
    fn preferences_set_the_wait() {
        assert_eq!(
            preferences_from(&["respond-async, wait=100"]).preferred_wait(),
            Some(Duration::from_secs(100))
        );
        assert_eq!(preferences_from(&["respond-async"]).preferred_wait(), Some(Duration::ZERO));
        assert_eq!(
            preferences_from(&["Wait = \"5\"; x=y", "wait=9"]).preferred_wait(),
            Some(Duration::from_secs(5))
        );
        assert_eq!(preferences_from(&["wait=99999999"]).preferred_wait(), Some(MAX_PREFERRED_WAIT));
        for ignored in ["wait=-1", "wait=x", "return=minimal", "", ";;=,"] {
            assert_eq!(preferences_from(&[ignored]), ClientPreferences::default(), "{ignored}");
        }
        assert_eq!(
            preferences_from(&["respond-async", "wait=1"]).render_applied().as_deref(),
            Some("respond-async, wait=1")
        );
    }
}
