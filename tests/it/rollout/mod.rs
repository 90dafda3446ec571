//! The rollout machine without servers: how often its gates are wrong, over simulated traffic.

mod gates;
