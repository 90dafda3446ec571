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
use super::guard::Guarded;
use super::progress::Reports;
use super::service::{Connection, Thread};
use super::{Parts, Stop};

/// How long a client may take over a request's head, and may idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an HTTP/2 client may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest head of a request; more is 431.
const MAX_HEAD: usize = 64 * 1024;
/// Streams that one HTTP/2 connection may have at a time.
const MAX_STREAMS: u32 = 100;
/// How long accepting pauses when the process has run out of file descriptors.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// Runs a thread until it is stopped and its connections have ended.
pub(super) fn run(index: usize, listener: std::net::TcpListener, parts: Parts, reports: Arc<Reports>, stop: Stop) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, index, "a data-plane thread has no runtime"),
    };
    let drain = stop.drain.child_token(); // of this thread: its waiters share no lock with others'
    runtime.block_on(async {
        match TcpListener::from_std(listener) {
            Ok(listener) => accept(listener, Rc::new(Thread::new(index, parts, reports, drain)), stop).await,
            Err(error) => tracing::error!(%error, index, "a data-plane thread cannot listen"),
        }
    });
}

async fn accept(listener: TcpListener, thread: Rc<Thread>, stop: Stop) {
    let connections = TaskTracker::new();
    let drain = thread.draining.clone();
    connections.spawn_local(callers::hand_over(thread.clone()));
    while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn_local(connection(stream, peer, thread.clone(), drain.clone(), connections.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(OUT_OF_FILES).await;
            }
        }
    }
    drop(listener);
    connections.close();
    stop.abort.run_until_cancelled(connections.wait()).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    thread: Rc<Thread>,
    drain: CancellationToken,
    tracker: TaskTracker,
) {
    let _ = stream.set_nodelay(true); // an error: it has gone already
    let Some(Ok(Ok((stream, is_http2)))) =
        drain.run_until_cancelled(timeout(HEAD_TIMEOUT, Guarded::open(stream))).await
    else {
        return;
    };
    let framing = (!is_http2).then(|| stream.framing_report());
    let connection = Rc::new(Connection::new(thread, peer.ip(), tracker, framing));
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let mut builder = http2::Builder::new(Local);
        builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD_H2);
        builder.keep_alive_interval(HEAD_TIMEOUT).keep_alive_timeout(PING_TIMEOUT);
        let serving = std::pin::pin!(builder.serve_connection(io, service));
        finish(serving, &drain, http2::Connection::graceful_shutdown).await;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).writev(false).max_header_size(MAX_HEAD);
        let serving = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        finish(serving, &drain, http1::UpgradeableConnection::graceful_shutdown).await;
    }
}

#[allow(clippy::cast_possible_truncation)] // 64 Ki
const MAX_HEAD_H2: u32 = MAX_HEAD as u32;

/// Serves a connection to its end; once `drain` is cancelled, to the end of what it is at.
async fn finish<C: Future>(
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
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
