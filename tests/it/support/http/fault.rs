//! A TCP proxy in front of a store or an upstream, which turns bad on demand.
//!
//! A change of mood reaches the connections that are open as well as new ones. It lives on the
//! test's runtime and ends with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// How the proxy treats what comes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultMode {
    /// As it comes.
    Pass,
    /// Each read's bytes this much later.
    Delay(Duration),
    /// In writes of so many bytes.
    Slice(usize),
    /// Not at all: connections open and then nothing moves.
    Blackhole,
    /// Connections are reset, and new ones too.
    Reset,
}

/// A fault proxy, from now on passing.
pub struct FaultProxy {
    addr: String,
    mode: watch::Sender<FaultMode>,
    accepted_count: Arc<AtomicUsize>,
}

impl FaultProxy {
    /// Starts one in front of `target`, such as `127.0.0.1:6379`.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let addr = listener.local_addr().expect("a bound socket has an address").to_string();
        let (mood, watching) = watch::channel(FaultMode::Pass);
        let accepted = Arc::new(AtomicUsize::new(0));
        tokio::spawn(accept_connections(listener, target.to_owned(), watching, accepted.clone()));
        Self { addr, mode: mood, accepted_count: accepted }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// How many connections it accepted so far.
    pub fn accepted_count(&self) -> usize {
        self.accepted_count.load(Ordering::Relaxed)
    }

    /// Delays what is read from now on, in both directions.
    pub fn delay_reads(&self, by: Duration) {
        self.mode.send_replace(FaultMode::Delay(by));
    }

    /// Writes `n` bytes at a time, so that every boundary is torn.
    pub fn slice_writes(&self, n: usize) {
        self.mode.send_replace(FaultMode::Slice(n.max(1)));
    }

    /// Lets nothing through, and says nothing either.
    pub fn blackhole(&self) {
        self.mode.send_replace(FaultMode::Blackhole);
    }

    /// Resets every connection, open or new.
    pub fn reset_connections(&self) {
        self.mode.send_replace(FaultMode::Reset);
    }

    /// Passes again; what a black hole held back goes on.
    pub fn pass_through(&self) {
        self.mode.send_replace(FaultMode::Pass);
    }
}

async fn accept_connections(
    listener: TcpListener,
    target: String,
    mood: watch::Receiver<FaultMode>,
    accepted: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(forward_connection(client, target.clone(), mood.clone()));
    }
}

/// Carries one connection until it ends; what breaks on one side is reset on the other.
async fn forward_connection(
    mut client: TcpStream,
    target: String,
    mood: watch::Receiver<FaultMode>,
) {
    let mut watching = mood.clone();
    let reset = wait_for_mode(&mut watching, |mood| mood == FaultMode::Reset);
    tokio::pin!(reset);
    let connected = tokio::select! {
        biased;
        () = &mut reset => None,
        server = connect_to_target(&target, mood.clone()) => server.ok(),
    };
    let Some(mut server) = connected else {
        let _ = client.set_zero_linger();
        return;
    };
    let whole = tokio::select! {
        biased;
        () = &mut reset => false,
        ends = forward_both_ways(&mut client, &mut server, &mood) => ends.is_ok(),
    };
    if !whole {
        // Closing a socket that lingers for zero seconds sends RST.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn connect_to_target(
    target: &str,
    mut mood: watch::Receiver<FaultMode>,
) -> io::Result<TcpStream> {
    wait_for_mode(&mut mood, |mood| mood != FaultMode::Blackhole).await;
    TcpStream::connect(target).await
}

async fn forward_both_ways(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mood: &watch::Receiver<FaultMode>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let up = copy_direction(from_client, to_server, mood.clone());
    let down = copy_direction(from_server, to_client, mood.clone());
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies one direction until its end, which goes on as a half-close.
async fn copy_direction(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mood: watch::Receiver<FaultMode>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = from.read(&mut buffer).await?;
        wait_for_mode(&mut mood, |mood| mood != FaultMode::Blackhole).await;
        let now = *mood.borrow();
        if let FaultMode::Delay(by) = now {
            sleep(by).await;
        }
        if n == 0 {
            return to.shutdown().await;
        }
        let size = if let FaultMode::Slice(size) = now { size } else { n };
        for slice in buffer[..n].chunks(size) {
            to.write_all(slice).await?;
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for a mood; for ever when the proxy's owner is gone without it.
async fn wait_for_mode(mood: &mut watch::Receiver<FaultMode>, wanted: impl Fn(FaultMode) -> bool) {
    if mood.wait_for(|mood| wanted(*mood)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::TEST_DEADLINE;
    use crate::support::http::client::RawConnection;

    /// A server that sends back what it gets.
    async fn start_echo_server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let addr = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn bytes_come_through_whole_when_sliced_and_delayed() {
        let proxy = FaultProxy::start(&start_echo_server().await).await;
        let mut connection = RawConnection::open(proxy.addr()).await;
        proxy.slice_writes(3);
        connection.send_bytes(b"0123456789").await;
        assert_eq!(connection.read_exactly(10).await, b"0123456789");
        proxy.delay_reads(Duration::from_millis(5));
        connection.send_bytes(b"late.").await;
        connection.half_close().await;
        assert_eq!(connection.read_to_end().await, b"late.");
        assert_eq!(proxy.accepted_count(), 1);
    }

    #[tokio::test]
    async fn a_black_hole_holds_bytes_until_it_resumes() {
        let proxy = FaultProxy::start(&start_echo_server().await).await;
        let mut connection = RawConnection::open(proxy.addr()).await;
        proxy.blackhole();
        connection.send_bytes(b"held.").await;
        let held =
            tokio::time::timeout(Duration::from_millis(100), connection.read_until(b".")).await;
        assert!(held.is_err(), "nothing comes out of a black hole");
        proxy.pass_through();
        assert_eq!(connection.read_until(b".").await, b"held.");
    }

    #[tokio::test]
    async fn open_and_new_connections_are_reset() {
        let proxy = FaultProxy::start(&start_echo_server().await).await;
        let mut open = TcpStream::connect(proxy.addr()).await.expect("it listens");
        open.write_all(b".").await.expect("it reads");
        open.read_exact(&mut [0]).await.expect("it answers");
        proxy.reset_connections();
        let mut new = TcpStream::connect(proxy.addr()).await.expect("it listens");
        for stream in [&mut open, &mut new] {
            let read = tokio::time::timeout(TEST_DEADLINE, stream.read(&mut [0]))
                .await
                .expect("a reset is prompt");
            assert_eq!(
                read.expect_err("a reset is an error").kind(),
                io::ErrorKind::ConnectionReset
            );
        }
    }
}
