//! HTTP as clients, upstreams and the network between them speak it.

pub mod client;
pub mod fault;
pub mod fixed_response;
pub mod websocket;
