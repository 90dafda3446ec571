//! Real Redis servers: one, one with replicas under sentinels, and a cluster.

pub mod acl;
pub mod cluster;
pub mod sentinel;
pub mod server;
