//! The accept loop, with the limits that `axum::serve` leaves open.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::acceptor::{Acceptor, ServerConfig};
use super::connection::{self, Timeouts};
use super::peer::Peer;
use super::rejection::Rejection;
use crate::log_throttle::LogThrottle;

/// Connections that the kernel keeps until they are accepted; it lowers this to its own `somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;
/// How long accepting pauses when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `address`.
///
/// # Errors
/// The operating system's, for instance when the address is in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves the connections of `listener` until `stop` is cancelled, then accepts those that wait in its queue, closes it, and
/// returns when all connections have drained. Dropping the future ends the connections that are left. Each connection gets the service
/// that `service` makes for its peer.
pub async fn serve<S>(
    listener: TcpListener,
    service: impl Fn(Peer) -> S + Send + Sync + 'static,
    config: ServerConfig,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + Unpin,
{
    let permits = Arc::new(Semaphore::new(config.max_connections));
    let acceptor = Arc::new(Acceptor::new(service, config, stop.clone()));
    let mut connections = JoinSet::new();
    let spawn = |connections: &mut JoinSet<()>, stream: TcpStream, address: IpAddr| {
        // With Nagle's algorithm a response could wait until the client acknowledges the one before.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let acceptor = Arc::clone(&acceptor);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            connections.spawn(async move { acceptor.serve(stream, address, permit).await });
        } else if let Some(rejection) = acceptor.reject(Rejection::TooManyConnections) {
            connections.spawn(async move { acceptor.send(stream, rejection).await });
        }
    };
    let accept_log = LogThrottle::for_clients();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            // Frees the memory of ended connections even if no new one is accepted.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, address)) => spawn(&mut connections, stream, address.ip()),
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                if let Some(suppressed) = accept_log.permit() {
                    tracing::error!(%error, suppressed, "cannot accept connections; check the limit on open files");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Err(error) = accept_queued(listener, |stream, address| spawn(&mut connections, stream, address)) {
        tracing::error!(%error, "connections in the queue of the listener are reset; check the limit on open files");
    }
    while connections.join_next().await.is_some() {}
}

/// Accepts the connections that wait in the queue of `listener`, and closes it. Their clients may have sent requests already,
/// which the close would reset.
fn accept_queued(listener: TcpListener, mut spawn: impl FnMut(TcpStream, IpAddr)) -> io::Result<()> {
    // Directly, because tokio learns of new connections only later.
    let listener = listener.into_std()?;
    // Another process may share the listener, and its clients go on connecting.
    for _ in 0..LISTEN_BACKLOG {
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                spawn(TcpStream::from_std(stream)?, address.ip());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_of_one_connection(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Serves one connection that is already open, until it ends. For tests that have both ends of an in-memory pipe.
pub async fn serve_connection<IO, S>(
    stream: IO,
    service: S,
    timeouts: Timeouts,
    render: fn(Rejection) -> Vec<u8>,
    stop: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    connection::run(stream, service, timeouts, render, stop).await;
}

/// Whether an error of `accept` is about one connection, and not about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
