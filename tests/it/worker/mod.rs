//! What workers do beside running handlers: they deliver webhooks.

pub(crate) mod webhooks;
