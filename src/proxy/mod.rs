//! The data plane: one current-thread runtime per core, each with its own listener
//! (`SO_REUSEPORT`), its own pool of upstream connections and its own metric cells, so that serving
//! a request takes no lock.
//!
//! A request passes `http` (framing of its bytes) and `server` (checks, routing, accounting), and
//! is then served by `paths` (legacy calls: sync, canary, shadow, idempotency, upgrade) or `tasks`
//! (the endpoints of this proxy). Imports between the modules go down only, and modules in one
//! place of this list do not import each other:
//! `server | paths, tasks | queueing | context | state | answer | upstream | http`.

mod answer;
mod context;
mod http;
mod paths;
mod queueing;
mod server;
mod state;
mod tasks;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};

pub use self::context::ProxyServices;
pub use self::server::ProxyShutdown;
use self::server::run_thread;
use self::state::progress_reports::ProgressReports;

/// Connections that the kernel holds for each thread until they are accepted.
const ACCEPT_BACKLOG: i32 = 4096;

/// A data plane whose port is bound and whose threads have not started.
pub struct Proxy {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

// === impl Proxy ===

impl Proxy {
    /// Binds `address` once for each thread; port 0 is one free port for all threads.
    ///
    /// # Errors
    /// Those of the system's `bind`. A port that another process listens on is refused, although
    /// the threads' own sockets share theirs.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Self> {
        // Sockets that share a port would share it with another omnidaemon process as well. The
        // first bind does not share, so it fails if any process listens on the port.
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

    /// The address that all threads listen on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the threads; each ends when `shutdown` is cancelled and its connections have ended.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        self,
        services: &ProxyServices,
        shutdown: &ProxyShutdown,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let reports = Arc::<ProgressReports>::default();
        let start = |(index, listener): (usize, TcpListener)| {
            let (services, shutdown) = (services.clone(), shutdown.clone());
            let reports = Arc::clone(&reports);
            std::thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || run_thread(index, listener, services, reports, shutdown))
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
    fn a_port_that_another_proxy_listens_on_is_refused() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let first = Proxy::bind(local, 2).expect("a free port");
        let second = Proxy::bind(first.address(), 2).map(|proxy| proxy.address());
        assert_eq!(second.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    }
}
