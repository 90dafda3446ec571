//! The way of a connection and its requests through a data-plane thread: `accept.rs` accepts the
//! connection, `check_request.rs` refuses what must not be passed on, `dispatch.rs` chooses the
//! path or endpoint, and `accounting.rs` counts the response.

mod accept;
mod accounting;
mod check_request;
mod dispatch;
mod flush;

pub use self::accept::ProxyShutdown;
pub(crate) use self::accept::run_thread;
