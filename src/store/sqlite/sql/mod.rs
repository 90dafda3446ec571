//! The SQL statements, by concern: changes, which run inside the writer's transaction, and queries,
//! which run on the reader's connection.
//!
//! A change may be applied, rolled back and applied again, so it alters nothing but the
//! `WriterDatabase`. Whatever changes a task's state also moves the task in the queue counts, and
//! whatever ends a task deletes its credentials.

pub(super) mod callers;
pub(super) mod claims;
pub(super) mod dead_letters;
pub(super) mod evidence;
pub(super) mod lead;
pub(super) mod lease;
pub(super) mod outbox;
pub(super) mod queue;
pub(super) mod reap;
pub(super) mod replicas;
pub(super) mod rollout;
pub(super) mod shown_times;
pub(super) mod task_end;
pub(super) mod task_list;
pub(super) mod tasks;
