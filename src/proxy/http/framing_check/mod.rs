//! Follows the bytes of an HTTP/1 connection before the parser reads them, and refuses framing that
//! the parser accepts and another server may read differently (request smuggling): a line that ends
//! in a bare LF, and `Content-Length` together with `Transfer-Encoding` (RFC 9112 §2.2, §6.1,
//! §7.1).
//!
//! [`FramingCheck`] only counts and compares: it buffers nothing but a line that is split between
//! two reads. A fault in a head is reported by the number of its request, so that the request can
//! be answered with a problem document; a fault in a chunked body ends the connection there.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use memchr::memchr;

/// The longest line that is buffered; the parser refuses a head that has a longer one.
const MAX_LINE: usize = 64 * 1024;
/// Means "no request" in `FramingReport::refused_request`.
const NO_REQUEST: u64 = u64::MAX;
/// Hexadecimal digits of the largest chunk size.
const MAX_SIZE_DIGITS: usize = 16;

/// State that the check of a connection's bytes shares with the handler of its requests.
#[derive(Debug)]
pub(crate) struct FramingReport {
    /// The number of the request whose head was refused; the first request of a connection is 0.
    refused_request: AtomicU64,
    /// An [`UpgradeAnswer`] that the check has not read yet.
    upgrade_answer: AtomicU8,
}

/// How a request that asked for an upgrade was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum UpgradeAnswer {
    Pending = 0,
    Declined = 1,
    Switched = 2,
}

/// The position of the check in the connection's byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingPosition {
    /// Before a request line, or before the empty lines that may precede one.
    RequestLine,
    /// At the start of a header field or of the empty line that ends the head.
    HeaderLine,
    /// In a body with `Content-Length`; holds the number of bytes left.
    Body(u64),
    /// At the start of a chunk-size line.
    ChunkSize,
    /// In the data of a chunk; holds the number of bytes left.
    ChunkData(u64),
    /// At the CRLF that ends a chunk's data.
    ChunkEnd,
    /// At the start of a trailer field or of the empty line that ends the trailer section.
    TrailerLine,
    /// After a request that asks for an upgrade: the next bytes are a tunnel or the next request.
    UpgradePending,
    /// The framing of a body is wrong: no further byte is passed on.
    Refused,
    /// No further byte is checked: a tunnel, HTTP/2, or a request that is refused and ends the
    /// connection.
    Unchecked,
}

/// The framing of a body, as the fields of its head state it.
#[derive(Clone, Copy, Debug, Default)]
struct HeadFraming {
    content_length: Option<u64>,
    /// Whether a `Content-Length` is not one decimal number, or differs from an earlier one.
    has_bad_length: bool,
    has_transfer_encoding: bool,
    asks_upgrade: bool,
}

/// The state of one connection's check.
#[derive(Debug)]
pub(crate) struct FramingCheck {
    position: FramingPosition,
    head: HeadFraming,
    /// The start of a line whose end has not been read.
    partial_line: Vec<u8>,
    /// The number of the request that is being read.
    request_number: u64,
    report: Arc<FramingReport>,
}

// === impl FramingReport ===

impl FramingReport {
    /// Whether the head of request number `request` was refused.
    pub(crate) fn is_refused(&self, request: u64) -> bool {
        self.refused_request.load(Relaxed) == request
    }

    /// Records whether a request that asked for an upgrade was answered by 101.
    pub(crate) fn record_upgrade_answer(&self, switched: bool) {
        let answer = if switched { UpgradeAnswer::Switched } else { UpgradeAnswer::Declined };
        self.upgrade_answer.store(answer as u8, Relaxed);
    }
}

// === impl FramingCheck ===

impl FramingCheck {
    /// A check of an HTTP/1 connection from its first byte.
    pub(crate) fn new() -> Self {
        let report = FramingReport {
            refused_request: AtomicU64::new(NO_REQUEST),
            upgrade_answer: AtomicU8::new(UpgradeAnswer::Pending as u8),
        };
        Self {
            position: FramingPosition::RequestLine,
            head: HeadFraming::default(),
            partial_line: Vec::new(),
            request_number: 0,
            report: Arc::new(report),
        }
    }

    /// Stops checking, for a connection that is not HTTP/1.
    pub(crate) fn disable(&mut self) {
        self.position = FramingPosition::Unchecked;
    }

    /// The state shared with the handler of the connection's requests.
    pub(crate) fn report(&self) -> Arc<FramingReport> {
        self.report.clone()
    }

    /// Whether a body was refused, so that the connection must close.
    pub(crate) fn is_refused(&self) -> bool {
        self.position == FramingPosition::Refused
    }

    /// Whether the next bytes cannot be checked before a request for an upgrade is answered.
    pub(crate) fn awaits_upgrade_answer(&mut self) -> bool {
        if self.position != FramingPosition::UpgradePending {
            return false;
        }
        let answer = self.report.upgrade_answer.swap(UpgradeAnswer::Pending as u8, Relaxed);
        if answer == UpgradeAnswer::Switched as u8 {
            self.position = FramingPosition::Unchecked;
        } else if answer == UpgradeAnswer::Declined as u8 {
            self.position = FramingPosition::RequestLine;
        }
        self.position == FramingPosition::UpgradePending
    }

    /// Checks the next bytes of the connection and returns how many of them may be passed on. The
    /// rest waits for the answer to an upgrade, or was refused.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            passed += match self.position {
                FramingPosition::Unchecked => rest.len(),
                FramingPosition::Refused | FramingPosition::UpgradePending => {
                    return passed;
                }
                FramingPosition::Body(left) => {
                    self.skip_body_bytes(rest, left, FramingPosition::Body, Self::end_message)
                }
                FramingPosition::ChunkData(left) => {
                    self.skip_body_bytes(rest, left, FramingPosition::ChunkData, |check| {
                        check.position = FramingPosition::ChunkEnd;
                    })
                }
                _ => self.read_line(rest),
            };
        }
        passed
    }

    /// Skips body bytes of which `left` are due; `on_end` runs after the last one.
    fn skip_body_bytes(
        &mut self,
        rest: &[u8],
        left: u64,
        next: fn(u64) -> FramingPosition,
        on_end: fn(&mut Self),
    ) -> usize {
        let skipped = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - skipped as u64;
        self.position = next(left);
        if left == 0 {
            on_end(self);
        }
        skipped
    }

    /// Reads a line, or the part of it that has arrived, and returns how many of its bytes may be
    /// passed on.
    fn read_line(&mut self, rest: &[u8]) -> usize {
        let Some(end) = memchr(b'\n', rest) else {
            self.partial_line.extend_from_slice(rest);
            if self.partial_line.len() > MAX_LINE {
                self.refuse_request();
            }
            return rest.len();
        };
        let passes = if self.partial_line.is_empty() {
            self.check_line(&rest[..end])
        } else {
            let mut line = std::mem::take(&mut self.partial_line);
            line.extend_from_slice(&rest[..end]);
            self.check_line(&line)
        };
        if passes { end + 1 } else { end }
    }

    /// Checks a line, given without its LF. Returns whether the LF may be passed on.
    fn check_line(&mut self, line: &[u8]) -> bool {
        let Some(line) = line.strip_suffix(b"\r") else {
            self.refuse_request();
            return self.position != FramingPosition::Refused;
        };
        match self.position {
            FramingPosition::RequestLine if line.is_empty() => {}
            FramingPosition::RequestLine => {
                self.head = HeadFraming::default();
                self.position = FramingPosition::HeaderLine;
            }
            FramingPosition::HeaderLine if line.is_empty() => self.end_head(),
            FramingPosition::HeaderLine => self.head.read_field(line),
            FramingPosition::ChunkSize => match parse_chunk_size(line) {
                Some(0) => self.position = FramingPosition::TrailerLine,
                Some(size) => self.position = FramingPosition::ChunkData(size),
                None => self.refuse_request(),
            },
            FramingPosition::ChunkEnd if line.is_empty() => {
                self.position = FramingPosition::ChunkSize;
            }
            FramingPosition::TrailerLine if line.is_empty() => self.end_message(),
            FramingPosition::TrailerLine if !line.contains(&b'\r') => {}
            _ => self.refuse_request(),
        }
        self.position != FramingPosition::Refused
    }

    fn end_head(&mut self) {
        let head = self.head;
        if head.has_bad_length || head.has_transfer_encoding && head.content_length.is_some() {
            return self.refuse_request();
        }
        match head.content_length {
            _ if head.has_transfer_encoding => self.position = FramingPosition::ChunkSize,
            None | Some(0) => self.end_message(),
            Some(length) => self.position = FramingPosition::Body(length),
        }
    }

    fn end_message(&mut self) {
        self.request_number += 1;
        self.position = if self.head.asks_upgrade {
            FramingPosition::UpgradePending
        } else {
            FramingPosition::RequestLine
        };
    }

    /// Refuses the request that is being read: a head by its number, a body by passing on no more
    /// of it.
    fn refuse_request(&mut self) {
        if matches!(self.position, FramingPosition::RequestLine | FramingPosition::HeaderLine) {
            self.report.refused_request.store(self.request_number, Relaxed);
            self.position = FramingPosition::Unchecked;
        } else {
            self.position = FramingPosition::Refused;
        }
    }
}

// === impl HeadFraming ===

impl HeadFraming {
    fn read_field(&mut self, line: &[u8]) {
        // The first letter rules out most fields.
        if !matches!(line[0] | 0x20, b'c' | b't' | b'u') {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse_decimal(value);
            let agrees = self.content_length.is_none_or(|earlier| length == Some(earlier));
            self.has_bad_length |= length.is_none() || !agrees;
            self.content_length = self.content_length.or(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_transfer_encoding = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.asks_upgrade = true;
        }
    }
}

fn parse_decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None; // `parse` would accept a sign
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The size in a chunk-size line; a chunk extension after it is ignored.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let is_terminated = extension.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'));
    if digits == 0 || digits > MAX_SIZE_DIGITS || !is_terminated || extension.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}
