//! One data-plane thread: accept, serve, and at the end finish what runs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::callers;
use super::guard::CheckedStream;
use super::progress::ProgressReports;
use super::service::{ClientConnection, ProxyThread};
use super::{ProxyServices, ProxyShutdown};

/// How long a client may take over a request's head, and may idle between requests.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an HTTP/2 client may take to answer a ping.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest head of a request; more is 431.
const MAX_REQUEST_HEAD: usize = 64 * 1024;
/// Streams that one HTTP/2 connection may have at a time.
const MAX_HTTP2_STREAMS: u32 = 100;
/// How long accepting pauses when the process has run out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Runs a thread until it is stopped and its connections have ended.
pub(super) fn run_thread(
    index: usize,
    listener: std::net::TcpListener,
    parts: ProxyServices,
    reports: Arc<ProgressReports>,
    stop: ProxyShutdown,
) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, index, "a data-plane thread has no runtime"),
    };
    let drain = stop.drain.child_token(); // of this thread: its waiters share no lock with others'
    runtime.block_on(async {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                accept_connections(
                    listener,
                    Rc::new(ProxyThread::new(index, parts, reports, drain)),
                    stop,
                )
                .await;
            }
            Err(error) => tracing::error!(%error, index, "a data-plane thread cannot listen"),
        }
    });
}

async fn accept_connections(listener: TcpListener, thread: Rc<ProxyThread>, stop: ProxyShutdown) {
    let connections = TaskTracker::new();
    let drain = thread.draining.clone();
    connections.spawn_local(callers::flush_callers(thread.clone()));
    while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn_local(serve_connection(
                    stream,
                    peer,
                    thread.clone(),
                    drain.clone(),
                    connections.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    stop.abort.run_until_cancelled(connections.wait()).await;
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    thread: Rc<ProxyThread>,
    drain: CancellationToken,
    tracker: TaskTracker,
) {
    let _ = stream.set_nodelay(true); // an error: it has gone already
    let Some(Ok(Ok((stream, is_http2)))) = drain
        .run_until_cancelled(timeout(REQUEST_HEAD_TIMEOUT, CheckedStream::sniff_protocol(stream)))
        .await
    else {
        return;
    };
    let framing = (!is_http2).then(|| stream.framing_report());
    let connection = Rc::new(ClientConnection::new(thread, peer.ip(), tracker, framing));
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.handle_request(request).await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_HTTP2_STREAMS)
            .max_header_list_size(MAX_HTTP2_HEADER_LIST);
        builder.keep_alive_interval(REQUEST_HEAD_TIMEOUT).keep_alive_timeout(HTTP2_PING_TIMEOUT);
        let serving = std::pin::pin!(builder.serve_connection(io, service));
        serve_until_drained(serving, &drain, http2::Connection::graceful_shutdown).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_HEAD_TIMEOUT)
            .writev(false)
            .max_header_size(MAX_REQUEST_HEAD);
        let serving = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        serve_until_drained(serving, &drain, http1::UpgradeableConnection::graceful_shutdown).await;
    }
}

#[allow(clippy::cast_possible_truncation)] // 64 Ki
const MAX_HTTP2_HEADER_LIST: u32 = MAX_REQUEST_HEAD as u32;

/// Serves a connection to its end; once `drain` is cancelled, to the end of what it is at.
async fn serve_until_drained<C: Future>(
    mut serving: std::pin::Pin<&mut C>,
    drain: &CancellationToken,
    shutdown: impl FnOnce(std::pin::Pin<&mut C>),
) {
    tokio::select! {
        biased;
        _ = serving.as_mut() => return, // an error here is the client's: it left, or did not speak HTTP
        () = drain.cancelled() => {}
    }
    shutdown(serving.as_mut());
    serving.await;
}

/// Runs a connection's streams on its own thread.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
