//! The callers of deprecated routes.

use async_trait::async_trait;

use crate::store::caller::{DeprecatedCaller, DeprecatedCallerLog};
use crate::store::error::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::map_query_error;
use crate::store::sqlite::sql::callers;

#[async_trait]
impl DeprecatedCallerLog for SqliteStore {
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        let (route, calls) = (route.to_owned(), calls.to_vec());
        self.writer
            .submit_change(move |db| callers::record_deprecated_calls(db, &route, &calls))
            .await
    }

    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        let (route, now) = (route.to_owned(), self.clock.store_time());
        let mut callers = self
            .reader
            .run_query(move |connection| {
                callers::list_deprecated_callers(connection, &route, now).map_err(map_query_error)
            })
            .await?;
        for caller in &mut callers {
            caller.last_called_at = self.clock.to_system_time(caller.last_called_at);
        }
        Ok(callers)
    }
}
