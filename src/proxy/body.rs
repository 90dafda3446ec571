//! Bodies on their way: what goes to the upstream, what goes back to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::pool::Borrowed;
use crate::metrics::{Path, RouteCells};

/// How much of an unwanted body is read, and for how long.
const DISCARD_MOST: usize = 4 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// A request body on its way to the upstream.
pub(super) enum Outgoing {
    /// As it comes.
    Stream(Incoming),
    /// What was already read of it, then the rest as it comes.
    Resumed(Option<Bytes>, Option<Incoming>),
}

/// What came of reading a body.
pub(super) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// More than the limit: what was read, and the rest.
    Outgrown(Outgoing),
    /// The client broke off.
    Broken,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn collect(mut body: Incoming, limit: usize) -> Collected {
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_trailers)) => continue,
            Err(_) => return Collected::Broken,
        };
        match &first {
            None => first = Some(data),
            Some(start) => {
                if rest.is_empty() {
                    rest.extend_from_slice(start);
                }
                rest.extend_from_slice(&data);
            }
        }
        if first.as_ref().map_or(0, Bytes::len).max(rest.len()) > limit {
            return Collected::Outgrown(Outgoing::Resumed(joined(first, rest), Some(body)));
        }
    }
    Collected::Whole(joined(first, rest).unwrap_or_default())
}

/// Reads a body to its end and forgets it, within a budget, so that a client that is still sending reads its
/// answer; past that the connection closes under it.
pub(super) async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut budget = DISCARD_MOST;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            budget = budget.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if budget == 0 {
                return;
            }
        }
    };
    let _ = timeout(DISCARD_TIME, read).await; // late or not, the answer goes out
}

/// A body that came in one piece, as small ones do, is not copied.
fn joined(first: Option<Bytes>, rest: Vec<u8>) -> Option<Bytes> {
    if rest.is_empty() { first } else { Some(rest.into()) }
}

// === impl Outgoing ===

impl Outgoing {
    /// A body that is all there.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::Resumed((!body.is_empty()).then_some(body), None)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Resumed(prefix, rest) => match (prefix.take(), rest) {
                (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                (None, Some(body)) => Pin::new(body).poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Resumed(prefix, rest) => prefix.is_none() && rest.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(body) => body.size_hint(),
            Self::Resumed(prefix, rest) => {
                let read = prefix.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let Some(rest) = rest else { return SizeHint::with_exact(read) };
                let ahead = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(ahead.lower().saturating_add(read));
                if let Some(upper) = ahead.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
        }
    }
}

/// An answer's body on its way to the client; what it carries ends with it.
pub(super) struct Reply {
    source: Source,
    /// Given back to the pool when the answer has been read to its end.
    connection: Option<Borrowed>,
    timing: Option<Timing>,
}

enum Source {
    Upstream(Incoming),
    Whole(Option<Bytes>),
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
        Self { source: Source::Whole(Some(body.into())), connection: None, timing: None }
    }

    /// The upstream's body, over the connection that it comes on.
    pub(super) fn upstream(body: Incoming, connection: Borrowed) -> Self {
        let mut reply = Self { source: Source::Upstream(body), connection: Some(connection), timing: None };
        reply.give_back_when_read();
        reply
    }

    /// Has the request's duration recorded when this body ends.
    pub(super) fn timed(mut self, timing: Timing) -> Self {
        self.timing = Some(timing);
        self
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
                Poll::Ready(body.take().filter(|bytes| !bytes.is_empty()).map(|b| Ok(Frame::data(b))))
            }
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
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(body) => body.is_end_stream(),
            Source::Whole(body) => body.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(body) => body.size_hint(),
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        self.cells.took(self.thread, self.path, self.started.elapsed());
    }
}
