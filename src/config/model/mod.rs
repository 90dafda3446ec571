//! The checked configuration: data with its defaults and small getters.

pub(crate) mod gate_type;
pub(crate) mod network;
pub(crate) mod promotion_window;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod secret;
pub(crate) mod servers;
pub(crate) mod shadow;
pub(crate) mod store;
pub(crate) mod task_duration;
pub(crate) mod topic;
pub(crate) mod webhooks;
pub(crate) mod workers;
