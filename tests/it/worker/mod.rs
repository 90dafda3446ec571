//! What workers do: they run programs, repeat failed attempts and deliver webhooks.

mod programs;
mod retries;
mod webhooks;
