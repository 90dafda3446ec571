//! The database as its one writer has it: connection, clock, lock, and what is derived in memory.

mod clock;
mod clock_mark;
mod file_lock;
mod queue_counts;
mod writer_database;

pub use self::clock::SqliteClock;
pub(crate) use self::file_lock::DatabaseLock;
pub(crate) use self::queue_counts::QueueCountsByTopic;
pub(crate) use self::writer_database::WriterDatabase;
