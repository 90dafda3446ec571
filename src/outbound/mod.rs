//! What the HTTP clients of this program share: the trusted root certificates, the header fields
//! that are not forwarded, the wording of failures, and one small client for requests that need
//! neither streaming nor retries.
//!
//! The clients of proxied requests, of tasks and of the command line pool, wait and retry in their
//! own ways, and are in their own modules.

mod client;
mod header_rules;
mod root_cause;
mod tls;

pub(crate) use self::client::{build_request, send_request};
pub(crate) use self::header_rules::{PROTECTED_HEADERS, is_own_header, strip_hop_by_hop};
pub(crate) use self::root_cause::format_root_cause;
pub(crate) use self::tls::{build_tls_config, load_native_roots};
