//! In front of the parser: what the first bytes of a connection are, and what hyper lets through
//! that a proxy must not pass on. In doubt a request is refused, never reinterpreted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use hyper::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{FramingCheck, FramingReport};
use super::respond::ProxyProblem;
use crate::route::{canonicalize_path, is_only_chunked};

/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest path and query.
const MAX_REQUEST_TARGET: usize = 8 * 1024;

/// A client connection whose bytes are checked before the parser reads them.
pub(super) struct CheckedStream {
    /// Bytes that were received and not yet passed on.
    pending_bytes: Bytes,
    stream: TcpStream,
    framing_check: FramingCheck,
}

// === impl Guarded ===

impl CheckedStream {
    /// Reads as much as it takes to tell HTTP/2 from HTTP/1, and returns which it is.
    pub(super) async fn sniff_protocol(mut stream: TcpStream) -> io::Result<(Self, bool)> {
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
        let http2 = start.starts_with(HTTP2_PREFACE);
        let mut framing = FramingCheck::new();
        if http2 {
            framing.disable();
        }
        Ok((Self { pending_bytes: start.into(), stream, framing_check: framing }, http2))
    }

    /// What the check of this connection's framing reports to the handler of its requests.
    pub(super) fn framing_report(&self) -> Arc<FramingReport> {
        self.framing_check.report()
    }

    /// Passes on as much of the pending bytes as has been judged.
    fn pass_pending(&mut self, into: &mut ReadBuf<'_>) {
        let offered = self.pending_bytes.len().min(into.remaining());
        let passed = self.framing_check.advance(&self.pending_bytes[..offered]);
        into.put_slice(&self.pending_bytes[..passed]);
        self.pending_bytes.advance(passed);
        if self.pending_bytes.is_empty() {
            self.pending_bytes = Bytes::new(); // frees the buffer
        }
    }

    /// Receives into `into`, keeping back what must not be passed on yet.
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
        let unanswered = this.framing_check.awaits_upgrade_answer();
        if this.pending_bytes.is_empty() {
            std::task::ready!(this.poll_receive(cx, into))?;
        } else if !unanswered {
            this.pass_pending(into);
        }
        if this.pending_bytes.is_empty() || into.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        if this.framing_check.is_refused() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the request is framed wrongly",
            )));
        }
        // The answer to the upgrade is made in this same task, which reads again behind it.
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

/// Refuses what must not be passed on, and brings a request into the form that the upstream gets:
/// origin form with a canonical path, one Host.
pub(super) fn validate_request(request: &mut Request<Incoming>) -> Result<(), ProxyProblem> {
    if request.method() == Method::CONNECT {
        return Err(ProxyProblem::ConnectNotServed);
    }
    check_framing(request.headers())?;
    let authority = host_override(request)?;
    let uri = request.uri();
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if target.len() > MAX_REQUEST_TARGET {
        return Err(ProxyProblem::UriTooLong);
    }
    if !target.starts_with('/') {
        return Err(ProxyProblem::BadRequest("the request target must be an absolute path"));
    }
    let path = canonicalize_path(uri.path()).map_err(ProxyProblem::BadPath)?;
    let same = path == uri.path();
    if !same || uri.authority().is_some() {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        *request.uri_mut() = Uri::try_from(target)
            .map_err(|_| ProxyProblem::BadRequest("the request target is malformed"))?;
    }
    if request.version() == Version::HTTP_2 {
        join_cookie_fields(request.headers_mut());
    }
    if let Some(authority) = authority {
        let value = authority
            .as_str()
            .parse()
            .map_err(|_| ProxyProblem::BadRequest("the authority is malformed"))?;
        request.headers_mut().insert(header::HOST, value);
    }
    Ok(())
}

/// HTTP/2 may split Cookie into several fields; in HTTP/1.1 it is one (RFC 9113 §8.2.3).
fn join_cookie_fields(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> =
            headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
            headers.insert(header::COOKIE, whole);
        }
    }
}

/// The authority that replaces Host, where the target has one (RFC 9112 §3.2.2).
fn host_override(request: &Request<Incoming>) -> Result<Option<Authority>, ProxyProblem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ProxyProblem::BadRequest("there is more than one Host"));
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(ProxyProblem::BadRequest("Host is missing"));
    }
    if let Some(authority) = request.uri().authority() {
        if authority.as_str().contains('@') {
            return Err(ProxyProblem::BadRequest("the target has user info"));
        }
        return Ok(Some(authority.clone()));
    }
    match host {
        Some(host) if !is_valid_host(host.as_bytes()) => {
            Err(ProxyProblem::BadRequest("Host is malformed"))
        }
        _ => Ok(None),
    }
}

fn is_valid_host(text: &[u8]) -> bool {
    let (name, port) = match text.iter().rposition(|&byte| byte == b':') {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => (text, &text[text.len()..]),
    };
    let named = !name.is_empty() || text.is_empty();
    let plain =
        named && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let other = || named && !text.contains(&b'@') && Authority::try_from(text).is_ok();
    (plain && port.iter().all(u8::is_ascii_digit)) || other()
}

/// hyper has refused what it cannot frame; a coding it ignores would reach the upstream unframed.
fn check_framing(headers: &HeaderMap) -> Result<(), ProxyProblem> {
    if is_only_chunked(headers) == Some(false) {
        Err(ProxyProblem::UnsupportedTransferCoding)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_chunked_is_a_framing() {
        let judge = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::TRANSFER_ENCODING, value.parse().expect("a value"));
            }
            check_framing(&headers).is_ok()
        };
        assert!(judge(&[]) && judge(&["chunked"]) && judge(&["Chunked"]));
        assert!(
            !judge(&["gzip, chunked"])
                && !judge(&["chunked", "chunked"])
                && !judge(&["gzip", "chunked"])
        );
    }

    #[test]
    fn hosts_are_names_addresses_and_ports() {
        for host in ["api.example", "api.example:8000", "[::1]:80", "127.0.0.1", ""] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "u@h", "a\"b", "h:x:y", ":80"] {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }
}
