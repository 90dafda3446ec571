//! The run of one data-plane thread: accept connections, serve them, and at the end let requests in
//! progress finish.

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

use crate::proxy::context::{ClientConnection, ProxyServices, ProxyThread};
use crate::proxy::http::checked_stream::CheckedStream;
use crate::proxy::server::dispatch::handle_request;
use crate::proxy::server::flush::flush_callers;
use crate::proxy::state::progress_reports::ProgressReports;

/// How long a client may take to send a request's head, and may be idle between requests.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an HTTP/2 client may take to answer a ping.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest head of a request, bytes; a larger one is answered by 431.
const MAX_REQUEST_HEAD: usize = 64 * 1024;
/// The same limit for HTTP/2, in the type that hyper wants.
#[allow(clippy::cast_possible_truncation)] // 64 Ki
const MAX_HTTP2_HEADER_LIST: u32 = MAX_REQUEST_HEAD as u32;
/// Streams that one HTTP/2 connection may have open at a time.
const MAX_HTTP2_STREAMS: u32 = 100;
/// How long accepting pauses after an error, as when the process has no file descriptors left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Tells a running data plane to end.
#[derive(Clone, Default)]
pub struct ProxyShutdown {
    /// Cancelled to stop accepting; requests in progress are finished.
    pub drain: CancellationToken,
    /// Cancelled shortly before the drain is over: requests that wait for a task are answered.
    pub answer_waiting: CancellationToken,
    /// Cancelled to close the connections that are left.
    pub abort: CancellationToken,
}

/// Runs a thread until `shutdown` is cancelled and its connections have ended.
pub(crate) fn run_thread(
    index: usize,
    listener: std::net::TcpListener,
    services: ProxyServices,
    progress_reports: Arc<ProgressReports>,
    shutdown: ProxyShutdown,
) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, index, "a data-plane thread has no runtime"),
    };
    // Tokens of this thread: tasks that wait for them share no lock with other threads.
    let drain = shutdown.drain.child_token();
    let answer_waiting = shutdown.answer_waiting.child_token();
    runtime.block_on(async {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let thread =
                    ProxyThread::new(index, services, progress_reports, drain, answer_waiting);
                accept_connections(listener, Rc::new(thread), shutdown).await;
            }
            Err(error) => tracing::error!(%error, index, "a data-plane thread cannot listen"),
        }
    });
}

async fn accept_connections(
    listener: TcpListener,
    thread: Rc<ProxyThread>,
    shutdown: ProxyShutdown,
) {
    let connections = TaskTracker::new();
    let (drain, is_aborting) = (thread.draining.clone(), thread.is_aborting.clone());
    connections.spawn_local(flush_callers(thread.clone()));
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
    if shutdown.abort.run_until_cancelled(connections.wait()).await.is_none() {
        // The requests that are left are dropped with the runtime, and count themselves.
        is_aborting.set(true);
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    thread: Rc<ProxyThread>,
    drain: CancellationToken,
    tracker: TaskTracker,
) {
    let _ = stream.set_nodelay(true); // fails only if the client has left already
    let Some(Ok(Ok((stream, is_http2)))) = drain
        .run_until_cancelled(timeout(REQUEST_HEAD_TIMEOUT, CheckedStream::sniff_protocol(stream)))
        .await
    else {
        return;
    };
    let framing_report = (!is_http2).then(|| stream.framing_report());
    let connection = Rc::new(ClientConnection::new(thread, peer.ip(), tracker, framing_report));
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(handle_request(&connection, request).await) }
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

/// Serves a connection to its end. Once `drain` is cancelled, calls `shutdown`, by which the
/// connection ends after the requests in progress.
async fn serve_until_drained<C: Future>(
    mut serving: std::pin::Pin<&mut C>,
    drain: &CancellationToken,
    shutdown: impl FnOnce(std::pin::Pin<&mut C>),
) {
    tokio::select! {
        biased;
        // An error here is the client's: it left, or does not speak HTTP.
        _ = serving.as_mut() => return,
        () = drain.cancelled() => {}
    }
    shutdown(serving.as_mut());
    serving.await;
}

/// Runs the streams of an HTTP/2 connection on the connection's thread.
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
