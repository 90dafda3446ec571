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

use super::pool::BorrowedConnection;
use crate::cohort::RequestPath;
use crate::metrics::RouteCounters;

/// How long a client may go on sending what is not wanted any more, so that it can read its answer.
pub(super) const DISCARD_GRACE: Duration = Duration::from_secs(2);
/// How long a client may pause within a body.
pub(super) const MAX_BODY_PAUSE: Duration = Duration::from_mins(1);

/// What is wrong with a client's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestBodyError {
    /// The client left, or framed it wrongly.
    #[error("the request body broke off")]
    Broken,
    /// Nothing came for [`MAX_BODY_PAUSE`].
    #[error("nothing more of the request body came in time")]
    Stalled,
    /// Its answer has ended, and nobody wants the rest.
    #[error("the request was answered before its body had ended")]
    Abandoned,
}

/// A request body on its way to the upstream.
pub(super) struct RequestBody {
    /// What was already read of it.
    prefix: Option<Bytes>,
    /// The rest as it comes.
    remaining: Option<Incoming>,
    /// Runs while the client pauses.
    pause_timer: Option<Pin<Box<Sleep>>>,
    progress: Rc<RequestBodyProgress>,
}

/// How far a request body has come, for whoever waits for the answer.
#[derive(Default)]
pub(super) struct RequestBodyProgress {
    ended_at: Cell<Option<Instant>>,
    error: Cell<Option<RequestBodyError>>,
    is_abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl Outgoing ===

impl RequestBody {
    /// What was already read of a body, and the rest as it comes.
    pub(super) fn new(prefix: Option<Bytes>, rest: Option<Incoming>) -> Self {
        let body = Self { prefix, remaining: rest, pause_timer: None, progress: Rc::default() };
        body.mark_ended_if_read();
        body
    }

    /// A body as it comes.
    pub(super) fn from_incoming(body: Incoming) -> Self {
        Self::new(None, Some(body))
    }

    /// A body that is all there.
    pub(super) fn from_bytes(body: Bytes) -> Self {
        Self::new((!body.is_empty()).then_some(body), None)
    }

    /// Tells how far it has come.
    pub(super) fn progress(&self) -> Rc<RequestBodyProgress> {
        self.progress.clone()
    }

    fn mark_ended_if_read(&self) {
        if self.is_end_stream() {
            self.progress.mark_ended();
        }
    }

    fn fail_with(
        &mut self,
        fault: RequestBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.remaining = None;
        self.progress.error.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.prefix.take() {
            this.mark_ended_if_read();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(rest) = &mut this.remaining else { return Poll::Ready(None) };
        match Pin::new(rest).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.pause_timer = None;
                this.mark_ended_if_read();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.progress.mark_ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => this.fail_with(RequestBodyError::Broken),
            Poll::Pending if this.progress.is_abandoned.get() => {
                this.fail_with(RequestBodyError::Abandoned)
            }
            Poll::Pending => {
                *this.progress.waker.borrow_mut() = Some(cx.waker().clone());
                let pause = this.pause_timer.get_or_insert_with(|| Box::pin(sleep(MAX_BODY_PAUSE)));
                if pause.as_mut().poll(cx).is_ready() {
                    this.fail_with(RequestBodyError::Stalled)
                } else {
                    Poll::Pending
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.remaining.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.prefix.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let Some(rest) = &self.remaining else { return SizeHint::with_exact(read) };
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

impl RequestBodyProgress {
    /// When the body had been handed over whole; none while it has not.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// What was wrong with it.
    pub(super) fn error(&self) -> Option<RequestBodyError> {
        self.error.get()
    }

    fn mark_ended(&self) {
        if self.ended_at.get().is_none() {
            self.ended_at.set(Some(Instant::now()));
        }
    }

    /// Has the rest given up, after a moment in which the client may finish sending and read its
    /// answer.
    pub(super) fn abandon_after_grace(self: Rc<Self>) {
        tokio::task::spawn_local(async move {
            sleep(DISCARD_GRACE).await;
            self.is_abandoned.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        });
    }
}

/// An answer's body on its way to the client; what it carries ends with it.
pub(super) struct ResponseBody {
    source: ResponseBodySource,
    /// Given back to the pool when the answer has been read to its end.
    connection: Option<BorrowedConnection>,
    timing: Option<RequestTimer>,
    /// Few answers have one.
    observer: Option<Box<dyn ResponseObserver>>,
}

/// Copies an answer's body as it goes by. One that is dropped before it is told the end hears that
/// it broke off.
pub(super) trait ResponseObserver {
    /// A part of the body has gone by; false when nothing more is wanted.
    fn observe_chunk(&mut self, data: &[u8]) -> bool;
    /// All of the body has gone by.
    fn finish_body(self: Box<Self>);
    /// It has said that nothing more is wanted.
    fn stop_early(self: Box<Self>);
}

enum ResponseBodySource {
    Upstream(Incoming),
    Buffered(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
}

/// Records how long a request took when its answer ends, or is abandoned.
pub(super) struct RequestTimer {
    pub(super) cells: Arc<RouteCounters>,
    pub(super) thread_index: usize,
    pub(super) path: RequestPath,
    pub(super) started_at: Instant,
}

// === impl Reply ===

impl ResponseBody {
    /// A body that is all there.
    pub(super) fn from_bytes(body: impl Into<Bytes>) -> Self {
        Self {
            source: ResponseBodySource::Buffered(Some(body.into())),
            connection: None,
            timing: None,
            observer: None,
        }
    }

    /// A body that comes as it is made.
    pub(super) fn from_stream(body: impl Stream<Item = Bytes> + 'static) -> Self {
        Self {
            source: ResponseBodySource::Stream(Box::pin(body)),
            connection: None,
            timing: None,
            observer: None,
        }
    }

    /// The upstream's body, over the connection that it comes on.
    pub(super) fn from_upstream(body: Incoming, connection: BorrowedConnection) -> Self {
        let mut reply = Self {
            source: ResponseBodySource::Upstream(body),
            connection: Some(connection),
            timing: None,
            observer: None,
        };
        reply.return_connection_if_read();
        reply
    }

    /// Has the request's duration recorded when this body ends.
    pub(super) fn with_timer(mut self, timing: RequestTimer) -> Self {
        self.timing = Some(timing);
        self
    }

    /// Has what goes by copied.
    pub(super) fn with_observer(mut self, tap: Box<dyn ResponseObserver>) -> Self {
        self.observer = Some(tap);
        self.finish_observer_if_read();
        self
    }

    fn finish_observer_if_read(&mut self) {
        if self.is_end_stream()
            && let Some(tap) = self.observer.take()
        {
            tap.finish_body();
        }
    }

    /// Shows the tap a frame; one that broke off is not kept.
    fn notify_observer(&mut self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>) {
        let Some(tap) = &mut self.observer else { return };
        match frame {
            Some(Ok(frame)) if !frame.data_ref().is_none_or(|data| tap.observe_chunk(data)) => {
                if let Some(tap) = self.observer.take() {
                    tap.stop_early();
                }
            }
            Some(Ok(_)) => self.finish_observer_if_read(),
            Some(Err(_)) => self.observer = None,
            None => {
                if let Some(tap) = self.observer.take() {
                    tap.finish_body();
                }
            }
        }
    }

    fn return_connection_if_read(&mut self) {
        if self.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            connection.return_to_pool();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        match &mut this.source {
            ResponseBodySource::Buffered(body) => {
                let frame =
                    body.take().filter(|bytes| !bytes.is_empty()).map(|b| Ok(Frame::data(b)));
                this.notify_observer(frame.as_ref());
                Poll::Ready(frame)
            }
            ResponseBodySource::Stream(body) => {
                body.as_mut().poll_next(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
            }
            ResponseBodySource::Upstream(body) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    None => {
                        if let Some(connection) = this.connection.take() {
                            connection.return_to_pool();
                        }
                    }
                    Some(Ok(_)) => this.return_connection_if_read(),
                    Some(Err(_)) => drop(this.connection.take()),
                }
                this.notify_observer(frame.as_ref());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            ResponseBodySource::Upstream(body) => body.is_end_stream(),
            ResponseBodySource::Buffered(body) => body.as_ref().is_none_or(Bytes::is_empty),
            ResponseBodySource::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ResponseBodySource::Upstream(body) => body.size_hint(),
            ResponseBodySource::Buffered(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            ResponseBodySource::Stream(_) => SizeHint::new(),
        }
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        self.cells.observe_duration(self.thread_index, self.path, self.started_at.elapsed());
    }
}
