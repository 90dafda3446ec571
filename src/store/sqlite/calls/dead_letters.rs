//! Dead letters.

use async_trait::async_trait;

use crate::store::dead_letter::{DeadLetter, DeadLetterQueue, ReprocessResult};
use crate::store::error::{StoreError, invalid_cursor};
use crate::store::queue::TopicQueue;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::sql::dead_letters;
use crate::task::UnixMs;

#[async_trait]
impl DeadLetterQueue for SqliteStore {
    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let topic = queue.topic.clone();
        let below: i64 =
            before_cursor.map_or(Ok(i64::MAX), str::parse).map_err(|_| invalid_cursor("before"))?;
        let mut letters = self
            .reader
            .run_query(move |connection| {
                dead_letters::list_dead_letters(connection, &topic, below, limit)
            })
            .await?;
        for letter in &mut letters {
            letter.failed_at = self.clock.to_system_time(letter.failed_at);
        }
        Ok(letters)
    }

    async fn get_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<DeadLetter>, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        let mut letter = self
            .reader
            .run_query(move |connection| dead_letters::get_dead_letter(connection, &topic, &id))
            .await?;
        if let Some(letter) = &mut letter {
            letter.failed_at = self.clock.to_system_time(letter.failed_at);
        }
        Ok(letter)
    }

    async fn reprocess_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        _now: UnixMs,
    ) -> Result<ReprocessResult, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer
            .submit_change(move |db| dead_letters::reprocess_dead_letter(db, &topic, &id))
            .await
    }

    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer
            .submit_change(move |db| dead_letters::discard_dead_letter(db, &topic, &id))
            .await
    }
}
