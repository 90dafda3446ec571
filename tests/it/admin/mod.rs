//! The admin API: what it answers of tasks, dead letters and rollouts, and what it does to them.

mod dead_letters;
mod large_lists;
mod rollouts;
mod tasks;
