//! Bodies on their way: what goes to the upstream, what goes back to the client.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::pool::Borrowed;
use crate::metrics::{Path, RouteCells};

/// How long a client may go on sending what is not wanted any more, so that it can read its answer.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long a client may pause within a body.
pub(super) const PAUSE_MOST: Duration = Duration::from_mins(1);

/// What is wrong with a client's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The client left, or framed it wrongly.
    #[error("the request body broke off")]
    Broken,
    /// Nothing came for [`PAUSE_MOST`].
    #[error("nothing more of the request body came in time")]
    Stalled,
    /// Its answer has ended, and nobody wants the rest.
    #[error("the request was answered before its body had ended")]
    Abandoned,
}

/// A request body on its way to the upstream.
pub(super) struct Outgoing {
    /// What was already read of it.
    prefix: Option<Bytes>,
    /// The rest as it comes.
    rest: Option<Incoming>,
    /// Runs while the client pauses.
    pause: Option<Pin<Box<Sleep>>>,
    progress: Rc<Progress>,
}

/// How far a request body has come, for whoever waits for the answer.
#[derive(Default)]
pub(super) struct Progress {
    ended: Cell<Option<Instant>>,
    fault: Cell<Option<Fault>>,
    abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl Outgoing ===

impl Outgoing {
    /// What was already read of a body, and the rest as it comes.
    pub(super) fn new(prefix: Option<Bytes>, rest: Option<Incoming>) -> Self {
        let body = Self { prefix, rest, pause: None, progress: Rc::default() };
        body.note_end();
        body
    }

    /// A body as it comes.
    pub(super) fn stream(body: Incoming) -> Self {
        Self::new(None, Some(body))
    }

    /// A body that is all there.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::new((!body.is_empty()).then_some(body), None)
    }

    /// Tells how far it has come.
    pub(super) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn note_end(&self) {
        if self.is_end_stream() {
            self.progress.end();
        }
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.rest = None;
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.prefix.take() {
            this.note_end();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        match Pin::new(rest).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.pause = None;
                this.note_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.progress.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => this.fail(Fault::Broken),
            Poll::Pending if this.progress.abandoned.get() => this.fail(Fault::Abandoned),
            Poll::Pending => {
                *this.progress.waker.borrow_mut() = Some(cx.waker().clone());
                let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE_MOST)));
                if pause.as_mut().poll(cx).is_ready() { this.fail(Fault::Stalled) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.prefix.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let Some(rest) = &self.rest else { return SizeHint::with_exact(read) };
        let ahead = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead.lower().saturating_add(read));
        if let Some(upper) = ahead.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

// === impl Progress ===

impl Progress {
    /// When the body had been handed over whole; none while it has not.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// What was wrong with it.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
        }
    }

    /// Has the rest given up, after a moment in which the client may finish sending and read its answer.
    pub(super) fn abandon_later(self: Rc<Self>) {
        tokio::task::spawn_local(async move {
            sleep(GRACE).await;
            self.abandoned.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        });
    }
}

/// An answer's body on its way to the client; what it carries ends with it.
pub(super) struct Reply {
    source: Source,
    /// Given back to the pool when the answer has been read to its end.
    connection: Option<Borrowed>,
    timing: Option<Timing>,
    /// Few answers have one.
    tap: Option<Box<dyn Tap>>,
}

/// Copies an answer's body as it goes by. One that is dropped before it is told the end hears that it broke off.
pub(super) trait Tap {
    /// A part of the body has gone by; false when nothing more is wanted.
    fn copy(&mut self, data: &[u8]) -> bool;
    /// All of the body has gone by.
    fn end(self: Box<Self>);
    /// It has said that nothing more is wanted.
    fn give_up(self: Box<Self>);
}

enum Source {
    Upstream(Incoming),
    Whole(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
}

/// Records how long a request took when its answer ends, or is abandoned.
pub(super) struct Timing {
    pub(super) cells: Arc<RouteCells>,
    pub(super) thread: usize,
    pub(super) path: Path,
    pub(super) started: Instant,
}

// === impl Reply ===

impl Reply {
    /// A body that is all there.
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        Self { source: Source::Whole(Some(body.into())), connection: None, timing: None, tap: None }
    }

    /// A body that comes as it is made.
    pub(super) fn stream(body: impl Stream<Item = Bytes> + 'static) -> Self {
        Self { source: Source::Stream(Box::pin(body)), connection: None, timing: None, tap: None }
    }

    /// The upstream's body, over the connection that it comes on.
    pub(super) fn upstream(body: Incoming, connection: Borrowed) -> Self {
        let mut reply = Self { source: Source::Upstream(body), connection: Some(connection), timing: None, tap: None };
        reply.give_back_when_read();
        reply
    }

    /// Has the request's duration recorded when this body ends.
    pub(super) fn timed(mut self, timing: Timing) -> Self {
        self.timing = Some(timing);
        self
    }

    /// Has what goes by copied.
    pub(super) fn tapped(mut self, tap: Box<dyn Tap>) -> Self {
        self.tap = Some(tap);
        self.end_tap_when_read();
        self
    }

    fn end_tap_when_read(&mut self) {
        if self.is_end_stream()
            && let Some(tap) = self.tap.take()
        {
            tap.end();
        }
    }

    /// Shows the tap a frame; one that broke off is not kept.
    fn tap(&mut self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>) {
        let Some(tap) = &mut self.tap else { return };
        match frame {
            Some(Ok(frame)) if !frame.data_ref().is_none_or(|data| tap.copy(data)) => {
                if let Some(tap) = self.tap.take() {
                    tap.give_up();
                }
            }
            Some(Ok(_)) => self.end_tap_when_read(),
            Some(Err(_)) => self.tap = None,
            None => {
                if let Some(tap) = self.tap.take() {
                    tap.end();
                }
            }
        }
    }

    fn give_back_when_read(&mut self) {
        if self.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            connection.give_back();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        match &mut this.source {
            Source::Whole(body) => {
                let frame = body.take().filter(|bytes| !bytes.is_empty()).map(|b| Ok(Frame::data(b)));
                this.tap(frame.as_ref());
                Poll::Ready(frame)
            }
            Source::Stream(body) => body.as_mut().poll_next(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
            Source::Upstream(body) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    None => {
                        if let Some(connection) = this.connection.take() {
                            connection.give_back();
                        }
                    }
                    Some(Ok(_)) => this.give_back_when_read(),
                    Some(Err(_)) => drop(this.connection.take()),
                }
                this.tap(frame.as_ref());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(body) => body.is_end_stream(),
            Source::Whole(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Source::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(body) => body.size_hint(),
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Stream(_) => SizeHint::new(),
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        self.cells.took(self.thread, self.path, self.started.elapsed());
    }
}
