//! The wording of a failed request.

use std::error::Error;

/// The innermost error: "connection refused" rather than "client error".
pub(crate) fn format_root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
