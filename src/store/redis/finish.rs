//! Ends of tasks, many in one call of the script (`batch.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::batch::{BatchCall, BatchCallResult, BatchItemResult, distinct_with_positions};
use super::keys;
use super::link::MasterLink;
use super::message::to_json;
use super::script::{FINISH_TASKS, parse_int_reply};

/// The end of one task, as the script takes it.
pub(super) struct FinishItem {
    /// The queue's keys: stream, dead letters, Python's retry counts.
    pub(super) queue_keys: [String; 3],
    /// The queue's group.
    pub(super) group: String,
    /// The key of the task's record.
    pub(super) record_key: String,
    /// And of its result.
    pub(super) result_key: String,
    /// The stream entry's id.
    pub(super) entry_id: String,
    /// The lease: attempt and turn.
    pub(super) lease_token: (u32, u64),
    /// What the task ends as.
    pub(super) final_state: &'static str,
    /// The result, kept for `ttl` ms.
    pub(super) result_json: String,
    /// How long it is kept, ms.
    pub(super) result_ttl_ms: u64,
    /// The task's id.
    pub(super) task_id: String,
    /// For how long nobody must have touched the entry, ms.
    pub(super) min_idle_ms: u64,
    /// The JSON around the failed message of its dead letter; empty without one.
    pub(super) dead_letter_parts: (String, String),
    /// Whether that message is JSON.
    pub(super) is_message_json: bool,
    /// When it ended, ms.
    pub(super) ended_at_ms: u64,
    /// Whom its end is told to, as `outbox::letters` has it.
    pub(super) deliveries_json: String,
    /// What it is counted as, where its record says that it is.
    pub(super) tally_outcome: &'static str,
    /// The tally that it is counted in, as far as its lease knows: declared, so that it is there.
    pub(super) tally_key: Option<String>,
}

/// Where the calls go.
pub(super) struct FinishTarget<'a> {
    /// The server.
    pub(super) link: &'a MasterLink,
    /// The index of results.
    pub(super) results_index_key: &'a str,
    /// The outbox.
    pub(super) outbox_index_key: &'a str,
    /// This process's name: its channel need not be told.
    pub(super) instance_id: &'a str,
    /// Before a tally's name.
    pub(super) tally_prefix: &'a str,
}

/// What few ends need, as the script takes it.
#[derive(Serialize)]
struct FinishExtras<'a>(u64, &'a str, &'a str, bool, &'a str);

impl BatchCall for FinishTarget<'_> {
    type Item = FinishItem;
    /// Whether it applied, or was fenced.
    type Reply = bool;

    fn estimate_item_bytes(ending: &FinishItem) -> usize {
        ending.result_json.len()
            + ending.dead_letter_parts.0.len()
            + ending.dead_letter_parts.1.len()
    }

    async fn send_batch(&self, endings: &[Arc<FinishItem>]) -> BatchCallResult<bool> {
        let (queues, of_queue) = distinct_with_positions(endings, |one, other| {
            one.group == other.group && one.queue_keys == other.queue_keys
        });
        let mut all = vec![self.results_index_key];
        all.extend(queues.iter().flat_map(|ending| ending.queue_keys.iter().map(String::as_str)));
        all.extend(endings.iter().map(|ending| ending.record_key.as_str()));
        all.extend(endings.iter().map(|ending| ending.result_key.as_str()));
        let tallies: BTreeSet<&str> =
            endings.iter().filter_map(|ending| ending.tally_key.as_deref()).collect();
        all.extend(tallies);
        all.push(self.outbox_index_key);
        let mut call = FINISH_TASKS.call_with_keys(&all).arg(&[
            keys::CHANNEL_PREFIX,
            self.instance_id,
            self.tally_prefix,
        ]);
        call = call.arg(queues.len()).arg(endings.len());
        for ending in &queues {
            call = call.arg(&ending.group);
        }
        for (ending, queue) in endings.iter().zip(of_queue) {
            call = call
                .arg(queue)
                .arg(&ending.entry_id)
                .arg(ending.lease_token.0)
                .arg(ending.lease_token.1)
                .arg(ending.final_state)
                .arg(&ending.result_json)
                .arg(ending.result_ttl_ms)
                .arg(&ending.task_id)
                .arg(ending.ended_at_ms)
                .arg(ending.tally_outcome)
                .arg(ending.encode_extras()?);
        }
        let replies: Vec<redis::Value> = call.run(self.link).await?;
        Ok(replies
            .into_iter()
            .map(|reply| parse_int_reply(reply).map(|applied| applied == 1))
            .collect())
    }
}

impl FinishItem {
    fn encode_extras(&self) -> BatchItemResult<String> {
        let Self {
            min_idle_ms: idle,
            dead_letter_parts: (head, tail),
            is_message_json: sound,
            deliveries_json: told,
            ..
        } = self;
        if *idle == 0 && head.is_empty() && told.is_empty() {
            return Ok(String::new());
        }
        to_json(&FinishExtras(*idle, head, tail, *sound, told))
    }
}
