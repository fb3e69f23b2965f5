//! The UDP socket and the address of the daemon, whose name may resolve to another address at any time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{UdpSocket, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How often the name is resolved while datagrams can be sent.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(60);
/// How long a flush waits for an address if there is none yet.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a flush waits until the socket's buffer has room.
const WRITABLE_TIMEOUT: Duration = Duration::from_millis(100);

/// Why metrics were not sent.
#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error("the name cannot be resolved: {0}")]
    Lookup(io::Error),
    #[error("the resolver did not respond within {} s", LOOKUP_TIMEOUT.as_secs())]
    LookupTimeout,
    #[error("the name has no address")]
    NoAddress,
    #[error("no socket for {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("the buffer of the socket is full")]
    BufferFull,
    #[error("{0}: {1}")]
    Send(SocketAddr, io::Error),
    #[error("a line exceeds {0} bytes")]
    TooLong(usize),
}

impl SendError {
    /// Whether the daemon's host has reported that no program listens on the port.
    pub(super) fn is_rejection(&self) -> bool {
        matches!(self, Self::Send(_, error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Sends datagrams to the daemon, without ever blocking.
pub(super) struct Destination {
    /// `host:port`.
    addr: String,
    connection: Option<(UdpSocket, SocketAddr)>,
    /// The address that failed last. The next connection uses the address after it.
    failed: Option<SocketAddr>,
    /// At most one: a resolver that hangs occupies one thread.
    lookups: JoinSet<io::Result<Vec<SocketAddr>>>,
    looked_up: Option<Instant>,
}

impl Destination {
    pub(super) fn new(addr: String) -> Self {
        Self { addr, connection: None, failed: None, lookups: JoinSet::new(), looked_up: None }
    }

    /// The address as configured.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The error that the last datagram of the previous flush has caused since.
    pub(super) fn pending_error(&mut self) -> Option<SendError> {
        let (socket, peer) = self.connection.as_ref()?;
        let error = SendError::Send(*peer, socket.take_error().ok()??);
        self.disconnect();
        Some(error)
    }

    /// Resolves the name if there is no connection or the last lookup is old, and connects the socket to its address. An
    /// existing connection remains in use during a lookup and if it fails.
    ///
    /// # Errors
    /// If the name cannot be resolved, or the socket cannot be connected.
    pub(super) async fn prepare(&mut self) -> Result<(), SendError> {
        let is_old = self.looked_up.is_none_or(|at| at.elapsed() >= LOOKUP_INTERVAL);
        if self.lookups.is_empty() && (is_old || !self.is_connected()) {
            let addr = self.addr.clone();
            self.lookups.spawn(async move { lookup_host(addr).await.map(Iterator::collect) });
        }
        let result = if self.is_connected() {
            self.lookups.try_join_next()
        } else {
            timeout(LOOKUP_TIMEOUT, self.lookups.join_next()).await.map_err(|_| SendError::LookupTimeout)?
        };
        if let Some(result) = result {
            self.looked_up = Some(Instant::now());
            let addresses = result.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(SendError::Lookup)?;
            self.connect(&addresses).await?;
        }
        if let Some((socket, _)) = &self.connection {
            // If this times out, `send` fails.
            let _: Result<_, _> = timeout(WRITABLE_TIMEOUT, socket.writable()).await;
        }
        Ok(())
    }

    /// Connects to the first usable address, unless the current one is still valid.
    async fn connect(&mut self, addresses: &[SocketAddr]) -> Result<(), SendError> {
        if self.connection.as_ref().is_some_and(|(_, peer)| addresses.contains(peer)) {
            return Ok(());
        }
        let after_failed = addresses.iter().position(|address| Some(*address) == self.failed).map_or(0, |at| at + 1);
        let (before, from) = addresses.split_at(after_failed);
        let mut result = Err(SendError::NoAddress);
        for address in from.iter().chain(before) {
            match connected(*address).await {
                Ok(socket) => {
                    self.connection = Some((socket, *address));
                    return Ok(());
                }
                Err(error) => result = Err(SendError::Connect(*address, error)),
            }
        }
        result
    }

    /// Sends a datagram. After an error, the next flush resolves the name again.
    ///
    /// # Errors
    /// If the datagram, or an earlier one, was not sent.
    pub(super) fn send(&mut self, datagram: &str) -> Result<(), SendError> {
        let Some((socket, peer)) = &self.connection else { return Ok(()) };
        let sent = match socket.try_send(datagram.as_bytes()) {
            // Reported by the host for an earlier datagram: this one was not sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                socket.try_send(datagram.as_bytes()).and(Err(error))
            }
            sent => sent,
        };
        sent.map(|_| ()).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SendError::BufferFull,
            _ => SendError::Send(*peer, error),
        })
    }

    /// The next flush resolves the name and connects again.
    pub(super) fn disconnect(&mut self) {
        self.failed = self.connection.take().map(|(_, peer)| peer);
    }
}

async fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}
