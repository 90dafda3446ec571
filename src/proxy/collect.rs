//! Reading a body whole, within what a body and a thread may hold; and letting one go by that
//! nobody wants.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::body::{DISCARD_GRACE, MAX_BODY_PAUSE, RequestBody, RequestBodyError};

/// How much of an unwanted body is read.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;
/// What came of reading a body.
pub(super) enum CollectedBody {
    /// All of it.
    Complete(Bytes),
    /// More than the limit: what was read, and the rest.
    TooLarge(RequestBody),
    /// More than this thread has room for at the moment: what was read, and the rest.
    OverBudget(RequestBody),
    /// It did not come whole.
    Failed(RequestBodyError),
}

/// How much of requests' bodies one thread holds at a time; over it, further ones are not read.
const MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;

/// What one thread holds of bodies that it has read.
pub(super) struct BodyBudget {
    used_bytes: Rc<Cell<usize>>,
    max_bytes: usize,
}

/// One body's share of it, given back when dropped.
pub(super) struct BodyPermit {
    budget_used: Rc<Cell<usize>>,
    budget_max: usize,
    reserved: usize,
}

// === impl Hoard ===

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(MAX_BUFFERED_BYTES)
    }
}

impl BodyBudget {
    /// One in which at most so many bytes are held at a time.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { used_bytes: Rc::default(), max_bytes }
    }

    /// A share to read a body under; it lives as long as the body.
    pub(super) fn new_permit(&self) -> BodyPermit {
        BodyPermit { budget_used: self.used_bytes.clone(), budget_max: self.max_bytes, reserved: 0 }
    }
}

// === impl Held ===

impl BodyPermit {
    /// Adds to the share; says whether the thread still holds little enough.
    pub(super) fn reserve(&mut self, bytes: usize) -> bool {
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

/// Reads a body of at most `limit` bytes.
pub(super) async fn collect_body(
    mut body: Incoming,
    limit: usize,
    held: &mut BodyPermit,
) -> CollectedBody {
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let frame = match timeout(MAX_BODY_PAUSE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => {
                return CollectedBody::Complete(join_chunks(first, rest).unwrap_or_default());
            }
            Ok(Some(Err(_))) => return CollectedBody::Failed(RequestBodyError::Broken),
            Err(_) => return CollectedBody::Failed(RequestBodyError::Stalled),
        };
        let Ok(data) = frame.into_data() else { continue }; // trailers
        let fits = held.reserve(data.len());
        match &first {
            None => first = Some(data),
            Some(start) => {
                if rest.is_empty() {
                    rest.extend_from_slice(start);
                }
                rest.extend_from_slice(&data);
            }
        }
        if !fits {
            return CollectedBody::OverBudget(RequestBody::new(
                join_chunks(first, rest),
                Some(body),
            ));
        }
        if first.as_ref().map_or(0, Bytes::len).max(rest.len()) > limit {
            return CollectedBody::TooLarge(RequestBody::new(join_chunks(first, rest), Some(body)));
        }
    }
}

/// Reads a body to its end and forgets it, within a budget, so that a client that is still sending
/// can read its answer; past that the connection closes under it.
pub(super) fn discard_body(body: impl Body<Data = Bytes> + Unpin + 'static) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(timeout(DISCARD_GRACE, async move {
        let (mut body, mut budget) = (body, MAX_DISCARDED_BYTES);
        while let Some(Ok(frame)) = body.frame().await {
            budget = budget.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if budget == 0 {
                return;
            }
        }
    }));
}

/// A body that came in one piece, as small ones do, is not copied.
fn join_chunks(first: Option<Bytes>, rest: Vec<u8>) -> Option<Bytes> {
    if rest.is_empty() { first } else { Some(rest.into()) }
}
