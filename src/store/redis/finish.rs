//! Ends of tasks, many in one call of the script (`batch.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::batch::{Answer, Answers, Calls, distinct};
use super::keys;
use super::link::Link;
use super::message::to_json;
use super::script::{FINISH, number};

/// The end of one task, as the script takes it.
pub(super) struct Ending {
    /// The queue's keys: stream, dead letters, Python's retry counts.
    pub(super) queue: [String; 3],
    /// The queue's group.
    pub(super) group: String,
    /// The key of the task's record.
    pub(super) record: String,
    /// And of its result.
    pub(super) result_key: String,
    /// The stream entry's id.
    pub(super) entry: String,
    /// The lease: attempt and turn.
    pub(super) lease: (u32, u64),
    /// What the task ends as.
    pub(super) state: &'static str,
    /// The result, kept for `ttl` ms.
    pub(super) result: String,
    /// How long it is kept, ms.
    pub(super) ttl: u64,
    /// The task's id.
    pub(super) id: String,
    /// For how long nobody must have touched the entry, ms.
    pub(super) idle: u64,
    /// The JSON around the failed message of its dead letter; empty without one.
    pub(super) letter: (String, String),
    /// Whether that message is JSON.
    pub(super) sound: bool,
    /// When it ended, ms.
    pub(super) at: u64,
    /// Whom its end is told to, as `outbox::letters` has it.
    pub(super) told: String,
    /// What it is counted as, where its record says that it is.
    pub(super) outcome: &'static str,
    /// The tally that it is counted in, as far as its lease knows: declared, so that it is there.
    pub(super) tally: Option<String>,
}

/// Where the calls go.
pub(super) struct To<'a> {
    /// The server.
    pub(super) link: &'a Link,
    /// The index of results.
    pub(super) results: &'a str,
    /// The outbox.
    pub(super) outbox: &'a str,
    /// This process's name: its channel need not be told.
    pub(super) name: &'a str,
    /// Before a tally's name.
    pub(super) tallies: &'a str,
}

/// What few ends need, as the script takes it.
#[derive(Serialize)]
struct More<'a>(u64, &'a str, &'a str, bool, &'a str);

impl Calls for To<'_> {
    type Item = Ending;
    /// Whether it applied, or was fenced.
    type Reply = bool;

    fn bytes(ending: &Ending) -> usize {
        ending.result.len() + ending.letter.0.len() + ending.letter.1.len()
    }

    async fn call(&self, endings: &[Arc<Ending>]) -> Answers<bool> {
        let (queues, of_queue) = distinct(endings, |one, other| one.group == other.group && one.queue == other.queue);
        let mut all = vec![self.results];
        all.extend(queues.iter().flat_map(|ending| ending.queue.iter().map(String::as_str)));
        all.extend(endings.iter().map(|ending| ending.record.as_str()));
        all.extend(endings.iter().map(|ending| ending.result_key.as_str()));
        let tallies: BTreeSet<&str> = endings.iter().filter_map(|ending| ending.tally.as_deref()).collect();
        all.extend(tallies);
        all.push(self.outbox);
        let mut call = FINISH.keys(&all).arg(&[keys::CHANNEL, self.name, self.tallies]);
        call = call.arg(queues.len()).arg(endings.len());
        for ending in &queues {
            call = call.arg(&ending.group);
        }
        for (ending, queue) in endings.iter().zip(of_queue) {
            call = call
                .arg(queue)
                .arg(&ending.entry)
                .arg(ending.lease.0)
                .arg(ending.lease.1)
                .arg(ending.state)
                .arg(&ending.result)
                .arg(ending.ttl)
                .arg(&ending.id)
                .arg(ending.at)
                .arg(ending.outcome)
                .arg(ending.more()?);
        }
        let replies: Vec<redis::Value> = call.run(self.link).await?;
        Ok(replies.into_iter().map(|reply| number(reply).map(|applied| applied == 1)).collect())
    }
}

impl Ending {
    fn more(&self) -> Answer<String> {
        let Self { idle, letter: (head, tail), sound, told, .. } = self;
        if *idle == 0 && head.is_empty() && told.is_empty() {
            return Ok(String::new());
        }
        to_json(&More(*idle, head, tail, *sound, told))
    }
}
