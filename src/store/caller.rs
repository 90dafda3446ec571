//! The clients that still call a deprecated route, with their number of calls.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::task::UnixMs;

/// How many callers of a route are recorded by name; further ones count as [`OTHER_CALLERS`].
pub const MAX_CALLERS: usize = 1_000;

/// The name under which callers beyond [`MAX_CALLERS`] are counted.
pub const OTHER_CALLERS: &str = "(others)";

/// How long a caller is listed after its last call.
pub const CALLER_RETENTION: Duration = Duration::from_hours(30 * 24);

/// A call within this many days shows that a client still needs the route.
pub const RECENT_CALL_DAYS: u64 = 7;

/// A caller of a deprecated route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeprecatedCaller {
    /// The caller's name.
    pub name: String,
    /// Calls: the number to add when recorded, the sum when listed.
    pub call_count: u64,
    /// The time of the last call.
    pub last_called_at: UnixMs,
}

/// Records and lists the callers of deprecated routes.
#[async_trait]
pub trait DeprecatedCallerLog: Send + Sync + 'static {
    /// Adds calls of a deprecated route to the sums of their callers.
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError>;

    /// The callers of a deprecated route in the last [`CALLER_RETENTION`], latest call first.
    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError>;
}

/// How many callers called within the last [`RECENT_CALL_DAYS`], and the names of the three of them
/// with the most calls, separated by commas.
#[must_use]
pub fn summarize_recent_callers(callers: &[DeprecatedCaller], now: UnixMs) -> (usize, String) {
    const MAX_NAMED_CALLERS: usize = 3;
    let recent_period = Duration::from_hours(RECENT_CALL_DAYS * 24);
    let mut recent: Vec<&DeprecatedCaller> =
        callers.iter().filter(|caller| now.since(caller.last_called_at) < recent_period).collect();
    recent.sort_by_key(|caller| std::cmp::Reverse(caller.call_count));
    let names: Vec<&str> =
        recent.iter().take(MAX_NAMED_CALLERS).map(|caller| caller.name.as_str()).collect();
    (recent.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_callers_are_named_by_descending_number_of_calls() {
        let now = UnixMs(10 * 24 * 3_600_000);
        let caller = |name: &str, call_count, days_ago: u64| DeprecatedCaller {
            name: name.into(),
            call_count,
            last_called_at: UnixMs(now.0 - days_ago * 24 * 3_600_000),
        };
        let callers = [
            caller("a", 1, 0),
            caller("b", 9, 6),
            caller("c", 99, 8),
            caller("d", 5, 1),
            caller("e", 3, 1),
        ];
        assert_eq!(summarize_recent_callers(&callers, now), (4, "b, d, e".to_owned()));
        assert_eq!(summarize_recent_callers(&[], now), (0, String::new()));
    }
}
