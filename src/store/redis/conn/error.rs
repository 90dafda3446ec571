//! What a Redis error means for the caller: nothing was sent, the outcome is unknown, or the server
//! refused.

use redis::{ConnectionAddr, ErrorKind, RedisError, ServerErrorKind, Value, parse_redis_value};

use crate::store::{StoreError, StoreRefusal};

/// The meaning of an error of a call that was sent.
pub(crate) fn from_call_error(error: &RedisError) -> StoreError {
    match error.kind() {
        ErrorKind::Io => StoreError::OutcomeUnknown(format_redis_error(error)),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            StoreRefusal::ReadOnly(format_redis_error(error)).into()
        }
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask,
        )
        | ErrorKind::AuthenticationFailed => StoreError::Unreachable(format_redis_error(error)),
        // a script found that some of its keys had been migrated with their slot; Redis has no code
        // for this error
        ErrorKind::Server(_) if format_redis_error(error).contains("non local key") => {
            StoreError::OutcomeUnknown(format_redis_error(error))
        }
        ErrorKind::Server(_) | ErrorKind::Extension => from_error_code(error),
        _ => StoreError::Malformed(format_redis_error(error)),
    }
}

/// Whether the server is not, or no longer, the master of the keys. Nothing was executed, and
/// another server may be the master.
pub(crate) fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
        )
    )
}

/// The meaning of an error that a script caught and returns as text, `CODE detail`.
pub(crate) fn from_error_text(text: &str) -> StoreError {
    let line = format!("-{}\r\n", text.replace(['\r', '\n'], " "));
    match parse_redis_value(line.as_bytes()).and_then(Value::extract_error) {
        Err(error) => from_call_error(&error),
        Ok(_) => StoreError::Malformed(text.to_owned()),
    }
}

/// The meaning of an error of a connect to `server`, where nothing was sent. The text says what an
/// operator can change, and never contains the password.
pub(crate) fn from_connect_error(error: &RedisError, server: &ConnectionAddr) -> StoreError {
    let scheme = if matches!(server, ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
    let text = match (error.kind(), error.code()) {
        (_, Some("NOAUTH")) => {
            format!("Redis asks for a password: write {scheme}://:PASSWORD@{server}")
        }
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            format!(
                "Redis refuses the user or password of store.url: check them, \
                 {scheme}://:PASSWORD@{server}"
            )
        }
        (ErrorKind::RESP3NotSupported, _) => {
            format!(
                "{server} is older than Redis 7.0: upgrade it, or set store.url to another server"
            )
        }
        (ErrorKind::Parse | ErrorKind::UnexpectedReturnType, _) => {
            format!("{server} answers, but not as Redis does: check store.url")
        }
        _ => match from_call_error(error) {
            StoreError::OutcomeUnknown(text) | StoreError::Malformed(text) => text,
            other => return other,
        },
    };
    StoreError::Unreachable(text)
}

/// The meaning of a server error that the driver has no kind for. The error of a script is that of
/// its first failing command.
fn from_error_code(error: &RedisError) -> StoreError {
    match error.code() {
        Some("OOM") => StoreRefusal::StorageFull(format_redis_error(error)).into(),
        Some("MISCONF" | "NOREPLICAS") => StoreRefusal::ReadOnly(format_redis_error(error)).into(),
        Some("NOPERM") => StoreError::InvalidSetup(format!(
            "the store's user may not do this: {}",
            format_redis_error(error)
        )),
        Some("BUSY" | "NOAUTH" | "WRONGPASS") => StoreError::Unreachable(format_redis_error(error)),
        _ => StoreError::Malformed(format_redis_error(error)),
    }
}

/// The error for a reply to a batch that does not have the expected form.
pub(crate) fn unreadable_batch_reply() -> StoreError {
    StoreError::Malformed("the store's answer to many calls in one cannot be read".into())
}

/// The code and the detail of an error where it has both, else its text.
pub(crate) fn format_redis_error(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}
