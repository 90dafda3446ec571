//! What workers do beside running handlers: they deliver webhooks.

mod webhooks;
