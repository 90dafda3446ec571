//! The query parameter `wait`: how long a client waits for the end of a task.

use std::time::Duration;

/// The value of `wait` is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wait={0} is not a duration: write seconds, or a duration such as 10s or 1m30s")]
pub struct WaitParamError(String);

/// The `wait` of a query, if it has one; the first one counts. A bare number is in seconds.
///
/// # Errors
/// [`WaitParamError`] if the value is not a duration.
pub fn parse_wait_param(query: Option<&str>) -> Result<Option<Duration>, WaitParamError> {
    let given = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| {
        match pair.split_once('=') {
            Some(("wait", value)) => Some(value),
            None if pair == "wait" => Some(""),
            _ => None,
        }
    });
    given.map(parse_wait_duration).transpose()
}

fn parse_wait_duration(text: &str) -> Result<Duration, WaitParamError> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    humantime::parse_duration(text).map_err(|_| WaitParamError(text.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_duration_and_nothing_else() {
        for (query, wait) in [
            (None, None),
            (Some("a=1&await=9"), None),
            (Some("wait=10"), Some(Duration::from_secs(10))),
            (Some("a=1&wait=500ms&wait=x"), Some(Duration::from_millis(500))),
            (Some("wait=1m30s"), Some(Duration::from_secs(90))),
            (Some("wait=0"), Some(Duration::ZERO)),
            (Some("wait=99999999999999999999999"), Some(Duration::from_secs(u64::MAX))),
        ] {
            assert_eq!(parse_wait_param(query), Ok(wait), "{query:?}");
        }
        for bad in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=10%20s"] {
            assert!(parse_wait_param(Some(bad)).is_err(), "{bad}");
        }
        assert!(
            parse_wait_param(Some(&format!("wait={}", "x".repeat(9000))))
                .is_err_and(|bad| bad.to_string().len() < 150)
        );
    }
}
