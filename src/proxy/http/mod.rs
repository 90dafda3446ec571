//! HTTP building blocks of the data plane: a client's byte stream and its framing, request bodies,
//! and header fields.
//!
//! The lowest floor of the proxy: nothing here knows routes, tasks, the store or the upstream's
//! connections, and no status of a response is chosen here.

pub(crate) mod api_key;
pub(crate) mod checked_stream;
pub(crate) mod collect;
pub(crate) mod framing_check;
pub(crate) mod headers;
pub(crate) mod request_body;
pub(crate) mod validate;
