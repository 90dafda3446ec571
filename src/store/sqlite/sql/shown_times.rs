//! Converts the times of what was read to the system's clock: tables hold times of the store's.

use crate::store::read::TaskListPage;
use crate::store::sqlite::database::SqliteClock;
use crate::task::{TaskDetails, TaskRecord, UnixMs};

fn convert_all<const N: usize>(clock: &SqliteClock, times: [&mut Option<UnixMs>; N]) {
    for time in times.into_iter().flatten() {
        *time = clock.to_system_time(*time);
    }
}

/// Converts the times of a record.
pub(crate) fn convert_record_times(clock: &SqliteClock, record: &mut TaskRecord) {
    record.created = clock.to_system_time(record.created);
    convert_all(clock, [&mut record.due, &mut record.finished]);
}

/// Converts the times of a task's details.
pub(crate) fn convert_details_times(clock: &SqliteClock, details: &mut TaskDetails) {
    convert_record_times(clock, &mut details.record);
    convert_all(clock, [&mut details.next_attempt_at]);
    for attempt in &mut details.attempts {
        convert_all(clock, [&mut attempt.started, &mut attempt.ended]);
    }
}

/// Converts the times of a page of the task list.
pub(crate) fn convert_page_times(clock: &SqliteClock, page: &mut TaskListPage) {
    for task in &mut page.tasks {
        convert_all(clock, [&mut task.created_at, &mut task.finished_at]);
    }
}
