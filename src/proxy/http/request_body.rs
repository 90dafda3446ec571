//! A client's request body on its way to the upstream.
//!
//! [`RequestBody`] streams what was buffered already, then the rest as it arrives, and limits how
//! long the client may pause. [`RequestBodyProgress`] tells the sender of the request how far the
//! body has come, and lets it give up the rest.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

/// How long a client may go on sending a body that is no longer needed, so that it can read its
/// response before the connection closes.
pub(crate) const DISCARD_GRACE: Duration = Duration::from_secs(2);
/// How long a client may pause within a body.
pub(crate) const MAX_BODY_PAUSE: Duration = Duration::from_mins(1);

/// Why a client's body did not arrive whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// The client closed the connection, or framed the body wrongly.
    #[error("the request body broke off")]
    Broken,
    /// No byte arrived for [`MAX_BODY_PAUSE`].
    #[error("the client paused for too long within the request body")]
    Stalled,
    /// The response was complete before the body, and the rest of the body is not needed.
    #[error("the request was answered before its body had ended")]
    Abandoned,
}

/// A request body on its way to the upstream.
pub(crate) struct RequestBody {
    /// The part that was read already.
    prefix: Option<Bytes>,
    /// The rest as it arrives.
    remaining: Option<Incoming>,
    /// Runs while the client pauses.
    pause_timer: Option<Pin<Box<Sleep>>>,
    progress: Rc<RequestBodyProgress>,
}

/// How far a request body has come; shared with the sender of the request.
#[derive(Default)]
pub(crate) struct RequestBodyProgress {
    ended_at: Cell<Option<Instant>>,
    error: Cell<Option<RequestBodyError>>,
    is_abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl RequestBody ===

impl RequestBody {
    /// The part of a body that was read already, and the rest as it arrives.
    pub(crate) fn new(prefix: Option<Bytes>, remaining: Option<Incoming>) -> Self {
        let body = Self { prefix, remaining, pause_timer: None, progress: Rc::default() };
        body.mark_ended_if_read();
        body
    }

    /// A body of which nothing was read yet.
    pub(crate) fn from_incoming(body: Incoming) -> Self {
        Self::new(None, Some(body))
    }

    /// A body that is in memory whole.
    pub(crate) fn from_bytes(body: Bytes) -> Self {
        Self::new((!body.is_empty()).then_some(body), None)
    }

    /// The shared record of how far this body has come.
    pub(crate) fn progress(&self) -> Rc<RequestBodyProgress> {
        self.progress.clone()
    }

    fn mark_ended_if_read(&self) {
        if self.is_end_stream() {
            self.progress.mark_ended();
        }
    }

    fn fail_with(
        &mut self,
        error: RequestBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.remaining = None;
        self.progress.error.set(Some(error));
        Poll::Ready(Some(Err(error)))
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
        let Some(remaining) = &mut this.remaining else { return Poll::Ready(None) };
        match Pin::new(remaining).poll_frame(cx) {
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
        let prefix = self.prefix.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let Some(remaining) = &self.remaining else { return SizeHint::with_exact(prefix) };
        let remaining = remaining.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(remaining.lower().saturating_add(prefix));
        if let Some(upper) = remaining.upper() {
            hint.set_upper(upper.saturating_add(prefix));
        }
        hint
    }
}

// === impl RequestBodyProgress ===

impl RequestBodyProgress {
    /// When the whole body had been sent on; `None` while some of it is left.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// Why the client's body failed, if it did.
    pub(crate) fn error(&self) -> Option<RequestBodyError> {
        self.error.get()
    }

    fn mark_ended(&self) {
        if self.ended_at.get().is_none() {
            self.ended_at.set(Some(Instant::now()));
        }
    }

    /// Gives up the rest of the body after [`DISCARD_GRACE`], in which the client may finish
    /// sending and read its response.
    pub(crate) fn abandon_after_grace(self: Rc<Self>) {
        tokio::task::spawn_local(async move {
            sleep(DISCARD_GRACE).await;
            self.is_abandoned.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        });
    }
}
