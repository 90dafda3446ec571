//! Reading a body whole, within what a body and a thread may hold; and letting one go by that nobody wants.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::body::{Fault, GRACE, Outgoing, PAUSE_MOST};

/// How much of an unwanted body is read.
const DISCARD_MOST: usize = 4 * 1024 * 1024;
/// What came of reading a body.
pub(super) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// More than the limit: what was read, and the rest.
    Outgrown(Outgoing),
    /// More than this thread has room for at the moment: what was read, and the rest.
    Crowded(Outgoing),
    /// It did not come whole.
    Faulty(Fault),
}

/// How much of requests' bodies one thread holds at a time; over it, further ones are not read.
const HELD_MOST: usize = 256 * 1024 * 1024;

/// What one thread holds of bodies that it has read.
pub(super) struct Hoard {
    bytes: Rc<Cell<usize>>,
    most: usize,
}

/// One body's share of it, given back when dropped.
pub(super) struct Held {
    all: Rc<Cell<usize>>,
    most: usize,
    bytes: usize,
}

// === impl Hoard ===

impl Default for Hoard {
    fn default() -> Self {
        Self::new(HELD_MOST)
    }
}

impl Hoard {
    /// One in which at most so many bytes are held at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: Rc::default(), most }
    }

    /// A share to read a body under; it lives as long as the body.
    pub(super) fn hold(&self) -> Held {
        Held { all: self.bytes.clone(), most: self.most, bytes: 0 }
    }
}

// === impl Held ===

impl Held {
    /// Adds to the share; says whether the thread still holds little enough.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.all.set(self.all.get() + bytes);
        self.all.get() <= self.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn collect(mut body: Incoming, limit: usize, held: &mut Held) -> Collected {
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let frame = match timeout(PAUSE_MOST, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Collected::Whole(joined(first, rest).unwrap_or_default()),
            Ok(Some(Err(_))) => return Collected::Faulty(Fault::Broken),
            Err(_) => return Collected::Faulty(Fault::Stalled),
        };
        let Ok(data) = frame.into_data() else { continue }; // trailers
        let fits = held.add(data.len());
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
            return Collected::Crowded(Outgoing::new(joined(first, rest), Some(body)));
        }
        if first.as_ref().map_or(0, Bytes::len).max(rest.len()) > limit {
            return Collected::Outgrown(Outgoing::new(joined(first, rest), Some(body)));
        }
    }
}

/// Reads a body to its end and forgets it, within a budget, so that a client that is still sending can read its
/// answer; past that the connection closes under it.
pub(super) fn discard(body: impl Body<Data = Bytes> + Unpin + 'static) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(timeout(GRACE, async move {
        let (mut body, mut budget) = (body, DISCARD_MOST);
        while let Some(Ok(frame)) = body.frame().await {
            budget = budget.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if budget == 0 {
                return;
            }
        }
    }));
}

/// A body that came in one piece, as small ones do, is not copied.
fn joined(first: Option<Bytes>, rest: Vec<u8>) -> Option<Bytes> {
    if rest.is_empty() { first } else { Some(rest.into()) }
}
