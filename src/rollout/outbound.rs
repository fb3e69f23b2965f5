//! An HTTP/1.1 client for the other version, with connections of its own.
//!
//! A caller must know whether the other server may have taken a request that failed. It cannot have taken it if no byte of the
//! request was written: the connection was not made, or was closed while it was idle. Then hyper hands the request back. After
//! that, only a complete response tells the outcome.
//!
//! A connection is polled by the request that uses it, and not while it is idle. So there is no task to stop, and a connection
//! that the other server has closed is found before the next request is written.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::resolver::Resolver;
use crate::https::{self, root_cause};

/// From the lookup of the name to the end of the TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is closed. Servers close theirs later than that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The most bytes that are read of a body of a response.
pub(super) const RESPONSE_MAX_BYTES: usize = 64 * 1024;
/// The most bytes of the head of a response, and hyper's smallest limit.
const HEAD_MAX_BYTES: usize = 16 * 1024;

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;
type Driver = http1::Connection<Io, Full<Bytes>>;
pub(super) type Connector = HttpsConnector<HttpConnector<Resolver>>;

/// A connector for http, and for https if the certificate authorities of the system can be read.
///
/// # Errors
/// If TLS cannot be set up at all.
pub(super) fn connector() -> io::Result<Connector> {
    let tls = https::connector(true).or_else(|error| {
        tracing::info!(
            %error,
            "cannot read the certificate authorities of the system, so an https URL in ROLLOUT_FILE cannot be reached; for one, install ca-certificates or set SSL_CERT_FILE"
        );
        https::connector(false)
    })?;
    let mut http = HttpConnector::new_with_resolver(Resolver::default());
    http.enforce_http(false);
    http.set_nodelay(true);
    Ok(tls.https_or_http().enable_http1().wrap_connector(http))
}

/// A response, complete.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The other server has as much to do as it may have.
    #[error("as many requests as allowed are in flight")]
    Busy,
    /// No byte of the request was written.
    #[error("{0}")]
    NotTaken(String),
    /// The other server may have taken the request.
    #[error("{0}")]
    Unknown(String),
}

/// Connections to one server.
pub(super) struct Outbound {
    url: Uri,
    connector: Connector,
    /// One for each request in flight, which bounds the connections.
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    response_timeout: Duration,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Until the connection has ended.
    driver: Option<Driver>,
    /// The same socket.
    socket: std::net::TcpStream,
}

impl Outbound {
    /// Up to `max` connections to the server at `url`. A response must be complete within `response_timeout` of its request.
    pub(super) fn new(url: Uri, connector: Connector, max: usize, response_timeout: Duration) -> Self {
        Self { url, connector, permits: Semaphore::new(max), idle: Mutex::default(), response_timeout }
    }

    /// The server.
    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Sends a request if a connection is free. `head` has the path alone as its URI, and a `Host`.
    pub(super) async fn send(&self, head: Parts, body: Bytes) -> Result<Received, SendError> {
        let _permit = self.permits.try_acquire().map_err(|_| SendError::Busy)?;
        let mut request = Request::from_parts(head, Full::new(body));
        while let Some(connection) = self.reuse().await {
            match self.exchange(connection, request).await {
                Err(Failed::Returned(returned, _)) => request = *returned,
                Err(Failed::Unknown(error)) => return Err(SendError::Unknown(error)),
                Ok(received) => return Ok(received),
            }
        }
        let connection = self.connect().await.map_err(SendError::NotTaken)?;
        self.exchange(connection, request).await.map_err(|failed| match failed {
            Failed::Returned(_, error) => SendError::NotTaken(error),
            Failed::Unknown(error) => SendError::Unknown(error),
        })
    }

    /// An idle connection that is open as far as is known.
    async fn reuse(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle.lock().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.is_open().await {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let mut connector = self.connector.clone();
        let connecting = async {
            let connecting = tower::Service::call(&mut connector, self.url.clone());
            let io = connecting.await.map_err(|error| format!("cannot connect: {}", root_cause(&*error)))?;
            let socket = duplicate(&io).map_err(|error| error.to_string())?;
            let handshake = http1::Builder::new().max_buf_size(HEAD_MAX_BYTES).handshake(io);
            let (sender, driver) = handshake.await.map_err(|error| root_cause(&error))?;
            Ok(Connection { sender, driver: Some(driver), socket })
        };
        let late = || format!("cannot connect within {CONNECT_TIMEOUT:?}");
        timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends a request and reads its response.
    async fn exchange(&self, mut connection: Connection, request: Request<Full<Bytes>>) -> Result<Received, Failed> {
        let deadline = Instant::now() + self.response_timeout;
        let Connection { sender, driver, .. } = &mut connection;
        let exchange = async {
            let response = sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                Some(request) => Failed::Returned(Box::new(request), root_cause(&error.into_error())),
                None => Failed::Unknown(root_cause(&error.into_error())),
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, RESPONSE_MAX_BYTES).collect().await;
            let body =
                body.map_err(|error| Failed::Unknown(format!("the response is incomplete: {}", root_cause(&*error))))?;
            // The connection is idle when it accepts the next request.
            let is_reusable = sender.ready().await.is_ok();
            Ok((Received { status: head.status, headers: head.headers, body: body.to_bytes() }, is_reusable))
        };
        let driven = timeout_at(deadline, drive(driver, exchange)).await;
        let late = || Failed::Unknown(format!("no complete response within {:?}", self.response_timeout));
        let (received, is_reusable) = driven.unwrap_or_else(|_| Err(late()))?;
        if is_reusable && connection.driver.is_some() {
            self.idle.lock().push(Idle { connection, since: Instant::now() });
        }
        Ok(received)
    }

    /// Closes the connections that were idle for too long.
    pub(super) fn close_idle(&self) {
        self.idle.lock().retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT);
    }
}

enum Failed {
    /// No byte of it was written.
    Returned(Box<Request<Full<Bytes>>>, String),
    Unknown(String),
}

impl Connection {
    /// Whether the other end has not closed it, as far as this machine knows.
    async fn is_open(&mut self) -> bool {
        // The system is asked, because the runtime learns of the end of a stream a little later.
        match self.socket.peek(&mut [0]) {
            Ok(0) => return false,
            // Messages of TLS, or a response without a request.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        let Some(driver) = &mut self.driver else { return false };
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *driver).poll(cx))).await;
        if polled.is_ready() {
            self.driver = None;
        }
        polled.is_pending() && self.sender.is_ready()
    }
}

/// Another descriptor of the socket of a stream.
fn duplicate(io: &Io) -> io::Result<std::net::TcpStream> {
    let tcp = match io {
        MaybeHttpsStream::Http(tcp) => tcp.inner(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
    };
    Ok(tcp.as_fd().try_clone_to_owned()?.into())
}

/// Runs `exchange` and the connection that it needs.
async fn drive<T>(driver: &mut Option<Driver>, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    if let Some(running) = driver {
        tokio::select! {
            biased;
            exchanged = &mut exchange => return exchanged,
            _ = running => {}
        }
        // While it exists, the exchange waits for it. The response may have been read before it ended.
        *driver = None;
    }
    exchange.await
}

#[cfg(test)]
mod tests;
