//! Reads a request body whole, within the limit of one body and the budget of a thread, and
//! discards bodies that are not needed.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::header;
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::proxy::http::request_body::{
    DISCARD_GRACE, MAX_BODY_PAUSE, RequestBody, RequestBodyError,
};

/// How many bytes of a body that is not needed are read before its connection is given up.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of request bodies that one thread holds at a time; further bodies are not read whole.
const MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;

/// The result of reading a body whole.
pub(crate) enum CollectedBody {
    /// The whole body.
    Complete(Bytes),
    /// The body is longer than the limit: the part that was read, followed by the rest.
    TooLarge(RequestBody),
    /// The thread's budget is used up: the part that was read, followed by the rest.
    OverBudget(RequestBody),
    /// The body did not arrive whole.
    Failed(RequestBodyError),
}

/// Bytes of request bodies that one thread may hold at a time.
pub(crate) struct BodyBudget {
    used_bytes: Rc<Cell<usize>>,
    max_bytes: usize,
}

/// The part of a [`BodyBudget`] that one body uses; given back when dropped.
pub(crate) struct BodyPermit {
    budget_used: Rc<Cell<usize>>,
    budget_max: usize,
    reserved: usize,
}

// === impl BodyBudget ===

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(MAX_BUFFERED_BYTES)
    }
}

impl BodyBudget {
    /// A budget of `max_bytes` at a time.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { used_bytes: Rc::default(), max_bytes }
    }

    /// An empty permit for one body; keep it for as long as the body is held.
    pub(crate) fn new_permit(&self) -> BodyPermit {
        BodyPermit { budget_used: self.used_bytes.clone(), budget_max: self.max_bytes, reserved: 0 }
    }
}

// === impl BodyPermit ===

impl BodyPermit {
    /// Adds `bytes` to the permit; returns whether the budget still covers all permits.
    pub(crate) fn reserve(&mut self, bytes: usize) -> bool {
        self.reserved += bytes;
        self.budget_used.set(self.budget_used.get() + bytes);
        self.budget_used.get() <= self.budget_max
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.budget_used.set(self.budget_used.get() - self.reserved);
    }
}

/// Reads a body of at most `limit` bytes and reserves its length in `permit`.
pub(crate) async fn collect_body(
    mut body: Incoming,
    limit: usize,
    permit: &mut BodyPermit,
) -> CollectedBody {
    let mut first: Option<Bytes> = None;
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let frame = match timeout(MAX_BODY_PAUSE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => {
                return CollectedBody::Complete(first_or_joined(first, joined).unwrap_or_default());
            }
            Ok(Some(Err(_))) => return CollectedBody::Failed(RequestBodyError::Broken),
            Err(_) => return CollectedBody::Failed(RequestBodyError::Stalled),
        };
        let Ok(data) = frame.into_data() else { continue }; // trailers
        let fits_budget = permit.reserve(data.len());
        match &first {
            None => first = Some(data),
            Some(first) => {
                if joined.is_empty() {
                    joined.extend_from_slice(first);
                }
                joined.extend_from_slice(&data);
            }
        }
        let length = first.as_ref().map_or(0, Bytes::len).max(joined.len());
        if !fits_budget || length > limit {
            let body = RequestBody::new(first_or_joined(first, joined), Some(body));
            return if fits_budget {
                CollectedBody::TooLarge(body)
            } else {
                CollectedBody::OverBudget(body)
            };
        }
    }
}

/// The bytes read so far. A body that came in one chunk, as small ones do, is not copied.
fn first_or_joined(first: Option<Bytes>, joined: Vec<u8>) -> Option<Bytes> {
    if joined.is_empty() { first } else { Some(joined.into()) }
}

/// Discards the body of a request that is answered without it, so that the client can finish
/// sending. A client that waits for `100 Continue` is not asked for its body.
pub(crate) fn discard_unwanted_body(head: &Parts, body: impl Body<Data = Bytes> + Unpin + 'static) {
    if !head.headers.contains_key(header::EXPECT) {
        discard_body(body);
    }
}

/// Reads a body in the background and drops it, so that a client that is still sending can read
/// its response. After [`DISCARD_GRACE`] or [`MAX_DISCARDED_BYTES`] the connection closes.
pub(crate) fn discard_body(body: impl Body<Data = Bytes> + Unpin + 'static) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(timeout(DISCARD_GRACE, async move {
        let (mut body, mut bytes_left) = (body, MAX_DISCARDED_BYTES);
        while let Some(Ok(frame)) = body.frame().await {
            bytes_left = bytes_left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if bytes_left == 0 {
                return;
            }
        }
    }));
}
