//! The upstream's servers: connecting, keeping connections open, and exchanging a request for the
//! head of its response. Everything here belongs to one data-plane thread; nothing is locked.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod pool;
