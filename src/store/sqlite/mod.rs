//! The embedded store: one SQLite file, one process, no server.
//!
//! A lock beside the file keeps other processes out. One thread writes, each batch of changes in
//! one transaction that is on disk before any caller is answered; another thread reads and waits
//! for no commit. The fencing token of a lease is the task's id and the number of the lease, which
//! no later lease has, not even after a release returned the attempt. Leases belong to this
//! process: those of an earlier boot are released when the database is opened. Because the store
//! uses threads, not tasks, it can be called from any runtime.
//!
//! `calls/` implements the store traits over `threads/`, which run the statements of `sql/` on the
//! tables of `schema/`; `row/` converts rows, `database/` is the writer's side, and `memory/` holds
//! what a restart may lose.

mod calls;
mod database;
mod memory;
mod row;
mod schema;
mod sql;
mod store;
mod threads;

#[cfg(test)]
mod tests;

pub use self::database::SqliteClock;
pub use self::store::SqliteStore;
