//! What happens to a connection between its being accepted and its first byte of HTTP: whom it is for, whether that one
//! may have another, TLS.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use prometheus::IntGauge;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::addresses::{Addresses, Held, TooMany};
use super::connection::{self, Timeouts};
use super::listener::Limits;
use super::peer::{Peer, TrustedProxies};
use super::proxy_header;
use super::tls::Tls;
use crate::log_throttle::LogThrottle;
use crate::metrics::{Metrics, Route};

/// Connections that are being told why they are refused; more are just closed.
const REFUSALS_MAX: usize = 64;
/// What a sender over a connection limit is told to wait, in seconds, before jitter doubles it at most.
const CONNECT_AGAIN_SECS: u64 = 5;

/// How connections come to a listener. The default is plain, from everyone, without end.
#[derive(Default)]
pub struct Transport {
    /// What TLS is spoken with, if it is.
    pub tls: Option<Arc<Tls>>,
    /// Whose word on a sender's address is taken.
    pub proxies: TrustedProxies,
    /// Connections from `proxies` begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Open connections of one address, proxies aside.
    pub max_per_address: Option<usize>,
}

/// What a listener's connections share.
pub(super) struct Arrivals<F> {
    service: F,
    timeouts: Timeouts,
    tls: Option<Arc<Tls>>,
    proxies: TrustedProxies,
    proxy_protocol: bool,
    addresses: Option<Addresses>,
    refusals: Arc<Semaphore>,
    metrics: Option<Arc<Metrics>>,
    stop: CancellationToken,
    over_limit: LogThrottle,
}

/// A refusal, and the place among those that are told.
pub(super) struct Refusal {
    problem: Problem,
    _place: OwnedSemaphorePermit,
}

impl<F, S> Arrivals<F>
where
    F: Fn(Peer) -> S,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin,
{
    pub(super) fn new(
        service: F,
        limits: &Limits,
        transport: Transport,
        metrics: Option<Arc<Metrics>>,
        stop: CancellationToken,
    ) -> Self {
        let Transport { tls, proxies, proxy_protocol, max_per_address } = transport;
        Self {
            service,
            timeouts: limits.timeouts(),
            tls,
            proxies,
            proxy_protocol,
            addresses: max_per_address.map(Addresses::new),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            metrics,
            stop,
            over_limit: LogThrottle::for_clients(),
        }
    }

    /// Serves a connection from `address` to its end, unless its sender has too many.
    pub(super) async fn serve(&self, mut stream: TcpStream, address: IpAddr, place: OwnedSemaphorePermit) {
        let open = self.metrics.as_ref().map(|metrics| Open::count(&metrics.connections));
        let deadline = Instant::now() + self.timeouts.header;
        let Some(peer) = self.peer(&mut stream, address, deadline).await else { return };
        let Ok(_held) = self.hold(&peer) else {
            drop((open, place));
            if let Some(suppressed) = self.over_limit.permit() {
                tracing::warn!(
                    address = %peer.address(),
                    suppressed,
                    "an address has MAX_CONNECTIONS_PER_ADDRESS open; if it is a proxy, name it in TRUSTED_PROXIES"
                );
            }
            if let Some(refusal) = self.refuse(|retry_after| Problem::TooManyFromAddress { retry_after }) {
                self.tell(stream, refusal).await;
            }
            return;
        };
        // A token of its own: every look at a shared one takes the lock that they share.
        let stop = self.stop.child_token();
        let refused = match &self.tls {
            None => connection::run(stream, (self.service)(peer), self.timeouts, stop).await,
            // In a box, so that a plain connection is no larger for it.
            Some(tls) => {
                let secure = async {
                    let stream = self.shake_hands(tls.accept(stream), peer.address(), deadline).await?;
                    connection::run(stream, (self.service)(peer), self.timeouts, stop).await
                };
                Box::pin(secure).await
            }
        };
        self.metrics.iter().zip(refused).for_each(|(metrics, outcome)| metrics.request(Route::Other, outcome));
    }

    /// Counts a refusal; what is to be told, if not too many are being told already.
    pub(super) fn refuse(&self, problem: impl FnOnce(u64) -> Problem) -> Option<Refusal> {
        let problem = problem(CONNECT_AGAIN_SECS + fastrand::u64(..=CONNECT_AGAIN_SECS));
        self.metrics.iter().for_each(|metrics| metrics.request(Route::Other, problem.outcome()));
        let place = Arc::clone(&self.refusals).try_acquire_owned().ok()?;
        Some(Refusal { problem, _place: place })
    }

    /// Tells a sender why it is refused, and closes.
    pub(super) async fn tell(&self, stream: TcpStream, refusal: Refusal) {
        match &self.tls {
            None => connection::answer_and_close(stream, &refusal.problem).await,
            Some(tls) => {
                let Ok(address) = stream.peer_addr() else { return };
                let deadline = Instant::now() + self.timeouts.header;
                let secure = Box::pin(self.shake_hands(tls.accept_to_refuse(stream), address.ip(), deadline)).await;
                if let Some(stream) = secure {
                    Box::pin(connection::answer_and_close(stream, &refusal.problem)).await;
                }
            }
        }
    }

    /// Who is at the other end, by what the proxy in between says first if it is to say so.
    async fn peer(&self, stream: &mut TcpStream, address: IpAddr, deadline: Instant) -> Option<Peer> {
        let peer = Peer::new(address, self.proxies.clone());
        if !self.proxy_protocol || !peer.is_proxy() {
            return Some(peer);
        }
        let source = self.in_time(proxy_header::read(stream), "the PROXY header", address, deadline).await?;
        Some(source.map_or(peer, |source| Peer::new(source, self.proxies.clone())))
    }

    fn hold(&self, peer: &Peer) -> Result<Option<Held>, TooMany> {
        let addresses = self.addresses.as_ref().filter(|_| !peer.is_proxy());
        addresses.map(|addresses| addresses.hold(peer.address())).transpose()
    }

    async fn shake_hands(
        &self,
        handshake: impl Future<Output = std::io::Result<TlsStream<TcpStream>>>,
        address: IpAddr,
        deadline: Instant,
    ) -> Option<TlsStream<TcpStream>> {
        self.in_time(handshake, "TLS's handshake", address, deadline).await
    }

    /// What comes before HTTP: within its time, and not at all once the server stops.
    async fn in_time<T, E: Display>(
        &self,
        step: impl Future<Output = Result<T, E>>,
        what: &'static str,
        address: IpAddr,
        deadline: Instant,
    ) -> Option<T> {
        let done = self.stop.run_until_cancelled(timeout_at(deadline, step)).await?;
        match done {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::debug!(%address, %error, what, "a connection failed before its first request"),
            Err(_) => tracing::debug!(%address, what, "a connection took too long before its first request"),
        }
        self.metrics.iter().for_each(|metrics| metrics.failed_connections.inc());
        None
    }
}

/// Counts a connection for as long as it is there, however it ends.
struct Open(IntGauge);

impl Open {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
