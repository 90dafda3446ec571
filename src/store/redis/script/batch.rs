//! Many items in one call to Redis: the items that arrive while a call is under way are sent
//! together in the next one.
//!
//! There is no timer and no task: one of the callers whose items wait is the leader. It takes the
//! waiting items, makes the call, gives each caller its reply and passes the lead on. A leader that
//! is dropped passes it on too, and the callers whose items it had sent submit them again, so a
//! call must be safe to repeat. A large item is sent alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::store::StoreError;
use crate::store::redis::conn::error::unreadable_batch_reply;
use crate::store::redis::lock::lock_unpoisoned;

/// The most items in one call: the server runs nothing else while a script runs.
const MAX_BATCH_ITEMS: usize = 64;
/// A call with this many bytes takes no further item.
const BATCH_BYTES_LIMIT: usize = 512 * 1024;
/// A larger item is sent alone, so that no other caller waits for it.
pub(crate) const LARGE_ITEM_BYTES: usize = 128 * 1024;

/// How the calls of one kind are made.
pub(crate) trait BatchCall: Sync {
    /// What a call consists of.
    type Item: Send + Sync;
    /// The reply to one item.
    type Reply: Send;

    /// The approximate size of an item in the call, bytes.
    fn estimate_item_bytes(item: &Self::Item) -> usize;

    /// Makes one call; the replies are in the order of `items`.
    fn send_batch(
        &self,
        items: &[Arc<Self::Item>],
    ) -> impl Future<Output = BatchCallResult<Self::Reply>> + Send;
}

/// The outcome of one item.
pub(crate) type BatchItemResult<A> = Result<A, StoreError>;

/// The outcome of a call.
pub(crate) type BatchCallResult<A> = Result<Vec<BatchItemResult<A>>, StoreError>;

/// The items that wait for a call.
pub(crate) struct CallBatcher<I, A>(Mutex<BatchState<I, A>>);

struct BatchState<I, A> {
    /// Whether a caller is the leader.
    has_leader: bool,
    waiting_items: VecDeque<WaitingItem<I, A>>,
}

struct WaitingItem<I, A> {
    item: Arc<I>,
    reply_sender: BatchReplySender<I, A>,
}

/// Sends the reply to the caller of an item.
type BatchReplySender<I, A> = oneshot::Sender<BatchReply<I, A>>;

enum BatchReply<I, A> {
    ItemResult(BatchItemResult<A>),
    /// The caller is the leader now.
    BecomeLeader(BatchLeader<I, A>),
}

/// The right to make the next call; passed on when it is dropped.
struct BatchLeader<I, A>(Arc<CallBatcher<I, A>>);

impl<I, A> Default for CallBatcher<I, A> {
    fn default() -> Self {
        Self(Mutex::new(BatchState { has_leader: false, waiting_items: VecDeque::new() }))
    }
}

impl<I: Send + Sync, A: Send> CallBatcher<I, A> {
    /// The reply to `item`, which is sent in one of `calls`, alone or with other waiting items.
    pub(crate) async fn submit_item<C: BatchCall<Item = I, Reply = A>>(
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
            let reply = match self.lead_or_wait(&item) {
                Ok(leader) => BatchReply::BecomeLeader(leader),
                Err(waiting) => match waiting.await {
                    Ok(reply) => reply,
                    // the leader was dropped: the item may have been sent, and is sent again
                    Err(_) => continue,
                },
            };
            return match reply {
                BatchReply::ItemResult(result) => result,
                BatchReply::BecomeLeader(leader) => leader.lead_batch(item, calls).await,
            };
        }
    }

    /// The lead, where no caller has it; else the receiver of the reply to the waiting item.
    fn lead_or_wait(
        self: &Arc<Self>,
        item: &Arc<I>,
    ) -> Result<BatchLeader<I, A>, oneshot::Receiver<BatchReply<I, A>>> {
        let mut state = self.lock_state();
        if !state.has_leader {
            state.has_leader = true;
            return Ok(BatchLeader(Arc::clone(self)));
        }
        let (reply_sender, receiver) = oneshot::channel();
        state.waiting_items.push_back(WaitingItem { item: Arc::clone(item), reply_sender });
        Err(receiver)
    }
}

impl<I, A> CallBatcher<I, A> {
    fn lock_state(&self) -> MutexGuard<'_, BatchState<I, A>> {
        lock_unpoisoned(&self.0)
    }
}

impl<I: Send + Sync, A: Send> BatchLeader<I, A> {
    async fn lead_batch<C: BatchCall<Item = I, Reply = A>>(
        self,
        own: Arc<I>,
        calls: &C,
    ) -> BatchItemResult<A> {
        // callers that got their reply together with this one may be about to submit more items
        yield_now().await;
        let (items, reply_senders) = self.collect_batch(own, C::estimate_item_bytes);
        let outcome = calls.send_batch(&items).await;
        if let Err(error) = &outcome
            && error.is_outage()
        {
            self.fail_waiting_items(error);
        }
        let mut results = match outcome {
            Ok(results) => results.into_iter(),
            Err(error) => items.iter().map(|_| Err(error.clone())).collect::<Vec<_>>().into_iter(),
        };
        let own_result = results.next().unwrap_or_else(|| Err(unreadable_batch_reply()));
        for reply_sender in reply_senders {
            let result = results.next().unwrap_or_else(|| Err(unreadable_batch_reply()));
            // a caller that is gone needs no reply
            let _ = reply_sender.send(BatchReply::ItemResult(result));
        }
        own_result
    }

    /// The items of the next call, `own` first, and the senders of the replies to the others.
    fn collect_batch(
        &self,
        own: Arc<I>,
        bytes_of: fn(&I) -> usize,
    ) -> (Vec<Arc<I>>, Vec<BatchReplySender<I, A>>) {
        let (mut bytes, mut items, mut senders) = (bytes_of(&own), vec![own], Vec::new());
        let mut state = self.0.lock_state();
        while items.len() < MAX_BATCH_ITEMS
            && bytes < BATCH_BYTES_LIMIT
            && let Some(WaitingItem { item, reply_sender }) = state.waiting_items.pop_front()
        {
            if !reply_sender.is_closed() {
                bytes += bytes_of(&item);
                items.push(item);
                senders.push(reply_sender);
            }
        }
        (items, senders)
    }

    /// Fails all waiting items after an outage, rather than one call after the other. They were not
    /// sent, so their error says that nothing was changed.
    fn fail_waiting_items(&self, error: &StoreError) {
        let waiting = std::mem::take(&mut self.0.lock_state().waiting_items);
        for WaitingItem { reply_sender, .. } in waiting {
            let unreachable = StoreError::Unreachable(error.to_string());
            let _ = reply_sender.send(BatchReply::ItemResult(Err(unreachable)));
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
            let Some(WaitingItem { reply_sender, .. }) = next else { return };
            if !reply_sender.is_closed() {
                // a leader that is dropped unread passes itself on
                let _ =
                    reply_sender.send(BatchReply::BecomeLeader(BatchLeader(Arc::clone(&self.0))));
                return;
            }
        }
    }
}

/// The first item of each class of equal `items`, and for each item the position of its class among
/// them, from 1.
pub(crate) fn distinct_with_positions<I>(
    items: &[Arc<I>],
    is_equal: impl Fn(&I, &I) -> bool,
) -> (Vec<&I>, Vec<usize>) {
    let mut firsts: Vec<&I> = Vec::new();
    let mut positions = Vec::with_capacity(items.len());
    for item in items {
        let known = firsts.iter().position(|first| is_equal(first, item));
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

    /// Doubles numbers; each call waits for a permit.
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
                .expect("the test reads them");
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

    /// Submits `number` from a task.
    fn spawn_submit(
        batch: &Arc<CallBatcher<u32, u32>>,
        to: &Arc<DoublingCall>,
        number: u32,
    ) -> tokio::task::JoinHandle<BatchItemResult<u32>> {
        let (batch, to) = (Arc::clone(batch), Arc::clone(to));
        tokio::spawn(async move { batch.submit_item(number, &*to).await })
    }

    #[tokio::test]
    async fn items_that_arrive_during_a_call_are_sent_in_the_next_one() {
        let ((to, mut seen), batch) =
            (DoublingCall::new(), Arc::<CallBatcher<u32, u32>>::default());
        let first = spawn_submit(&batch, &to, 0);
        assert_eq!(seen.recv().await, Some(vec![0]));
        let rest: Vec<_> = (1..=100).map(|number| spawn_submit(&batch, &to, number)).collect();
        let large = spawn_submit(&batch, &to, 1000);
        assert_eq!(seen.recv().await, Some(vec![1000]), "a large item is sent alone and at once");
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
    async fn items_that_arrive_together_are_sent_together() {
        let ((to, mut seen), batch) =
            (DoublingCall::new(), Arc::<CallBatcher<u32, u32>>::default());
        to.permits.add_permits(1);
        let answers = join_all((0..10).map(|number| batch.submit_item(number, &*to))).await;
        assert!(answers.into_iter().all(|answer| answer.is_ok()));
        assert_eq!(seen.recv().await.map(|call| call.len()), Some(10));
    }

    #[tokio::test]
    async fn items_of_a_dropped_leader_are_sent_again() {
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
    async fn waiting_items_fail_at_an_outage_as_not_sent() {
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
