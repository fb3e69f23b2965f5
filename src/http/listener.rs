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
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::connection::{self, Timeouts};
use crate::metrics::{Metrics, Outcome};

/// Connections that the kernel holds until they are accepted; the kernel caps it at its own `somaxconn`.
const BACKLOG: i32 = 4096;
/// How long accepting pauses when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that they are missing.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Connections over the limit that are being told so; more are just closed.
const REFUSALS_MAX: usize = 64;
/// What a sender over the connection limit is told to wait, in seconds, before jitter doubles it at most.
const CONNECT_AGAIN_SECS: u64 = 5;

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

/// Serves `service` on `listener` until `stop` is cancelled; then accepts no more, and returns when the requests in
/// flight are answered. Dropping the future ends what is left.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    metrics: Option<Arc<Metrics>>,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + Unpin,
{
    let timeouts = Timeouts { header: limits.header_timeout, idle: limits.idle_timeout };
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            // Ended connections are let go of while nobody new comes, too.
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_the_sender_s(&error) => continue,
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    tracing::error!(%error, "cannot accept connections; is the limit on open files too low?");
                    said = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it an answer may wait for the acknowledgement of the one before.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            // A token of its own: every look at a shared one takes the lock that they share.
            let (service, stop, metrics) = (service.clone(), stop.child_token(), metrics.clone());
            connections.spawn(async move {
                let _open = metrics.as_ref().map(|metrics| Open::count(&metrics.connections));
                let refused = connection::run(stream, service, timeouts, stop).await;
                metrics.iter().zip(refused).for_each(|(metrics, outcome)| metrics.request(outcome));
                drop(place);
            });
        } else {
            metrics.iter().for_each(|metrics| metrics.request(Outcome::TooManyConnections));
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    refuse(stream).await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
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

async fn refuse(stream: TcpStream) {
    let retry_after = CONNECT_AGAIN_SECS + fastrand::u64(..=CONNECT_AGAIN_SECS);
    connection::answer_and_close(stream, &Problem::TooManyConnections { retry_after }).await;
}

/// Whether it was one connection that failed, and not the listener.
fn is_the_sender_s(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
