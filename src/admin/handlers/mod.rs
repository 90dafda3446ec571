//! The endpoints of `/admin/v1`: each parses its request, makes one operation or calls the
//! controller, and renders a document of `views/`. A handler is named after its method and path.

pub(super) mod config;
pub(super) mod dead_letters;
pub(super) mod rollout_commands;
pub(super) mod rollout_events;
pub(super) mod rollouts;
pub(super) mod status;
pub(super) mod tasks;
