//! Ends of tasks go to Redis many in one call: those at hand while the last call is under way go in the next.
//!
//! No timer and no task of its own: of the callers whose settlements wait, one leads. It takes what waits, makes the
//! call, gives each its answer and passes the lead on. A leader that is dropped passes it on too; what it had sent is
//! then [`StoreError::Unknown`] to its owners, and what had not been sent goes with the next. A large result goes alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Value, from_redis_value};
use tokio::sync::oneshot;

use super::link::Link;
use super::script::FINISH;
use super::{error, keys};
use crate::store::StoreError;

/// Tasks in one call: a script holds up the server for as long as it runs.
const MOST: usize = 64;
/// Bytes after which no more goes into a call.
const ENOUGH: usize = 512 * 1024;
/// A result of more bytes goes alone, so that nobody waits for it.
const LARGE: usize = 128 * 1024;

/// The end of one task, as the script takes it.
pub(super) struct Ending {
    /// The queue's keys: stream, dead letters, Python's retry counts.
    pub(super) queue: [String; 3],
    /// The queue's group.
    pub(super) group: String,
    /// The task's keys: record, result.
    pub(super) keys: [String; 2],
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
    /// The tally that it is counted in, as far as its lease knows: declared, so that it is there.
    pub(super) tally: Option<String>,
    /// What it is counted as, where its record says that it is.
    pub(super) outcome: &'static str,
}

/// Whether it applied, or was fenced.
type Answer = Result<bool, StoreError>;

/// The settlements that wait for a call.
#[derive(Default)]
pub(super) struct Finishing(Mutex<State>);

#[derive(Default)]
struct State {
    /// Whether somebody leads.
    led: bool,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    ending: Ending,
    tell: oneshot::Sender<Told>,
}

enum Told {
    Answer(Answer),
    /// It is its owner's turn to lead, with the settlement that it had left here.
    Lead(Lead, Box<Ending>),
}

/// The right to make the next call; passed on when dropped.
struct Lead(Arc<Finishing>);

// === impl Finishing ===

impl Finishing {
    /// Ends a task, together with those that wait.
    pub(super) async fn finish(self: &Arc<Self>, ending: Ending, to: &To<'_>) -> Answer {
        if ending.bytes() > LARGE {
            return call(&[ending], to).await?.pop().unwrap_or_else(|| Err(no_answer()));
        }
        match self.join(ending) {
            Ok((lead, ending)) => lead.finish(ending, to).await,
            Err(told) => match told.await {
                Ok(Told::Answer(answer)) => answer,
                Ok(Told::Lead(lead, ending)) => lead.finish(*ending, to).await,
                Err(_) => Err(StoreError::Unknown("the call that a settlement went with was given up".into())),
            },
        }
    }

    /// The lead, where nobody has it; else the settlement waits.
    fn join(self: &Arc<Self>, ending: Ending) -> Result<(Lead, Ending), oneshot::Receiver<Told>> {
        let mut state = self.state();
        if !state.led {
            state.led = true;
            return Ok((Lead(Arc::clone(self)), ending));
        }
        let (tell, told) = oneshot::channel();
        state.waiting.push_back(Waiting { ending, tell });
        Err(told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lead ===

impl Lead {
    async fn finish(self, own: Ending, to: &To<'_>) -> Answer {
        let (endings, told) = self.take(own);
        let outcome = call(&endings, to).await;
        if let Err(error) = &outcome
            && error.is_outage()
        {
            self.send_back(error);
        }
        let mut answers = match outcome {
            Ok(answers) => answers.into_iter(),
            Err(error) => vec![Err(error); endings.len()].into_iter(),
        };
        let mine = answers.next().unwrap_or_else(|| Err(no_answer()));
        for tell in told {
            let answer = answers.next().unwrap_or_else(|| Err(no_answer()));
            // whose owner is gone, nobody needs to know
            let _ = tell.send(Told::Answer(answer));
        }
        mine
    }

    /// What goes with `own`, as much as is good for one call.
    fn take(&self, own: Ending) -> (Vec<Ending>, Vec<oneshot::Sender<Told>>) {
        let (mut bytes, mut endings, mut told) = (own.bytes(), vec![own], Vec::new());
        let mut state = self.0.state();
        while endings.len() < MOST
            && bytes < ENOUGH
            && let Some(Waiting { ending, tell }) = state.waiting.pop_front()
        {
            if !tell.is_closed() {
                bytes += ending.bytes();
                endings.push(ending);
                told.push(tell);
            }
        }
        (endings, told)
    }

    /// Tells those who wait that the store is gone, rather than letting each find out after the other.
    fn send_back(&self, error: &StoreError) {
        let waiting = std::mem::take(&mut self.0.state().waiting);
        for Waiting { tell, .. } in waiting {
            let _ = tell.send(Told::Answer(Err(StoreError::Unreachable(error.to_string()))));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.state();
                let next = state.waiting.pop_front();
                state.led = next.is_some();
                next
            };
            let Some(Waiting { ending, tell }) = next else { return };
            if !tell.is_closed() {
                // where it is dropped unread, it passes itself on
                let _ = tell.send(Told::Lead(Lead(Arc::clone(&self.0)), Box::new(ending)));
                return;
            }
        }
    }
}

// === the call ===

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

/// One call, with an answer for each.
async fn call(endings: &[Ending], to: &To<'_>) -> Result<Vec<Answer>, StoreError> {
    let mut queues: Vec<&Ending> = Vec::new();
    let mut of_queue = Vec::with_capacity(endings.len());
    for ending in endings {
        let known = queues.iter().position(|other| other.group == ending.group && other.queue == ending.queue);
        of_queue.push(known.unwrap_or(queues.len()) + 1);
        if known.is_none() {
            queues.push(ending);
        }
    }
    let mut all = vec![to.results];
    all.extend(queues.iter().flat_map(|ending| ending.queue.iter().map(String::as_str)));
    all.extend(endings.iter().flat_map(|ending| ending.keys.iter().map(String::as_str)));
    let mut tallies: Vec<&str> = endings.iter().filter_map(|ending| ending.tally.as_deref()).collect();
    tallies.sort_unstable();
    tallies.dedup();
    all.extend(tallies);
    all.push(to.outbox);
    let mut call = FINISH.keys(&all).arg(&[keys::CHANNEL, to.name]).arg(queues.len()).arg(to.tallies);
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
            .arg(ending.idle)
            .arg(&[&ending.letter.0, &ending.letter.1])
            .arg(ending.sound)
            .arg(ending.at)
            .arg(&ending.told)
            .arg(ending.outcome);
    }
    let replies: Vec<Value> = call.run(to.link).await?;
    Ok(replies.into_iter().map(answer).collect())
}

/// Whether it applied; else what the server says is wrong.
fn answer(reply: Value) -> Answer {
    match reply {
        Value::Int(applied) => Ok(applied == 1),
        other => Err(match from_redis_value::<String>(other) {
            Ok(text) => error::of_text(&text),
            Err(_) => no_answer(),
        }),
    }
}

fn no_answer() -> StoreError {
    StoreError::Malformed("the store's answer to a settlement cannot be read".into())
}

impl Ending {
    fn bytes(&self) -> usize {
        self.result.len() + self.letter.0.len() + self.letter.1.len()
    }
}
