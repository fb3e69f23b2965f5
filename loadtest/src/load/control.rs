//! What can be done to a load while it runs.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Barrier, watch};
use tokio_util::sync::CancellationToken;

use super::Receipts;

/// What can be done to a load while it runs.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Ends the load: requests under way still get their responses, no new ones begin.
    pub end: CancellationToken,
    /// The server was told to stop: a connection that it refuses is not tried again.
    pub server_leaving: CancellationToken,
    /// Where requests go from now on. Connections to another address are closed between two requests.
    pub destination: watch::Sender<Destination>,
    /// Takes a sample of the responses to accepted requests.
    pub receipts: Option<Arc<Receipts>>,
}

/// Where the requests of a load go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Destination {
    /// The plan's target.
    #[default]
    Planned,
    /// Another address.
    To(SocketAddr),
    /// There is no server at the moment: requests wait until there is one.
    Nowhere,
}

impl Control {
    /// The same for one of several loads, which also ends by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { end: self.end.child_token(), ..Self::default() }
    }

    /// Where the next request goes, if there is a server.
    pub(super) fn destination(&self, planned: SocketAddr) -> Option<SocketAddr> {
        match *self.destination.borrow() {
            Destination::Planned => Some(planned),
            Destination::To(addr) => Some(addr),
            Destination::Nowhere => None,
        }
    }

    /// The same, after a wait for a server. `None` when the load is over.
    pub(super) async fn next_destination(&self, planned: SocketAddr) -> Option<SocketAddr> {
        let mut destination = self.destination.subscribe();
        tokio::select! {
            // An error is impossible: the sender is this one.
            _ = destination.wait_for(|to| *to != Destination::Nowhere) => self.destination(planned),
            () = self.end.cancelled() => None,
        }
    }
}

/// Where the threads of a load wait until all connections are made, to begin together.
#[derive(Clone)]
pub(super) struct Start {
    connected: Arc<Barrier>,
    at: Arc<OnceLock<Instant>>,
}

impl Start {
    pub(super) fn of(threads: usize) -> Self {
        Self { connected: Arc::new(Barrier::new(threads)), at: Arc::default() }
    }

    /// Waits for the other threads, or for the end of a load that one of them has failed. Returns when the load began: the
    /// same instant for all, so that a thread that is scheduled late is late for its requests and omits none.
    pub(super) async fn wait(&self, end: &CancellationToken) -> Instant {
        tokio::select! {
            _ = self.connected.wait() => {}
            () = end.cancelled() => {}
        }
        *self.at.get_or_init(Instant::now)
    }
}
