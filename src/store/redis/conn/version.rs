//! The version of a Redis server, checked once for each new connection.

use std::collections::HashMap;

use redis::{Value, from_redis_value};

use crate::store::StoreError;
use crate::store::redis::conn::connection::RedisConnection;
use crate::store::redis::conn::error;

/// The oldest release (major, minor) that has the commands of our scripts.
const OLDEST_SUPPORTED_VERSION: (u32, u32) = (7, 0);

/// Whether a version such as `7.0.15` is too old. Text that is no version counts as new enough.
fn is_version_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    numbers
        .next()
        .is_some_and(|major| (major, numbers.next().unwrap_or_default()) < OLDEST_SUPPORTED_VERSION)
}

/// Refuses a server whose version is too old. Uses `HELLO`, which every user may call that can
/// connect at all.
pub(crate) async fn check_server_version(
    connection: &mut RedisConnection,
    server: &str,
) -> Result<(), StoreError> {
    let mut hello =
        match connection.send_query::<HashMap<String, Value>>(&redis::cmd("HELLO")).await {
            Ok(hello) => hello,
            Err(error) if error.is_unrecoverable_error() => {
                return Err(StoreError::Unreachable(error::format_redis_error(&error)));
            }
            Err(_) => return Ok(()),
        };
    let version =
        hello.remove("version").and_then(|version| from_redis_value::<String>(version).ok());
    match version {
        Some(version) if is_version_too_old(&version) => {
            Err(version_too_old_error(server, &version))
        }
        _ => Ok(()),
    }
}

fn version_too_old_error(server: &str, version: &str) -> StoreError {
    let (major, minor) = OLDEST_SUPPORTED_VERSION;
    let way_out = "upgrade it, or set store.url to another server";
    StoreError::Unreachable(format!(
        "{server} is Redis {version}, and {major}.{minor} is the oldest served: {way_out}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_before_7_are_too_old() {
        for (version, old) in
            [("6.2.14", true), ("7.0.0", false), ("7", false), ("10.1", false), ("unknown", false)]
        {
            assert_eq!(is_version_too_old(version), old, "{version}");
        }
    }
}
