//! A client connection whose bytes are checked before the HTTP parser reads them.
//!
//! The first bytes distinguish HTTP/2 from HTTP/1. On HTTP/1 every byte goes through a
//! [`FramingCheck`]: bytes after a framing fault in a body never reach the parser, a fault in a
//! head is reported to the handler of its request, and bytes after a request for an upgrade wait
//! until that request is answered. Nothing is buffered but bytes that may not pass yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::http::framing_check::{FramingCheck, FramingReport};

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client connection whose bytes are checked before the parser reads them.
pub(crate) struct CheckedStream {
    /// Bytes that were received and not yet passed on.
    pending_bytes: Bytes,
    stream: TcpStream,
    framing_check: FramingCheck,
}

// === impl CheckedStream ===

impl CheckedStream {
    /// Reads as many bytes as it takes to distinguish HTTP/2 from HTTP/1; `true` is HTTP/2.
    pub(crate) async fn sniff_protocol(mut stream: TcpStream) -> io::Result<(Self, bool)> {
        let mut start = Vec::with_capacity(512);
        while !start.is_empty()
            && start.len() < HTTP2_PREFACE.len()
            && HTTP2_PREFACE.starts_with(&start)
            || start.is_empty()
        {
            if stream.read_buf(&mut start).await? == 0 {
                break;
            }
        }
        let is_http2 = start.starts_with(HTTP2_PREFACE);
        let mut framing_check = FramingCheck::new();
        if is_http2 {
            framing_check.disable();
        }
        Ok((Self { pending_bytes: start.into(), stream, framing_check }, is_http2))
    }

    /// What the framing check shares with the handler of this connection's requests.
    pub(crate) fn framing_report(&self) -> Arc<FramingReport> {
        self.framing_check.report()
    }

    /// Passes on those of the pending bytes that the framing check lets pass.
    fn pass_pending(&mut self, into: &mut ReadBuf<'_>) {
        let offered = self.pending_bytes.len().min(into.remaining());
        let passed = self.framing_check.advance(&self.pending_bytes[..offered]);
        into.put_slice(&self.pending_bytes[..passed]);
        self.pending_bytes.advance(passed);
        if self.pending_bytes.is_empty() {
            self.pending_bytes = Bytes::new(); // frees the buffer
        }
    }

    /// Receives bytes into `into` and keeps back those that may not pass yet.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = into.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let received = &into.filled()[start..];
        let passed = self.framing_check.advance(received);
        if passed < received.len() {
            self.pending_bytes = Bytes::copy_from_slice(&received[passed..]);
            into.set_filled(start + passed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for CheckedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let awaits_answer = this.framing_check.awaits_upgrade_answer();
        if this.pending_bytes.is_empty() {
            std::task::ready!(this.poll_receive(cx, into))?;
        } else if !awaits_answer {
            this.pass_pending(into);
        }
        if this.pending_bytes.is_empty() || into.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        if this.framing_check.is_refused() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the request body is framed wrongly",
            )));
        }
        // No waker is needed: the task that reads here also writes the answer to the upgrade, and
        // reads again after it.
        Poll::Pending
    }
}

impl AsyncWrite for CheckedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
