//! The body of a response on its way to the client.
//!
//! The body carries what must happen when it ends: the upstream's connection is returned to its
//! pool, the request's duration is recorded, and an observer gets the copied bytes.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::cohort_hash::RequestPath;
use crate::metrics::RouteCounters;
use crate::proxy::upstream::connection::BorrowedConnection;

/// The body of a response on its way to the client.
pub(crate) struct ResponseBody {
    source: ResponseBodySource,
    /// Returned to the pool when the upstream's body has been read to its end; else closed.
    connection: Option<BorrowedConnection>,
    timer: Option<RequestTimer>,
    /// Set for responses that are stored or compared, which are few.
    observer: Option<Box<dyn ResponseObserver>>,
}

/// Sees the bytes of a response body as they are sent. An observer that is dropped before
/// `finish_body` or `stop_early` saw a body that did not end.
pub(crate) trait ResponseObserver {
    /// Takes a part of the body; returns false if the observer needs no more of it.
    fn observe_chunk(&mut self, data: &[u8]) -> bool;
    /// The whole body has been observed.
    fn finish_body(self: Box<Self>);
    /// `observe_chunk` has returned false.
    fn stop_early(self: Box<Self>);
}

enum ResponseBodySource {
    Upstream(Incoming),
    Buffered(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
}

/// Records a request's duration when dropped: when its response has ended or was abandoned. Counts
/// the request if it was cut off by the end of a drain.
pub(crate) struct RequestTimer {
    pub(crate) counters: Arc<RouteCounters>,
    pub(crate) thread_index: usize,
    pub(crate) path: RequestPath,
    pub(crate) started_at: Instant,
    /// Whether requests that end now are cut off, since the drain is over.
    pub(crate) is_aborting: Rc<Cell<bool>>,
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body that is in memory whole.
    pub(crate) fn from_bytes(body: impl Into<Bytes>) -> Self {
        Self::from_source(ResponseBodySource::Buffered(Some(body.into())))
    }

    /// A body that is made while it is sent.
    pub(crate) fn from_stream(body: impl Stream<Item = Bytes> + 'static) -> Self {
        Self::from_source(ResponseBodySource::Stream(Box::pin(body)))
    }

    /// The upstream's body, with the connection that it arrives on.
    pub(crate) fn from_upstream(body: Incoming, connection: BorrowedConnection) -> Self {
        let mut body = Self {
            connection: Some(connection),
            ..Self::from_source(ResponseBodySource::Upstream(body))
        };
        body.return_connection_if_read();
        body
    }

    fn from_source(source: ResponseBodySource) -> Self {
        Self { source, connection: None, timer: None, observer: None }
    }

    /// Records the request's duration when this body ends.
    pub(crate) fn with_timer(mut self, timer: RequestTimer) -> Self {
        self.timer = Some(timer);
        self
    }

    /// Shows the bytes of this body to `observer` as they are sent.
    pub(crate) fn with_observer(mut self, observer: Box<dyn ResponseObserver>) -> Self {
        self.observer = Some(observer);
        self.finish_observer_if_read();
        self
    }

    fn finish_observer_if_read(&mut self) {
        if self.is_end_stream()
            && let Some(observer) = self.observer.take()
        {
            observer.finish_body();
        }
    }

    /// Shows a frame, or with `None` the end of the body, to the observer. A body that fails drops
    /// its observer.
    fn notify_observer(&mut self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>) {
        let Some(observer) = &mut self.observer else { return };
        match frame {
            Some(Ok(frame))
                if !frame.data_ref().is_none_or(|data| observer.observe_chunk(data)) =>
            {
                if let Some(observer) = self.observer.take() {
                    observer.stop_early();
                }
            }
            Some(Ok(_)) => self.finish_observer_if_read(),
            Some(Err(_)) => self.observer = None,
            None => {
                if let Some(observer) = self.observer.take() {
                    observer.finish_body();
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
        if self.is_aborting.get() {
            self.counters.count_cut_by_drain(self.thread_index, self.path);
        }
        self.counters.observe_duration(self.thread_index, self.path, self.started_at.elapsed());
    }
}
