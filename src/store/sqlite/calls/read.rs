//! Reading tasks and queue depths. The progress of running attempts is added from memory.

use async_trait::async_trait;
use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::queue::{QueueDepth, TopicQueue};
use crate::store::read::{TaskListPage, TaskListRequest, TaskLookup, TaskReader};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::sql::shown_times::{
    convert_details_times, convert_page_times, convert_record_times,
};
use crate::store::sqlite::sql::{queue, task_list, tasks};
use crate::store::wait::TaskEndWaiters;
use crate::task::{TaskDetails, TaskId, TaskRecord, TaskStatus, Topic};

#[async_trait]
impl TaskReader for SqliteStore {
    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (task_id, now) = (id.clone(), self.clock.store_time());
        let mut record = self
            .reader
            .run_query(move |connection| tasks::load_task_record(connection, &task_id, now))
            .await?;
        if let Some(record) = &mut record {
            convert_record_times(&self.clock, record);
        }
        if let Some(record) =
            record.as_mut().filter(|record| record.status == TaskStatus::Processing)
        {
            record.progress = self.running_attempts.progress_of_task(id);
        }
        Ok(record)
    }

    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError> {
        let (task_ids, now) = (ids.to_vec(), self.clock.store_time());
        let look_up = move |connection: &Connection| {
            task_ids
                .iter()
                .map(|id| tasks::look_up_task(connection, id, now))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut found = self.reader.run_query(look_up).await?;
        for (id, lookup) in ids.iter().zip(&mut found) {
            if let TaskLookup::Active(state) = lookup
                && state.status == TaskStatus::Processing
            {
                state.progress = self.running_attempts.progress_of_task(id);
            }
        }
        Ok(found)
    }

    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError> {
        let (task_id, now) = (id.clone(), self.clock.store_time());
        let mut details = self
            .reader
            .run_query(move |connection| tasks::load_task_details(connection, &task_id, now))
            .await?;
        if let Some(details) = &mut details {
            convert_details_times(&self.clock, details);
        }
        if let Some(details) =
            details.as_mut().filter(|details| details.record.status == TaskStatus::Processing)
        {
            details.record.progress = self.running_attempts.progress_of_task(id);
        }
        Ok(details)
    }

    async fn list_tasks(
        &self,
        _queues: &[TopicQueue],
        request: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        let (request, now) = (request.clone(), self.clock.store_time());
        let mut page = self
            .reader
            .run_query(move |connection| task_list::load_task_page(connection, &request, now))
            .await?;
        convert_page_times(&self.clock, &mut page);
        Ok(page)
    }

    async fn load_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        let topics: Vec<Topic> = queues.iter().map(|queue| queue.topic.clone()).collect();
        let (queue_counts, now) = (self.queue_counts.clone(), self.clock.store_time());
        let depth = move |connection: &Connection, topic: &Topic| {
            let counts = queue_counts.counts_of_topic(topic.as_str());
            let oldest = if counts.waiting_count() > 0 {
                queue::load_oldest_waiting(connection, topic)?
            } else {
                None
            };
            Ok(QueueDepth {
                queued: counts.waiting_count(),
                processing: counts.leased,
                dead_letters: counts.dead_letters,
                oldest_age: oldest.map(|created| now.since(created)).unwrap_or_default(),
            })
        };
        self.reader
            .run_query(move |connection| {
                topics.iter().map(|topic| depth(connection, topic)).collect()
            })
            .await
    }

    fn end_waiters(&self) -> &TaskEndWaiters {
        &self.end_waiters
    }
}
