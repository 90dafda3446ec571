//! Calls of one kind go to Redis many in one: those at hand while the last call is under way go in
//! the next.
//!
//! No timer and no task of its own: of the callers whose items wait, one leads. It takes what
//! waits, makes the call, gives each its answer and passes the lead on. A leader that is dropped
//! passes it on too; whose item it had sent brings it again, so the calls are such as may be
//! repeated. A large item goes alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::store::StoreError;

/// Items in one call: a script holds up the server for as long as it runs.
const MAX_BATCH_ITEMS: usize = 64;
/// Bytes after which no more goes into a call.
const BATCH_BYTES_LIMIT: usize = 512 * 1024;
/// An item of more bytes goes alone, so that nobody waits for it.
const LARGE_ITEM_BYTES: usize = 128 * 1024;

/// How the calls of one kind are made.
pub(super) trait BatchCall: Sync {
    /// What goes into them.
    type Item: Send + Sync;
    /// What one is answered.
    type Reply: Send;

    /// About how large an item is.
    fn estimate_item_bytes(item: &Self::Item) -> usize;

    /// One call, with an answer for each item in their order.
    fn send_batch(
        &self,
        items: &[Arc<Self::Item>],
    ) -> impl Future<Output = BatchCallResult<Self::Reply>> + Send;
}

/// What became of one item.
pub(super) type BatchItemResult<A> = Result<A, StoreError>;

/// What became of a call.
pub(super) type BatchCallResult<A> = Result<Vec<BatchItemResult<A>>, StoreError>;

/// The items that wait for a call.
pub(super) struct CallBatcher<I, A>(Mutex<BatchState<I, A>>);

struct BatchState<I, A> {
    /// Whether somebody leads.
    has_leader: bool,
    waiting_items: VecDeque<WaitingItem<I, A>>,
}

struct WaitingItem<I, A> {
    item: Arc<I>,
    reply_sender: BatchReplySender<I, A>,
}

/// Where the owner of an item is told.
type BatchReplySender<I, A> = oneshot::Sender<BatchReply<I, A>>;

enum BatchReply<I, A> {
    ItemResult(BatchItemResult<A>),
    /// It is its owner's turn to lead.
    BecomeLeader(BatchLeader<I, A>),
}

/// The right to make the next call; passed on when dropped.
struct BatchLeader<I, A>(Arc<CallBatcher<I, A>>);

// === impl Batch ===

impl<I, A> Default for CallBatcher<I, A> {
    fn default() -> Self {
        Self(Mutex::new(BatchState { has_leader: false, waiting_items: VecDeque::new() }))
    }
}

impl<I: Send + Sync, A: Send> CallBatcher<I, A> {
    /// What `calls` answer `item`: alone, or together with those that wait.
    pub(super) async fn submit_item<C: BatchCall<Item = I, Reply = A>>(
        self: &Arc<Self>,
        item: I,
        calls: &C,
    ) -> BatchItemResult<A> {
        let item = Arc::new(item);
        if C::estimate_item_bytes(&item) > LARGE_ITEM_BYTES {
            return calls
                .send_batch(&[item])
                .await?
                .pop()
                .unwrap_or_else(|| Err(unreadable_batch_reply()));
        }
        loop {
            let told = match self.lead_or_wait(&item) {
                Ok(lead) => BatchReply::BecomeLeader(lead),
                Err(waiting) => match waiting.await {
                    Ok(told) => told,
                    // whoever led was dropped: the item may have been sent, and goes again
                    Err(_) => continue,
                },
            };
            return match told {
                BatchReply::ItemResult(answer) => answer,
                BatchReply::BecomeLeader(lead) => lead.lead_batch(item, calls).await,
            };
        }
    }

    /// The lead, where nobody has it; else the item waits.
    fn lead_or_wait(
        self: &Arc<Self>,
        item: &Arc<I>,
    ) -> Result<BatchLeader<I, A>, oneshot::Receiver<BatchReply<I, A>>> {
        let mut state = self.lock_state();
        if !state.has_leader {
            state.has_leader = true;
            return Ok(BatchLeader(Arc::clone(self)));
        }
        let (tell, told) = oneshot::channel();
        state.waiting_items.push_back(WaitingItem { item: Arc::clone(item), reply_sender: tell });
        Err(told)
    }
}

impl<I, A> CallBatcher<I, A> {
    fn lock_state(&self) -> MutexGuard<'_, BatchState<I, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lead ===

impl<I: Send + Sync, A: Send> BatchLeader<I, A> {
    async fn lead_batch<C: BatchCall<Item = I, Reply = A>>(
        self,
        own: Arc<I>,
        calls: &C,
    ) -> BatchItemResult<A> {
        // who was told together with us is about to bring more
        yield_now().await;
        let (items, told) = self.collect_batch(own, C::estimate_item_bytes);
        let outcome = calls.send_batch(&items).await;
        if let Err(error) = &outcome
            && error.is_outage()
        {
            self.fail_waiting_items(error);
        }
        let mut answers = match outcome {
            Ok(answers) => answers.into_iter(),
            Err(error) => items.iter().map(|_| Err(error.clone())).collect::<Vec<_>>().into_iter(),
        };
        let mine = answers.next().unwrap_or_else(|| Err(unreadable_batch_reply()));
        for tell in told {
            let answer = answers.next().unwrap_or_else(|| Err(unreadable_batch_reply()));
            // whose owner is gone, nobody needs to know
            let _ = tell.send(BatchReply::ItemResult(answer));
        }
        mine
    }

    /// What goes with `own`, as much as is good for one call.
    fn collect_batch(
        &self,
        own: Arc<I>,
        bytes_of: fn(&I) -> usize,
    ) -> (Vec<Arc<I>>, Vec<BatchReplySender<I, A>>) {
        let (mut bytes, mut items, mut told) = (bytes_of(&own), vec![own], Vec::new());
        let mut state = self.0.lock_state();
        while items.len() < MAX_BATCH_ITEMS
            && bytes < BATCH_BYTES_LIMIT
            && let Some(WaitingItem { item, reply_sender: tell }) = state.waiting_items.pop_front()
        {
            if !tell.is_closed() {
                bytes += bytes_of(&item);
                items.push(item);
                told.push(tell);
            }
        }
        (items, told)
    }

    /// Tells those who wait that the store is gone, rather than letting each find out after the
    /// other.
    fn fail_waiting_items(&self, error: &StoreError) {
        let waiting = std::mem::take(&mut self.0.lock_state().waiting_items);
        for WaitingItem { reply_sender: tell, .. } in waiting {
            let _ =
                tell.send(BatchReply::ItemResult(Err(StoreError::Unreachable(error.to_string()))));
        }
    }
}

impl<I, A> Drop for BatchLeader<I, A> {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.lock_state();
                let next = state.waiting_items.pop_front();
                state.has_leader = next.is_some();
                next
            };
            let Some(WaitingItem { reply_sender: tell, .. }) = next else { return };
            if !tell.is_closed() {
                // where it is dropped unread, it passes itself on
                let _ = tell.send(BatchReply::BecomeLeader(BatchLeader(Arc::clone(&self.0))));
                return;
            }
        }
    }
}

/// The store's answer is not what was asked for.
pub(super) fn unreadable_batch_reply() -> StoreError {
    StoreError::Malformed("the store's answer to many calls in one cannot be read".into())
}

/// The first of each kind of `items`, and for each item the position of its kind's first among
/// those, from 1.
pub(super) fn distinct_with_positions<I>(
    items: &[Arc<I>],
    same: impl Fn(&I, &I) -> bool,
) -> (Vec<&I>, Vec<usize>) {
    let mut firsts: Vec<&I> = Vec::new();
    let mut positions = Vec::with_capacity(items.len());
    for item in items {
        let known = firsts.iter().position(|first| same(first, item));
        positions.push(known.unwrap_or(firsts.len()) + 1);
        if known.is_none() {
            firsts.push(item);
        }
    }
    (firsts, positions)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    /// Doubles numbers, a call at a time as it is let.
    struct DoublingCall {
        permits: Semaphore,
        batches: mpsc::UnboundedSender<Vec<u32>>,
        unreachable: bool,
    }

    impl DoublingCall {
        fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<u32>>) {
            let (calls, seen) = mpsc::unbounded_channel();
            (
                Arc::new(Self { permits: Semaphore::new(0), batches: calls, unreachable: false }),
                seen,
            )
        }
    }

    impl BatchCall for DoublingCall {
        type Item = u32;
        type Reply = u32;

        fn estimate_item_bytes(number: &u32) -> usize {
            if *number == 1000 { LARGE_ITEM_BYTES + 1 } else { 8 }
        }

        async fn send_batch(&self, items: &[Arc<u32>]) -> BatchCallResult<u32> {
            self.batches
                .send(items.iter().map(|number| **number).collect())
                .expect("somebody looks");
            self.permits.acquire().await.expect("open").forget();
            if self.unreachable {
                return Err(StoreError::OutcomeUnknown("no answer".into()));
            }
            Ok(items
                .iter()
                .map(
                    |number| {
                        if **number == 13 {
                            Err(unreadable_batch_reply())
                        } else {
                            Ok(**number * 2)
                        }
                    },
                )
                .collect())
        }
    }

    /// Runs `number` on its own.
    fn spawn_submit(
        batch: &Arc<CallBatcher<u32, u32>>,
        to: &Arc<DoublingCall>,
        number: u32,
    ) -> tokio::task::JoinHandle<BatchItemResult<u32>> {
        let (batch, to) = (Arc::clone(batch), Arc::clone(to));
        tokio::spawn(async move { batch.submit_item(number, &*to).await })
    }

    #[tokio::test]
    async fn what_comes_during_a_call_goes_in_the_next_and_each_gets_its_own_answer() {
        let ((to, mut seen), batch) =
            (DoublingCall::new(), Arc::<CallBatcher<u32, u32>>::default());
        let first = spawn_submit(&batch, &to, 0);
        assert_eq!(seen.recv().await, Some(vec![0]));
        let rest: Vec<_> = (1..=100).map(|number| spawn_submit(&batch, &to, number)).collect();
        let large = spawn_submit(&batch, &to, 1000);
        assert_eq!(
            seen.recv().await,
            Some(vec![1000]),
            "nobody waits for a large one, nor it for them"
        );
        to.permits.add_permits(100);
        assert_eq!((first.await.expect("ran"), large.await.expect("ran")), (Ok(0), Ok(2000)));
        for (number, answer) in (1..).zip(join_all(rest).await) {
            assert_eq!(answer.expect("ran").ok(), (number != 13).then_some(number * 2));
        }
        let calls =
            [seen.recv().await.expect("a call").len(), seen.recv().await.expect("a call").len()];
        assert_eq!((calls[0], calls[0] + calls[1]), (MAX_BATCH_ITEMS, 100));
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn those_that_come_at_once_go_at_once() {
        let ((to, mut seen), batch) =
            (DoublingCall::new(), Arc::<CallBatcher<u32, u32>>::default());
        to.permits.add_permits(1);
        let answers = join_all((0..10).map(|number| batch.submit_item(number, &*to))).await;
        assert!(answers.into_iter().all(|answer| answer.is_ok()));
        assert_eq!(seen.recv().await.map(|call| call.len()), Some(10));
    }

    #[tokio::test]
    async fn what_went_with_a_leader_that_was_dropped_goes_again() {
        let ((to, mut seen), batch) =
            (DoublingCall::new(), Arc::<CallBatcher<u32, u32>>::default());
        let first = spawn_submit(&batch, &to, 0);
        assert_eq!(seen.recv().await, Some(vec![0]));
        let (leader, follower) = (spawn_submit(&batch, &to, 1), spawn_submit(&batch, &to, 2));
        tokio::task::yield_now().await;
        to.permits.add_permits(1);
        assert_eq!(first.await.expect("ran"), Ok(0));
        assert_eq!(seen.recv().await, Some(vec![1, 2]));
        let waiting = spawn_submit(&batch, &to, 3);
        tokio::task::yield_now().await;
        leader.abort();
        to.permits.add_permits(2);
        assert_eq!(follower.await.expect("ran"), Ok(4));
        assert_eq!(waiting.await.expect("ran"), Ok(6));
    }

    #[tokio::test]
    async fn those_that_wait_are_told_of_an_outage_and_that_nothing_was_sent() {
        let (calls, mut seen) = mpsc::unbounded_channel();
        let to = Arc::new(DoublingCall {
            permits: Semaphore::new(0),
            batches: calls,
            unreachable: true,
        });
        let batch = Arc::<CallBatcher<u32, u32>>::default();
        let sent = spawn_submit(&batch, &to, 1);
        assert_eq!(seen.recv().await, Some(vec![1]));
        let waiting = spawn_submit(&batch, &to, 2);
        tokio::task::yield_now().await;
        to.permits.add_permits(1);
        assert!(matches!(sent.await.expect("ran"), Err(StoreError::OutcomeUnknown(_))));
        assert!(matches!(waiting.await.expect("ran"), Err(StoreError::Unreachable(_))));
        assert!(seen.try_recv().is_err());
    }
}
