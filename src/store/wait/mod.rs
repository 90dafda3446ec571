//! Callers in this process that wait for a task's end, or watch a task's state.

mod end_waiters;
mod task_watchers;

pub use self::end_waiters::{TaskEndWaiter, TaskEndWaiters};
pub use self::task_watchers::{TaskWatcher, TaskWatchers, WatchUpdate};
