//! The store traits on [`SqliteStore`](super::SqliteStore), one per file: each method sends a
//! change to the writer thread or a query to the reader thread.

mod callers;
mod claims;
mod dead_letters;
mod lease;
mod outbox;
mod queue;
mod read;
mod rollout;
mod service;
mod workers;
