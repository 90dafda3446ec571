//! The types of the configuration, one file per section, with defaults and small getters.
//!
//! They hold values that `parse/` has read and `check/` has checked, and do no I/O, except that a
//! secret can read its `${file:…}` references again.

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
