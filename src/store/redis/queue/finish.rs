//! The script call that ends tasks, many of them at once (`script/batch.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::script::batch::{
    BatchCall, BatchCallResult, BatchItemResult, LARGE_ITEM_BYTES, distinct_with_positions,
};
use crate::store::redis::script::runner::{FINISH_TASKS, NamedKey, parse_int_reply};
use crate::store::redis::wire::json::to_json;
use crate::store::redis::wire::keys;

/// The end of one task, as the script takes it.
pub(crate) struct FinishItem {
    /// The queue's keys: stream, dead letters, Python's retry counts.
    pub(crate) queue_keys: [NamedKey; 3],
    /// The queue's consumer group.
    pub(crate) group: String,
    /// The key of the task's record.
    pub(crate) record_key: String,
    /// The key of the task's result.
    pub(crate) result_key: String,
    /// The stream entry's id.
    pub(crate) entry_id: String,
    /// The number of the attempt, the first part of the fencing token.
    pub(crate) attempt: u32,
    /// The number of the lease, the second part of the fencing token.
    pub(crate) lease_number: u64,
    /// The final status of the task.
    pub(crate) final_state: &'static str,
    /// The value of `omni:result:<id>`.
    pub(crate) result_json: String,
    /// How long the result is kept, ms.
    pub(crate) result_ttl_ms: u64,
    /// The task's id.
    pub(crate) task_id: String,
    /// How long the entry must not have been leased or renewed, ms; 0 for any time.
    pub(crate) min_idle_ms: u64,
    /// The JSON before and after the failed message of the dead letter; empty where there is none.
    pub(crate) dead_letter_parts: (String, String),
    /// Whether the entry's data are JSON, which the dead letter can hold unquoted.
    pub(crate) is_message_json: bool,
    /// When the task ended, ms since 1970.
    pub(crate) ended_at_ms: u64,
    /// The deliveries of the task's end, as `render_outbox_entries` writes them.
    pub(crate) deliveries_json: String,
    /// The outcome that the task is tallied as, where its record says that it is counted.
    pub(crate) tally_outcome: &'static str,
    /// The tally that counts the task, as far as its lease knows; among the call's keys so that the
    /// script may write it.
    pub(crate) tally_key: Option<String>,
}

/// Where the calls go, and the keys that all of them use.
pub(crate) struct FinishTarget<'a> {
    /// The partition's link.
    pub(crate) link: &'a MasterLink,
    /// The partition's link for large writes.
    pub(crate) large_write_link: &'a MasterLink,
    /// The index of results.
    pub(crate) results_index_key: &'a str,
    /// The outbox's index.
    pub(crate) outbox_index_key: &'a str,
    /// The name of this process, whose own channel needs no notification.
    pub(crate) instance_id: &'a str,
    /// What precedes `<route>:<epoch>` in the key of a tally.
    pub(crate) tally_prefix: &'a str,
}

/// The arguments that few tasks need, as one JSON array: `min_idle_ms`, the JSON before and after
/// the message of the dead letter, `is_message_json`, `deliveries_json`.
#[derive(Serialize)]
struct FinishExtras<'a>(u64, &'a str, &'a str, bool, &'a str);

impl BatchCall for FinishTarget<'_> {
    type Item = FinishItem;
    /// Whether the end was applied; false where a later lease fenced it.
    type Reply = bool;

    fn estimate_item_bytes(item: &FinishItem) -> usize {
        item.result_json.len() + item.dead_letter_parts.0.len() + item.dead_letter_parts.1.len()
    }

    async fn send_batch(&self, items: &[Arc<FinishItem>]) -> BatchCallResult<bool> {
        let (queues, queue_positions) = distinct_with_positions(items, |one, other| {
            one.group == other.group && one.queue_keys == other.queue_keys
        });
        let mut keys =
            vec![("results_index", self.results_index_key), ("outbox", self.outbox_index_key)];
        keys.extend(
            queues
                .iter()
                .flat_map(|item| item.queue_keys.iter())
                .map(|(name, key)| (*name, key.as_str())),
        );
        keys.extend(items.iter().map(|item| ("record_key", item.record_key.as_str())));
        keys.extend(items.iter().map(|item| ("result_key", item.result_key.as_str())));
        let tally_keys: BTreeSet<&str> =
            items.iter().filter_map(|item| item.tally_key.as_deref()).collect();
        keys.extend(tally_keys.into_iter().map(|key| ("declared_tally", key)));
        let mut call = FINISH_TASKS
            .call_with_keys(&keys)
            .arg("channel_prefix", keys::CHANNEL_PREFIX)
            .arg("own_instance_id", self.instance_id)
            .arg("tally_prefix", self.tally_prefix)
            .arg("queue_count", queues.len())
            .arg("task_count", items.len())
            .arg_each("group", queues.iter().map(|item| &item.group));
        for (item, queue_position) in items.iter().zip(queue_positions) {
            call = call
                .arg("queue_position", queue_position)
                .arg("entry", &item.entry_id)
                .arg("attempt", item.attempt)
                .arg("lease_number", item.lease_number)
                .arg("state", item.final_state)
                .arg("result", &item.result_json)
                .arg("ttl_ms", item.result_ttl_ms)
                .arg("task_id", &item.task_id)
                .arg("ended_ms", item.ended_at_ms)
                .arg("tally_outcome", item.tally_outcome)
                .arg("extras", item.encode_extras()?);
        }
        let is_large = items.iter().any(|item| Self::estimate_item_bytes(item) > LARGE_ITEM_BYTES);
        let link = if is_large { self.large_write_link } else { self.link };
        let replies: Vec<redis::Value> = call.run(link).await?;
        Ok(replies
            .into_iter()
            .map(|reply| parse_int_reply(reply).map(|applied| applied == 1))
            .collect())
    }
}

impl FinishItem {
    fn encode_extras(&self) -> BatchItemResult<String> {
        let (head, tail) = &self.dead_letter_parts;
        if self.min_idle_ms == 0 && head.is_empty() && self.deliveries_json.is_empty() {
            return Ok(String::new());
        }
        to_json(&FinishExtras(
            self.min_idle_ms,
            head,
            tail,
            self.is_message_json,
            &self.deliveries_json,
        ))
    }
}
