//! State that only this process needs and that a restart may lose.

mod expiring_map;
mod running_attempts;

pub(crate) use self::expiring_map::ExpiringMap;
pub(crate) use self::running_attempts::RunningAttempts;
