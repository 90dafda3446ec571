//! HTTP building blocks of the data plane: a client's byte stream and its framing, request bodies,
//! and header fields.
//!
//! This is the lowest floor of the proxy: its files use neither routes and tasks nor the store and
//! upstream connections, and they choose no response status.

pub(crate) mod api_key;
pub(crate) mod checked_stream;
pub(crate) mod collect;
pub(crate) mod framing_check;
pub(crate) mod headers;
pub(crate) mod request_body;
pub(crate) mod validate;
