//! Follows the bytes of an HTTP/1 connection in front of the parser and refuses framing that the
//! parser accepts and another server may read differently: a line that ends in a bare LF, and a
//! `Content-Length` beside a `Transfer-Encoding` (RFC 9112 §2.2, §6.1, §7.1).
//!
//! [`FramingCheck`] only counts and compares: it buffers nothing but a line that is split between
//! two reads. A fault in a head is reported by the number of its request, so that the request can
//! be answered with a problem document; a fault in a chunked body ends the body.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use memchr::memchr;

/// The longest line that is followed; the parser refuses a head that has a longer one.
const MAX_LINE: usize = 64 * 1024;
/// Stands for "no request" in [`FramingReport::refused`].
const NO_REQUEST: u64 = u64::MAX;
/// Hexadecimal digits of the largest chunk size.
const MAX_SIZE_DIGITS: usize = 16;

/// What the check of a connection's bytes and the handler of its requests tell each other.
#[derive(Debug)]
pub(super) struct FramingReport {
    /// The number of the request whose head is refused; the first request of a connection is 0.
    refused_request: AtomicU64,
    /// An [`UpgradeAnswer`] that the check has not seen yet.
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

/// Where in the connection's byte stream the check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingPosition {
    /// In front of a request line, or of the empty lines that may precede one.
    RequestLine,
    /// At the start of a header field or of the empty line that ends the head.
    HeaderLine,
    /// In a body of which so many bytes are to come.
    Body(u64),
    /// At the start of a chunk-size line.
    ChunkSize,
    /// In a chunk of which so many bytes are to come.
    ChunkData(u64),
    /// At the CRLF that ends a chunk's data.
    ChunkEnd,
    /// At the start of a trailer field or of the empty line that ends the trailer section.
    TrailerLine,
    /// Behind a request that asks for an upgrade: what follows is a tunnel or the next request.
    UpgradePending,
    /// A body's framing is wrong: nothing more is passed on.
    Refused,
    /// Nothing more is checked: a tunnel, HTTP/2, or a request that is refused and ends the
    /// connection.
    Unchecked,
}

/// What the head that is being read says about the body behind it.
#[derive(Clone, Copy, Debug, Default)]
struct HeadFraming {
    content_length: Option<u64>,
    /// Whether a `Content-Length` is not one decimal number, or differs from an earlier
    /// one.
    has_bad_length: bool,
    has_transfer_encoding: bool,
    asks_upgrade: bool,
}

/// The state of one connection's check.
#[derive(Debug)]
pub(super) struct FramingCheck {
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
    pub(super) fn is_refused(&self, request: u64) -> bool {
        self.refused_request.load(Relaxed) == request
    }

    /// Records whether a request that asked for an upgrade was answered by 101.
    pub(super) fn record_upgrade_answer(&self, switched: bool) {
        let answer = if switched { UpgradeAnswer::Switched } else { UpgradeAnswer::Declined };
        self.upgrade_answer.store(answer as u8, Relaxed);
    }
}

// === impl FramingCheck ===

impl FramingCheck {
    /// A check of an HTTP/1 connection from its first byte.
    pub(super) fn new() -> Self {
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

    /// Checks nothing from here on, for a connection that is not HTTP/1.
    pub(super) fn disable(&mut self) {
        self.position = FramingPosition::Unchecked;
    }

    /// What the check reports to the handler of the connection's requests.
    pub(super) fn report(&self) -> Arc<FramingReport> {
        self.report.clone()
    }

    /// Whether a body was refused: the connection has to end.
    pub(super) fn is_refused(&self) -> bool {
        self.position == FramingPosition::Refused
    }

    /// Whether what follows can only be judged once a request for an upgrade is answered.
    pub(super) fn awaits_upgrade_answer(&mut self) -> bool {
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

    /// Follows the next bytes of the connection and returns how many of them may be passed on now.
    /// Fewer than all: the rest waits for the answer to an upgrade, or was refused.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.position {
                FramingPosition::Unchecked => rest.len(),
                FramingPosition::Refused | FramingPosition::UpgradePending => return at,
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
        at
    }

    /// Passes over body bytes; `ended` runs behind the last one.
    fn skip_body_bytes(
        &mut self,
        rest: &[u8],
        left: u64,
        next: fn(u64) -> FramingPosition,
        ended: fn(&mut Self),
    ) -> usize {
        let here = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - here as u64;
        self.position = next(left);
        if left == 0 {
            ended(self);
        }
        here
    }

    /// Reads a line, or the part of it that is there, and returns how many bytes of it may be
    /// passed on.
    fn read_line(&mut self, rest: &[u8]) -> usize {
        let Some(end) = memchr(b'\n', rest) else {
            self.partial_line.extend_from_slice(rest);
            if self.partial_line.len() > MAX_LINE {
                self.refuse_request();
            }
            return rest.len();
        };
        let whole = if self.partial_line.is_empty() {
            self.check_line(&rest[..end])
        } else {
            let mut line = std::mem::take(&mut self.partial_line);
            line.extend_from_slice(&rest[..end]);
            self.check_line(&line)
        };
        if whole { end + 1 } else { end }
    }

    /// Judges a line, given without its LF. Returns whether the LF may be passed on.
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

    /// Refuses the request that is being read: a head by its number, a body by ending it here.
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
        // Most fields are told apart by their first letter.
        if !matches!(line[0] | 0x20, b'c' | b't' | b'u') {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse_decimal(value);
            let same = self.content_length.is_none_or(|earlier| length == Some(earlier));
            self.has_bad_length |= length.is_none() || !same;
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
        return None; // `parse` would take a sign
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The size that a chunk-size line says; an extension behind it is passed over.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let ends_well = extension.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'));
    if digits == 0 || digits > MAX_SIZE_DIGITS || !ends_well || extension.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "POST /invoke HTTP/1.1\r\nHost: x\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

    /// What a check makes of bytes that come in the pieces that `cuts` make of them: how many are
    /// passed on, whether a body was refused, and the number of a refused head.
    fn check_in_pieces(bytes: &[u8], cuts: &[usize]) -> (usize, bool, u64) {
        let mut check = FramingCheck::new();
        let (mut passed, mut from) = (0, 0);
        for to in cuts.iter().copied().chain([bytes.len()]) {
            passed += check.advance(&bytes[from..to.max(from)]);
            from = to.max(from);
        }
        (passed, check.is_refused(), check.report.refused_request.load(Relaxed))
    }

    fn is_clean(text: &str) -> bool {
        check_in_pieces(text.as_bytes(), &[]) == (text.len(), false, NO_REQUEST)
    }

    #[test]
    fn well_framed_requests_pass_one_behind_another() {
        let sized = format!("{HEAD}Content-Length: 5\r\n\r\nhello");
        let chunked = format!("{HEAD}{CHUNKED}5;a=b\r\nhe\nlo\r\n0\r\nX-T: 1\r\n\r\n");
        let bare = format!("\r\n{HEAD}\r\n");
        assert!(is_clean(&[sized.as_str(), &chunked, &bare, &chunked, &sized].concat()));
        assert!(is_clean(&format!(
            "{HEAD}Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello{bare}"
        )));
    }

    #[test]
    fn a_bare_line_feed_in_a_head_refuses_that_request() {
        for head in [
            "POST /invoke HTTP/1.1\nHost: x\r\n\r\n",
            "POST /invoke HTTP/1.1\r\nHost: x\n\r\n",
            "POST /invoke HTTP/1.1\r\nHost: x\r\n\n",
            "\nPOST /invoke HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            assert_eq!(check_in_pieces(head.as_bytes(), &[]).2, 0, "{head:?}");
            let second = format!("{HEAD}\r\n{head}");
            assert_eq!(check_in_pieces(second.as_bytes(), &[]).2, 1, "{second:?}");
        }
    }

    #[test]
    fn a_length_beside_a_transfer_coding_refuses_the_request() {
        for (one, other) in [
            ("Content-Length: 5", "Transfer-Encoding: chunked"),
            ("content-length:nonsense", "transfer-encoding:chunked"),
            ("CONTENT-LENGTH: ", "TRANSFER-ENCODING: gzip, chunked"),
        ] {
            for (first, second) in [(one, other), (other, one)] {
                let text = format!("{HEAD}{first}\r\n{second}\r\n\r\n0\r\n\r\n");
                assert_eq!(check_in_pieces(text.as_bytes(), &[]).2, 0, "{text:?}");
            }
        }
    }

    #[test]
    fn a_wrongly_framed_chunked_body_passes_up_to_its_fault() {
        for (good, fault) in [
            ("1\r\n1\r\n0\r\n", "\nPOST /pay HTTP/1.1\r\nContent-Length: 31\r\n\r\n"),
            ("1\r\n1\r\n0\r\nX: y", "\n\r\n"),
            ("1", "\n1\r\n0\r\n\r\n"),
            ("1;ext", "\n1\r\n0\r\n\r\n"),
            ("1\r\n1", "\n0\r\n\r\n"),
            ("1\r\n1x\r", "\n0\r\n\r\n"),
            ("xyz\r", "\n"),
            ("\r", "\n"),
            ("11111111111111111\r", "\n"),
            ("-1\r", "\n"),
        ] {
            let start = format!("{HEAD}{CHUNKED}{good}");
            let text = format!("{start}{fault}");
            assert_eq!(
                check_in_pieces(text.as_bytes(), &[]),
                (start.len(), true, NO_REQUEST),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_follows_a_request_for_an_upgrade_waits_for_its_answer() {
        let ask = format!("{HEAD}Upgrade: websocket\r\n\r\n");
        for (switched, follows, clean) in
            [(true, "\x01\n\n", true), (false, "GET / HTTP/1.1\n", false)]
        {
            let mut check = FramingCheck::new();
            assert_eq!(check.advance(format!("{ask}{follows}").as_bytes()), ask.len());
            assert!(check.awaits_upgrade_answer());
            check.report().record_upgrade_answer(switched);
            assert!(!check.awaits_upgrade_answer());
            check.advance(follows.as_bytes());
            assert_eq!(check.report().is_refused(1), !clean);
        }
    }

    proptest! {
        #[test]
        fn where_reads_end_changes_nothing(
            parts in prop::collection::vec(0..10_usize, 1..6),
            cuts in prop::collection::vec(0..400_usize, 0..12),
        ) {
            let choices = [
                format!("{HEAD}Content-Length: 5\r\n\r\nhello"),
                format!("{HEAD}{CHUNKED}5;a=b\r\nhe\nlo\r\n0\r\nX-T: 1\r\n\r\n"),
                format!("{HEAD}\r\n"),
                "\r\n".to_owned(),
                format!("{HEAD}{CHUNKED}3\r\nabc\r\n0\r\n\n"),
                format!("{HEAD}{CHUNKED}3\r\nabcd\r\n0\r\n\r\n"),
                format!("{HEAD}X: y\n\r\n"),
                format!("{HEAD}Content-Length: 5\r\n{CHUNKED}0\r\n\r\n"),
                format!("{HEAD}Upgrade: foo\r\n\r\n"),
                format!("{HEAD}Content-Length: 7, 7\r\n\r\n"),
            ];
            let text: String = parts.iter().map(|&part| choices[part].as_str()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            prop_assert_eq!(check_in_pieces(text.as_bytes(), &cuts), check_in_pieces(text.as_bytes(), &[]));
        }
    }
}
