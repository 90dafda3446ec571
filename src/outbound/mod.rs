//! What the HTTP clients of this program share: the trusted root certificates, the wording of
//! failures, and one small client for requests that need neither streaming nor retries.
//!
//! The clients of proxied requests, of tasks and of the command line pool, wait and retry in their
//! own ways, and live in their own rooms.

mod client;
mod root_cause;
mod tls;

pub(crate) use self::client::{build_request, send_request};
pub(crate) use self::root_cause::format_root_cause;
pub(crate) use self::tls::{build_tls_config, load_native_roots};
