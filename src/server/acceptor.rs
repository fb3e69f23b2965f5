//! The steps between accepting a connection and its first byte of HTTP: the PROXY header, the limit of its address, TLS.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use prometheus::{IntCounter, IntGauge};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Timeouts};
use super::peer::{Peer, TrustedProxies, network};
use super::proxy_protocol;
use super::rejection::Rejection;
use super::tls::Tls;
use crate::keyed_semaphores::{KeyedPermit, KeyedSemaphores};
use crate::log_throttle::LogThrottle;

/// Rejected connections that are sent a response at the same time; more are closed without one.
const REJECTIONS_MAX: usize = 64;

/// How a listener accepts and serves connections.
pub struct ServerConfig {
    /// Open connections.
    pub max_connections: usize,
    /// The time limits of one connection.
    pub timeouts: Timeouts,
    /// The certificate; none for plain TCP.
    pub tls: Option<Arc<Tls>>,
    /// The proxies whose information on a client's address is trusted.
    pub proxies: TrustedProxies,
    /// Connections from `proxies` begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Open connections of one address, trusted proxies excepted.
    pub max_per_address: Option<usize>,
    /// Makes the complete HTTP/1.1 response to a connection that is rejected.
    pub render: fn(Rejection) -> Vec<u8>,
    /// Counts connections and rejections, if they are counted.
    pub metrics: Option<ServerMetrics>,
}

/// What is counted of a listener's connections.
pub struct ServerMetrics {
    /// Open connections.
    pub connections: IntGauge,
    /// Connections that failed before their first request.
    pub failed_connections: IntCounter,
    /// Counts a rejection.
    pub on_reject: Box<dyn Fn(Rejection) + Send + Sync>,
}

impl ServerConfig {
    /// Plain TCP from every address, without a limit for each.
    pub fn plain(max_connections: usize, timeouts: Timeouts, render: fn(Rejection) -> Vec<u8>) -> Self {
        Self {
            max_connections,
            timeouts,
            tls: None,
            proxies: TrustedProxies::default(),
            proxy_protocol: false,
            max_per_address: None,
            render,
            metrics: None,
        }
    }
}

/// State that the connections of a listener share.
pub(super) struct Acceptor<F> {
    service: F,
    config: ServerConfig,
    per_address: Option<KeyedSemaphores<IpAddr>>,
    rejections: Arc<Semaphore>,
    stop: CancellationToken,
    address_limit_log: LogThrottle,
}

/// A rejected connection, with the permit to send the response.
pub(super) struct PendingRejection {
    rejection: Rejection,
    _permit: OwnedSemaphorePermit,
}

impl<F, S> Acceptor<F>
where
    F: Fn(Peer) -> S,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin,
{
    pub(super) fn new(service: F, config: ServerConfig, stop: CancellationToken) -> Self {
        Self {
            service,
            per_address: config.max_per_address.map(KeyedSemaphores::new),
            config,
            rejections: Arc::new(Semaphore::new(REJECTIONS_MAX)),
            stop,
            address_limit_log: LogThrottle::for_clients(),
        }
    }

    /// Serves a connection from `address` until it ends, unless its address has too many. `permit` is one of the
    /// listener's `max_connections`.
    pub(super) async fn serve(&self, mut stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit) {
        let open = self.config.metrics.as_ref().map(|metrics| OpenConnection::count(&metrics.connections));
        let deadline = Instant::now() + self.config.timeouts.header;
        let Some(peer) = self.peer(&mut stream, address, deadline).await else { return };
        let Ok(_address_permit) = self.acquire_for_address(&peer) else {
            drop((open, permit));
            if let Some(suppressed) = self.address_limit_log.permit() {
                tracing::warn!(
                    address = %peer.address(),
                    suppressed,
                    "MAX_CONNECTIONS_PER_ADDRESS exceeded; if the address is a proxy, add it to TRUSTED_PROXIES"
                );
            }
            if let Some(rejection) = self.reject(Rejection::TooManyFromAddress) {
                self.send(stream, rejection).await;
            }
            return;
        };
        // A child, because polling a shared token takes the lock that all of its clones share.
        let stop = self.stop.child_token();
        let slow = match &self.config.tls {
            None => self.run(stream, peer, stop).await,
            // Boxed, so that the future of a plain connection does not become larger.
            Some(tls) => {
                let handshake = Box::pin(self.handshake(tls.accept(stream), peer.address(), deadline)).await;
                let Some(stream) = handshake else { return };
                Box::pin(self.run(stream, peer, stop)).await
            }
        };
        if slow {
            self.count(Rejection::SlowHeaders);
        }
    }

    /// Whether the connection was ended because its headers did not arrive in time.
    async fn run<IO>(&self, stream: IO, peer: Peer, stop: CancellationToken) -> bool
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        connection::run(stream, (self.service)(peer), self.config.timeouts, self.config.render, stop).await
    }

    /// Counts a rejection. Returns it if it can be sent now.
    pub(super) fn reject(&self, rejection: Rejection) -> Option<PendingRejection> {
        self.count(rejection);
        let permit = Arc::clone(&self.rejections).try_acquire_owned().ok()?;
        Some(PendingRejection { rejection, _permit: permit })
    }

    /// Sends a rejection and closes the connection.
    pub(super) async fn send(&self, stream: TcpStream, pending: PendingRejection) {
        let response = (self.config.render)(pending.rejection);
        match &self.config.tls {
            None => connection::send_and_close(stream, &response).await,
            Some(tls) => {
                let Ok(address) = stream.peer_addr() else { return };
                let deadline = Instant::now() + self.config.timeouts.header;
                let handshake = self.handshake(tls.accept_http1(stream), address.ip(), deadline);
                if let Some(stream) = Box::pin(handshake).await {
                    Box::pin(connection::send_and_close(stream, &response)).await;
                }
            }
        }
    }

    fn count(&self, rejection: Rejection) {
        if let Some(metrics) = &self.config.metrics {
            (metrics.on_reject)(rejection);
        }
    }

    /// The client, which a trusted proxy names in the PROXY header.
    async fn peer(&self, stream: &mut TcpStream, address: IpAddr, deadline: Instant) -> Option<Peer> {
        let peer = Peer::new(address, self.config.proxies.clone());
        if !self.config.proxy_protocol || !peer.is_proxy() {
            return Some(peer);
        }
        let source = self.before_http(proxy_protocol::read(stream), "PROXY header", address, deadline).await?;
        Some(source.map_or(peer, |source| Peer::new(source, self.config.proxies.clone())))
    }

    /// A permit of the peer's address; `None` if it needs none, an error if the address has all of its permits in use.
    fn acquire_for_address(&self, peer: &Peer) -> Result<Option<KeyedPermit<IpAddr>>, ()> {
        let Some(per_address) = self.per_address.as_ref().filter(|_| !peer.is_proxy()) else { return Ok(None) };
        per_address.try_acquire(network(peer.address())).map(Some).ok_or(())
    }

    async fn handshake(
        &self,
        handshake: impl Future<Output = std::io::Result<TlsStream<TcpStream>>>,
        address: IpAddr,
        deadline: Instant,
    ) -> Option<TlsStream<TcpStream>> {
        self.before_http(handshake, "TLS handshake", address, deadline).await
    }

    /// Runs a step that comes before HTTP until `deadline`, or for `drain_idle` while the server drains.
    async fn before_http<T, E: Display>(
        &self,
        future: impl Future<Output = Result<T, E>>,
        step: &'static str,
        address: IpAddr,
        deadline: Instant,
    ) -> Option<T> {
        let drained = async {
            self.stop.cancelled().await;
            sleep(self.config.timeouts.drain_idle).await;
        };
        let done = tokio::select! {
            biased;
            done = timeout_at(deadline, future) => done,
            () = drained => return None,
        };
        match done {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::debug!(%address, %error, step, "connection failed before its first request"),
            Err(_) => tracing::debug!(%address, step, "connection timed out before its first request"),
        }
        if let Some(metrics) = &self.config.metrics {
            metrics.failed_connections.inc();
        }
        None
    }
}

/// Counts a connection in a gauge until it is dropped.
struct OpenConnection(IntGauge);

impl OpenConnection {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
