//! A listener and its connections: what `axum::serve` leaves open is set here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::arrivals::{Arrivals, Transport};
use super::connection::{self, Timeouts};
use super::peer::Peer;
use crate::log_throttle::LogThrottle;
use crate::metrics::Metrics;

/// Connections that the kernel holds until they are accepted; the kernel caps it at its own `somaxconn`.
const BACKLOG: i32 = 4096;
/// How long accepting pauses when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections.
    pub max_connections: usize,
    /// From a request's first byte to the end of its headers.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
}

impl Limits {
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts { header: self.header_timeout, idle: self.idle_timeout }
    }
}

/// Listens on `address`.
///
/// # Errors
/// Those of the system's, when the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves the requests of `listener`'s connections until `stop` is cancelled; then accepts no more, and returns when the
/// requests in flight are answered. Dropping the future ends what is left. Each connection gets the service that
/// `service` makes for its peer.
pub async fn serve<S>(
    listener: TcpListener,
    service: impl Fn(Peer) -> S + Send + Sync + 'static,
    limits: Limits,
    transport: Transport,
    metrics: Option<Arc<Metrics>>,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + Unpin,
{
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let arrivals = Arc::new(Arrivals::new(service, &limits, transport, metrics, stop.clone()));
    let mut connections = JoinSet::new();
    let failing = LogThrottle::for_clients();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            // Ended connections are let go of while nobody new comes, too.
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) if is_the_sender_s(&error) => continue,
            Err(error) => {
                if let Some(suppressed) = failing.permit() {
                    tracing::error!(%error, suppressed, "cannot accept connections; is the limit on open files too low?");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it an answer may wait for the acknowledgement of the one before.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let arrivals = Arc::clone(&arrivals);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            connections.spawn(async move { arrivals.serve(stream, address, place).await });
        } else if let Some(refusal) = arrivals.refuse(|retry_after| Problem::TooManyConnections { retry_after }) {
            connections.spawn(async move { arrivals.tell(stream, refusal).await });
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection that is open already, whatever it runs over, to its end: for tests, which have both ends of a
/// pipe in hand.
pub async fn serve_connection<IO, S>(stream: IO, service: S, limits: &Limits, stop: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    connection::run(stream, service, limits.timeouts(), stop).await;
}

/// Whether it was one connection that failed, and not the listener.
fn is_the_sender_s(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
