//! A connection's and a request's way through a data-plane thread: `accept` connections, `admit` a
//! request, `dispatch` it to its path or endpoint, and `accounting` for the response.

mod accept;
mod accounting;
mod admit;
mod dispatch;
mod flush;

pub use self::accept::ProxyShutdown;
pub(crate) use self::accept::run_thread;
