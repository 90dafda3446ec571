//! The data plane: one current-thread runtime per core, each with its own listener
//! (`SO_REUSEPORT`), its own pool of upstream connections and its own metric cells, so that a
//! request meets no lock.
//!
//! A request's life: `framing.rs` and `guard.rs` (bytes and framing) → `service.rs` (canonical
//! path, route, deprecation, split) → `pass.rs` (sync: streamed to the upstream and back) or
//! `canary.rs` (async: captured, queued, waited for) or `tasks.rs` (the own endpoints); one with an
//! `Idempotency-Key` by way of `idempotency.rs`, one that is copied by way of
//! `shadow.rs`. Every status that the proxy itself chooses is in `respond.rs`.

mod body;
mod callers;
mod canary;
mod capture;
mod collect;
mod deprecate;
mod events;
mod framing;
mod guard;
mod headers;
mod idempotency;
mod pass;
mod pool;
mod progress;
mod respond;
mod serve;
mod service;
mod shadow;
mod tasks;
mod upgrade;
mod wait;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::Circuit;

/// Connections that the kernel holds until they are accepted, per thread.
const ACCEPT_BACKLOG: i32 = 4096;

/// What the data plane works with.
#[derive(Clone)]
pub struct ProxyServices {
    /// The current snapshot.
    pub snapshots: Arc<SnapshotHandle>,
    /// The store behind its breaker.
    pub circuit: Arc<Circuit>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Names this process in `Via`, so that a loop is seen.
    pub process_name: Arc<str>,
}

/// A bound, not yet running data plane.
pub struct Proxy {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

/// How a running data plane is told to end.
#[derive(Clone, Default)]
pub struct ProxyShutdown {
    /// Stop accepting, finish what runs.
    pub drain: CancellationToken,
    /// Cut what still runs.
    pub abort: CancellationToken,
}

// === impl Proxy ===

impl Proxy {
    /// Binds `address` once per thread; port 0 is one free port for all.
    ///
    /// # Errors
    /// As the system's `bind`; an occupied port is refused although the threads' own sockets share
    /// it.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Self> {
        // Sockets that share a port would also share it with another process of ours: the first
        // bind does not ask to share, so it fails where anybody listens.
        drop(bind_socket(address, false)?);
        let first = bind_socket(address, true)?;
        let bound = first
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("not an internet address"))?;
        let mut listeners = vec![first.into()];
        for _ in 1..threads.max(1) {
            listeners.push(bind_socket(bound, true)?.into());
        }
        Ok(Self { listeners, address: bound })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the threads; each ends when `stop` says so and its connections have ended.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(
        self,
        parts: &ProxyServices,
        stop: &ProxyShutdown,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let reports = Arc::<progress::ProgressReports>::default();
        let start = |(index, listener): (usize, TcpListener)| {
            let (parts, reports, stop) = (parts.clone(), Arc::clone(&reports), stop.clone());
            std::thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || serve::run_thread(index, listener, parts, reports, stop))
        };
        self.listeners.into_iter().enumerate().map(start).collect()
    }
}

fn bind_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_proxy_has_is_occupied() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let first = Proxy::bind(local, 2).expect("a free port");
        let second = Proxy::bind(first.address(), 2).map(|proxy| proxy.address());
        assert_eq!(second.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    }
}
