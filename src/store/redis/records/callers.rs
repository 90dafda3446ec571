//! The callers of deprecated routes: how often and when each called.

use std::collections::HashMap;

use redis::Value;

use crate::store::StoreError;
use crate::store::caller::{CALLER_RETENTION, DeprecatedCaller, MAX_CALLERS, OTHER_CALLERS};
use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{READ_CALLERS, RECORD_CALLERS};
use crate::store::redis::time::as_millis_u64;
use crate::task::UnixMs;

impl PartitionCore {
    /// Adds calls to the counts of a route.
    pub(crate) async fn record_callers(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut call = RECORD_CALLERS
            .call_with_keys(&[
                ("call_counts", self.keys.caller_counts_key(route)),
                ("last_calls", self.keys.caller_last_call_key(route)),
            ])
            .arg("retention_ms", as_millis_u64(CALLER_RETENTION))
            .arg("max_callers", MAX_CALLERS)
            .arg("other_callers", OTHER_CALLERS);
        for caller in calls {
            call = call
                .arg("name", &caller.name)
                .arg("calls", caller.call_count)
                .arg("last_call_ms", caller.last_called_at.0);
        }
        call.run::<Value>(&self.link).await.map(|_| ())
    }

    /// The callers of a route, the last call first.
    pub(crate) async fn read_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        let (last, counts): (Vec<(String, u64)>, HashMap<String, u64>) = READ_CALLERS
            .call_with_keys(&[
                ("call_counts", self.keys.caller_counts_key(route)),
                ("last_calls", self.keys.caller_last_call_key(route)),
            ])
            .arg("retention_ms", as_millis_u64(CALLER_RETENTION))
            .run(&self.link)
            .await?;
        let caller = |(name, last): (String, u64)| {
            let call_count = counts.get(&name).copied().unwrap_or_default();
            DeprecatedCaller { name, call_count, last_called_at: UnixMs(last) }
        };
        Ok(last.into_iter().map(caller).collect())
    }
}
