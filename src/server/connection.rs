//! One connection: HTTP/1.1 or, with prior knowledge or ALPN, HTTP/2, with time limits that cost nothing per request.
//!
//! hyper has one timeout for slow headers and for idle connections, and closes both without a response. Here the socket and
//! the service record the [`Activity`], and the connection's task checks it at intervals: slow headers get a 408, an idle
//! connection is shut down gracefully, and one whose client does not read its responses is dropped.
//!
//! hyper's graceful shutdown closes an idle connection of HTTP/1 at once, and resets the request that may be on its way. So
//! while the server drains, the next response of HTTP/1 has `Connection: close`, and a connection without a request ends after
//! `drain_idle`. HTTP/2 gets GOAWAY in two steps (RFC 9113, 6.8), as soon as the connection is known to be HTTP/2.
//!
//! A socket that is closed while it holds unread bytes resets the connection, and the client may lose the last response
//! (RFC 9112, 9.6). So what still arrives is read and discarded for a while.

mod activity;
mod frames;
mod protocol;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use activity::WireBytes;
use activity::{Activity, TrackedService, Verdict};
use stream::MeteredStream;

use super::rejection::Rejection;

/// Header lines of a request; more are rejected with 431. hyper reserves memory for this many on each connection of HTTP/1.
/// Over HTTP/2 it has no such limit, so the service checks it as well.
pub(crate) const HEADERS_MAX: usize = 100;
/// How long, and for how many bytes, a closing connection is read so that the client gets its last response.
const DISCARD_TIME: Duration = Duration::from_secs(2);
const DISCARD_MAX_BYTES: u64 = 16 << 20;
/// HTTP/1: the request line with its headers, and the pieces in which a body is read.
const READ_BUFFER_MAX_BYTES: usize = 64 * 1024;
/// HTTP/2: concurrent requests of one connection, and the size of the headers of one.
const STREAMS_MAX: u32 = 128;
const H2_HEADERS_MAX_BYTES: u32 = 16 * 1024;
/// HTTP/2: the lowest limit that a frame may have (RFC 9113, 4.2); this much of an incomplete frame is buffered.
const H2_FRAME_MAX_BYTES: u32 = 16 * 1024;
/// HTTP/2: flow control window of a stream and of a connection: a body of the default `MAX_BODY_BYTES` without waiting.
const WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2: bytes of a response that are buffered while the client has no window for them; responses are a few hundred bytes.
const SEND_MAX_BYTES: usize = 16 * 1024;
/// HTTP/2: streams that were opened and reset before they were accepted (CVE-2023-44487); one more ends the connection.
const RESETS_PENDING_MAX: usize = 20;
/// HTTP/2: streams that the server reset because the client broke the protocol (CVE-2025-8671), over the connection's life;
/// one more ends it. A correct client causes some, too: with the rest of bodies that were rejected early, and with
/// streams over `STREAMS_MAX` before it knows that limit.
const RESETS_CAUSED_MAX: usize = 1024;
/// HTTP/2: a client that does not acknowledge a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The activity is checked this many times within the shorter of the two timeouts.
const CHECKS_PER_TIMEOUT: u32 = 4;
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// In the extensions of a response: the connection ends at once, with all of its requests, instead of sending it.
#[derive(Debug, Clone, Copy)]
struct EndConnection;

/// A response that ends its connection at once.
pub(crate) fn end_connection() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(EndConnection);
    response
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From a request's first byte to the end of its headers.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without a request while the server drains, if that is shorter.
    pub drain_idle: Duration,
}

impl Timeouts {
    /// The time limits while the server drains.
    fn while_draining(self) -> Self {
        Self { idle: self.idle.min(self.drain_idle), ..self }
    }
}

/// Serves the connection until the client or a time limit ends it. When `stop` is cancelled, the connection drains: it ends
/// after its next response, or after `drain_idle` without a request. Returns whether it was ended because headers did not arrive in time.
pub(super) async fn run<IO, S>(
    stream: IO,
    service: S,
    timeouts: Timeouts,
    render: fn(Rejection) -> Vec<u8>,
    stop: CancellationToken,
) -> bool
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    let activity = Arc::new(Activity::new());
    let (stream, mut returned) = MeteredStream::new(stream, Arc::clone(&activity));
    let service = TrackedService::new(service, Arc::clone(&activity));
    let is_slow = serve_http(stream, service, timeouts, stop, &activity).await;
    if let Ok(stream) = returned.try_recv() {
        if is_slow {
            send_and_close(stream, &render(Rejection::SlowHeaders)).await;
        } else if !activity.is_ending() {
            close(stream).await;
        }
    }
    is_slow
}

/// Speaks HTTP until the connection ends. Returns whether headers did not arrive in time.
async fn serve_http<IO, S>(
    stream: MeteredStream<IO>,
    service: TrackedService<S>,
    mut timeouts: Timeouts,
    stop: CancellationToken,
    activity: &Activity,
) -> bool
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    let streams = Streams::default();
    let mut builder = auto::Builder::new(streams.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(READ_BUFFER_MAX_BYTES);
    builder.http1().max_headers(HEADERS_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    builder.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(H2_HEADERS_MAX_BYTES);
    builder.http2().max_frame_size(H2_FRAME_MAX_BYTES).max_send_buf_size(SEND_MAX_BYTES);
    builder.http2().initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    builder.http2().max_pending_accept_reset_streams(RESETS_PENDING_MAX);
    builder.http2().max_local_error_reset_streams(RESETS_CAUSED_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

    let mut interval = (timeouts.header.min(timeouts.idle) / CHECKS_PER_TIMEOUT).min(CHECK_INTERVAL_MAX);
    let mut check = pin!(sleep_until(Instant::now() + interval));
    let mut ending = pin!(activity.ending());
    let (mut is_draining, mut is_shutting_down) = (false, false);
    let is_slow = loop {
        tokio::select! {
            // The stop first, so that the next response is the last one, and then the connection, so that a request that has
            // arrived is not taken for silence.
            biased;
            () = stop.cancelled(), if !is_draining => {
                is_draining = true;
                let now = Instant::now();
                activity.drain(now);
                timeouts = timeouts.while_draining();
                interval = interval.min(timeouts.idle);
                check.as_mut().reset(now + timeouts.idle);
            }
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(error = &*error, "connection failed");
                }
                break false;
            }
            () = ending.as_mut() => break false,
            () = activity.http2(), if is_draining && !is_shutting_down => {
                is_shutting_down = true;
                connection.as_mut().graceful_shutdown();
            }
            () = check.as_mut() => {
                let now = Instant::now();
                check.as_mut().reset(now + interval);
                match activity.verdict(now, timeouts) {
                    Verdict::WithinLimits => {}
                    Verdict::SlowHeaders => break true,
                    Verdict::WriteBlocked => break false,
                    Verdict::Idle if is_shutting_down => break false,
                    Verdict::Idle => {
                        is_shutting_down = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    };
    streams.abort_all();
    is_slow
}

/// Sends a rendered response to a client whose request was not read, and closes the connection.
pub(super) async fn send_and_close(mut stream: impl AsyncRead + AsyncWrite + Unpin, response: &[u8]) {
    // A short response fits the socket's buffer, so only a client that does not read keeps it waiting.
    if timeout(DISCARD_TIME, stream.write_all(response)).await.is_ok() {
        close(stream).await;
    }
}

async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let discard = async {
        // TLS has a message to write here, which blocks if the client does not read. An error means that the
        // client has closed already.
        if stream.shutdown().await.is_ok() {
            let mut unread = stream.take(DISCARD_MAX_BYTES);
            let _: Result<_, _> = copy(&mut unread, &mut sink()).await;
        }
    };
    let _: Result<_, _> = timeout(DISCARD_TIME, discard).await;
}

/// Owns the tasks that hyper spawns for HTTP/2 streams. Each task holds a clone, so they are aborted explicitly.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl Streams {
    fn abort_all(&self) {
        self.0.lock().abort_all();
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock();
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(75), drain_idle: Duration::from_secs(5) };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection that is served, its stop, and the task.
    fn connection() -> (DuplexStream, CancellationToken, JoinSet<bool>) {
        let (client, server) = duplex(1 << 16);
        let stop = CancellationToken::new();
        let service = service_fn(|_| std::future::ready(Ok::<_, Infallible>(Response::default())));
        let mut tasks = JoinSet::new();
        tasks.spawn(run(server, service, TIMEOUTS, |_| Vec::new(), stop.child_token()));
        (client, stop, tasks)
    }

    async fn response(client: &mut DuplexStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn while_draining_a_connection_without_a_request_ends_after_drain_idle() {
        for is_used in [false, true] {
            let (mut client, stop, mut tasks) = connection();
            if is_used {
                client.write_all(REQUEST).await.unwrap();
                assert!(!response(&mut client).await.contains("connection"));
            }
            tokio::time::sleep(TIMEOUTS.drain_idle * 2).await;
            let began = Instant::now();
            stop.cancel();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(began.elapsed(), TIMEOUTS.drain_idle, "used: {is_used}");
            drop(client);
            assert_eq!(tasks.join_next().await.unwrap().ok(), Some(false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_draining_the_next_response_is_the_last_one() {
        let (mut client, stop, _tasks) = connection();
        client.write_all(REQUEST).await.unwrap();
        response(&mut client).await;
        stop.cancel();
        tokio::time::sleep(TIMEOUTS.drain_idle - Duration::from_millis(1)).await;
        client.write_all(REQUEST).await.unwrap();
        assert!(response(&mut client).await.contains("connection: close"));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
