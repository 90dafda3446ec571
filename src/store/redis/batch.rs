//! Calls of one kind go to Redis many in one: those at hand while the last call is under way go in the next.
//!
//! No timer and no task of its own: of the callers whose items wait, one leads. It takes what waits, makes the call,
//! gives each its answer and passes the lead on. A leader that is dropped passes it on too; whose item it had sent
//! brings it again, so the calls are such as may be repeated. A large item goes alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::store::StoreError;

/// Items in one call: a script holds up the server for as long as it runs.
const MOST: usize = 64;
/// Bytes after which no more goes into a call.
const ENOUGH: usize = 512 * 1024;
/// An item of more bytes goes alone, so that nobody waits for it.
const LARGE: usize = 128 * 1024;

/// How the calls of one kind are made.
pub(super) trait Calls: Sync {
    /// What goes into them.
    type Item: Send + Sync;
    /// What one is answered.
    type Reply: Send;

    /// About how large an item is.
    fn bytes(item: &Self::Item) -> usize;

    /// One call, with an answer for each item in their order.
    fn call(&self, items: &[Arc<Self::Item>]) -> impl Future<Output = Answers<Self::Reply>> + Send;
}

/// What became of one item.
pub(super) type Answer<A> = Result<A, StoreError>;

/// What became of a call.
pub(super) type Answers<A> = Result<Vec<Answer<A>>, StoreError>;

/// The items that wait for a call.
pub(super) struct Batch<I, A>(Mutex<State<I, A>>);

struct State<I, A> {
    /// Whether somebody leads.
    led: bool,
    waiting: VecDeque<Waiting<I, A>>,
}

struct Waiting<I, A> {
    item: Arc<I>,
    tell: Tell<I, A>,
}

/// Where the owner of an item is told.
type Tell<I, A> = oneshot::Sender<Told<I, A>>;

enum Told<I, A> {
    Answer(Answer<A>),
    /// It is its owner's turn to lead.
    Lead(Lead<I, A>),
}

/// The right to make the next call; passed on when dropped.
struct Lead<I, A>(Arc<Batch<I, A>>);

// === impl Batch ===

impl<I, A> Default for Batch<I, A> {
    fn default() -> Self {
        Self(Mutex::new(State { led: false, waiting: VecDeque::new() }))
    }
}

impl<I: Send + Sync, A: Send> Batch<I, A> {
    /// What `calls` answer `item`: alone, or together with those that wait.
    pub(super) async fn run<C: Calls<Item = I, Reply = A>>(self: &Arc<Self>, item: I, calls: &C) -> Answer<A> {
        let item = Arc::new(item);
        if C::bytes(&item) > LARGE {
            return calls.call(&[item]).await?.pop().unwrap_or_else(|| Err(no_answer()));
        }
        loop {
            let told = match self.join(&item) {
                Ok(lead) => Told::Lead(lead),
                Err(waiting) => match waiting.await {
                    Ok(told) => told,
                    // whoever led was dropped: the item may have been sent, and goes again
                    Err(_) => continue,
                },
            };
            return match told {
                Told::Answer(answer) => answer,
                Told::Lead(lead) => lead.run(item, calls).await,
            };
        }
    }

    /// The lead, where nobody has it; else the item waits.
    fn join(self: &Arc<Self>, item: &Arc<I>) -> Result<Lead<I, A>, oneshot::Receiver<Told<I, A>>> {
        let mut state = self.state();
        if !state.led {
            state.led = true;
            return Ok(Lead(Arc::clone(self)));
        }
        let (tell, told) = oneshot::channel();
        state.waiting.push_back(Waiting { item: Arc::clone(item), tell });
        Err(told)
    }
}

impl<I, A> Batch<I, A> {
    fn state(&self) -> MutexGuard<'_, State<I, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lead ===

impl<I: Send + Sync, A: Send> Lead<I, A> {
    async fn run<C: Calls<Item = I, Reply = A>>(self, own: Arc<I>, calls: &C) -> Answer<A> {
        // who was told together with us is about to bring more
        yield_now().await;
        let (items, told) = self.take(own, C::bytes);
        let outcome = calls.call(&items).await;
        if let Err(error) = &outcome
            && error.is_outage()
        {
            self.send_back(error);
        }
        let mut answers = match outcome {
            Ok(answers) => answers.into_iter(),
            Err(error) => items.iter().map(|_| Err(error.clone())).collect::<Vec<_>>().into_iter(),
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
    fn take(&self, own: Arc<I>, bytes_of: fn(&I) -> usize) -> (Vec<Arc<I>>, Vec<Tell<I, A>>) {
        let (mut bytes, mut items, mut told) = (bytes_of(&own), vec![own], Vec::new());
        let mut state = self.0.state();
        while items.len() < MOST
            && bytes < ENOUGH
            && let Some(Waiting { item, tell }) = state.waiting.pop_front()
        {
            if !tell.is_closed() {
                bytes += bytes_of(&item);
                items.push(item);
                told.push(tell);
            }
        }
        (items, told)
    }

    /// Tells those who wait that the store is gone, rather than letting each find out after the other.
    fn send_back(&self, error: &StoreError) {
        let waiting = std::mem::take(&mut self.0.state().waiting);
        for Waiting { tell, .. } in waiting {
            let _ = tell.send(Told::Answer(Err(StoreError::Unreachable(error.to_string()))));
        }
    }
}

impl<I, A> Drop for Lead<I, A> {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.state();
                let next = state.waiting.pop_front();
                state.led = next.is_some();
                next
            };
            let Some(Waiting { tell, .. }) = next else { return };
            if !tell.is_closed() {
                // where it is dropped unread, it passes itself on
                let _ = tell.send(Told::Lead(Lead(Arc::clone(&self.0))));
                return;
            }
        }
    }
}

/// The store's answer is not what was asked for.
pub(super) fn no_answer() -> StoreError {
    StoreError::Malformed("the store's answer to many calls in one cannot be read".into())
}

/// The first of each kind of `items`, and for each item the position of its kind's first among those, from 1.
pub(super) fn distinct<I>(items: &[Arc<I>], same: impl Fn(&I, &I) -> bool) -> (Vec<&I>, Vec<usize>) {
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
    struct Doubles {
        go: Semaphore,
        calls: mpsc::UnboundedSender<Vec<u32>>,
        gone: bool,
    }

    impl Doubles {
        fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<u32>>) {
            let (calls, seen) = mpsc::unbounded_channel();
            (Arc::new(Self { go: Semaphore::new(0), calls, gone: false }), seen)
        }
    }

    impl Calls for Doubles {
        type Item = u32;
        type Reply = u32;

        fn bytes(number: &u32) -> usize {
            if *number == 1000 { LARGE + 1 } else { 8 }
        }

        async fn call(&self, items: &[Arc<u32>]) -> Answers<u32> {
            self.calls.send(items.iter().map(|number| **number).collect()).expect("somebody looks");
            self.go.acquire().await.expect("open").forget();
            if self.gone {
                return Err(StoreError::Unknown("no answer".into()));
            }
            Ok(items.iter().map(|number| if **number == 13 { Err(no_answer()) } else { Ok(**number * 2) }).collect())
        }
    }

    /// Runs `number` on its own.
    fn run(batch: &Arc<Batch<u32, u32>>, to: &Arc<Doubles>, number: u32) -> tokio::task::JoinHandle<Answer<u32>> {
        let (batch, to) = (Arc::clone(batch), Arc::clone(to));
        tokio::spawn(async move { batch.run(number, &*to).await })
    }

    #[tokio::test]
    async fn what_comes_during_a_call_goes_in_the_next_and_each_gets_its_own_answer() {
        let ((to, mut seen), batch) = (Doubles::new(), Arc::<Batch<u32, u32>>::default());
        let first = run(&batch, &to, 0);
        assert_eq!(seen.recv().await, Some(vec![0]));
        let rest: Vec<_> = (1..=100).map(|number| run(&batch, &to, number)).collect();
        let large = run(&batch, &to, 1000);
        assert_eq!(seen.recv().await, Some(vec![1000]), "nobody waits for a large one, nor it for them");
        to.go.add_permits(100);
        assert_eq!((first.await.expect("ran"), large.await.expect("ran")), (Ok(0), Ok(2000)));
        for (number, answer) in (1..).zip(join_all(rest).await) {
            assert_eq!(answer.expect("ran").ok(), (number != 13).then_some(number * 2));
        }
        let calls = [seen.recv().await.expect("a call").len(), seen.recv().await.expect("a call").len()];
        assert_eq!((calls[0], calls[0] + calls[1]), (MOST, 100));
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn those_that_come_at_once_go_at_once() {
        let ((to, mut seen), batch) = (Doubles::new(), Arc::<Batch<u32, u32>>::default());
        to.go.add_permits(1);
        let answers = join_all((0..10).map(|number| batch.run(number, &*to))).await;
        assert!(answers.into_iter().all(|answer| answer.is_ok()));
        assert_eq!(seen.recv().await.map(|call| call.len()), Some(10));
    }

    #[tokio::test]
    async fn what_went_with_a_leader_that_was_dropped_goes_again() {
        let ((to, mut seen), batch) = (Doubles::new(), Arc::<Batch<u32, u32>>::default());
        let first = run(&batch, &to, 0);
        assert_eq!(seen.recv().await, Some(vec![0]));
        let (leader, follower) = (run(&batch, &to, 1), run(&batch, &to, 2));
        tokio::task::yield_now().await;
        to.go.add_permits(1);
        assert_eq!(first.await.expect("ran"), Ok(0));
        assert_eq!(seen.recv().await, Some(vec![1, 2]));
        let waiting = run(&batch, &to, 3);
        tokio::task::yield_now().await;
        leader.abort();
        to.go.add_permits(2);
        assert_eq!(follower.await.expect("ran"), Ok(4));
        assert_eq!(waiting.await.expect("ran"), Ok(6));
    }

    #[tokio::test]
    async fn those_that_wait_are_told_of_an_outage_and_that_nothing_was_sent() {
        let (calls, mut seen) = mpsc::unbounded_channel();
        let to = Arc::new(Doubles { go: Semaphore::new(0), calls, gone: true });
        let batch = Arc::<Batch<u32, u32>>::default();
        let sent = run(&batch, &to, 1);
        assert_eq!(seen.recv().await, Some(vec![1]));
        let waiting = run(&batch, &to, 2);
        tokio::task::yield_now().await;
        to.go.add_permits(1);
        assert!(matches!(sent.await.expect("ran"), Err(StoreError::Unknown(_))));
        assert!(matches!(waiting.await.expect("ran"), Err(StoreError::Unreachable(_))));
        assert!(seen.try_recv().is_err());
    }
}
