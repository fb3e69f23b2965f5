//! One connection: HTTP/1.1 or, by prior knowledge, HTTP/2, with time limits that cost nothing per request.
//!
//! hyper has one timeout for headers and idling alike, and closes without a word. Here the socket and the service leave
//! marks in an [`Activity`], and the connection's task looks at it now and then: a sender that is slow with its headers is
//! told 408, one that idles is closed gently, one that does not read its answers at once. When hyper is done with the socket it is closed so that an answer which the
//! sender has not read yet survives: what still comes in is read and thrown away, for a while, since a socket that is
//! closed over unread bytes resets the connection and takes the answer with it (RFC 9112, 9.6).

mod activity;
mod lent;
mod metered;
mod version;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(super) use activity::WireBytes;
use activity::{Activity, Verdict, Watched};
use lent::Lent;
use metered::Metered;

use super::Problem;
use super::head::HEADERS_MAX;
use super::request_id::RequestId;
use crate::metrics::Outcome;

/// How long, and for how many bytes, a closing connection is read for the sake of its last answer.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_MAX_BYTES: u64 = 16 << 20;
/// A request's line and headers must fit into this, and a body is read in pieces of at most this.
const READ_BUFFER_MAX_BYTES: usize = 64 * 1024;
/// HTTP/2: requests at once on one connection, and the size of one's headers.
const STREAMS_MAX: u32 = 128;
const H2_HEADERS_MAX_BYTES: u32 = 16 * 1024;
/// HTTP/2: the least that a frame may be limited to (RFC 9113, 4.2): what is held of one that is not whole yet.
const FRAME_MAX_BYTES: u32 = 16 * 1024;
/// HTTP/2: what may be on its way of one body and of all bodies on a connection, before it is read: a body of the default
/// `MAX_BODY_BYTES` in one go.
const WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2: what is held of an answer that the sender does not make room for; ours are of a few hundred bytes.
const SEND_MAX_BYTES: usize = 16 * 1024;
/// HTTP/2: streams that were opened and reset before they were looked at (CVE-2023-44487); one more ends the connection.
const RESETS_PENDING_MAX: usize = 20;
/// HTTP/2: streams that the sender made us reset, by breaking the rules (CVE-2025-8671), over the connection's life; one
/// more ends it. Who keeps the rules may cause some, too: with what is still on its way of bodies that were refused early, and
/// with streams over `STREAMS_MAX` before it has heard of that.
const RESETS_CAUSED_MAX: usize = 1024;
/// HTTP/2: a peer that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection is looked at so many times within the shorter of its time limits.
const LOOKS: u32 = 4;
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Marks a response instead of which the connection is to be ended at once, with all its requests.
#[derive(Debug, Clone, Copy)]
struct End;

/// The response of a service that wants the connection ended at once.
pub(super) fn end() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(End);
    response
}

/// A connection's time limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) idle: Duration,
}

/// Runs the connection to its end: the sender's, a time limit's, or after `stop` that of its requests in flight.
///
/// Says what is to be counted of a request that no service saw.
pub(super) async fn run<IO, S>(stream: IO, service: S, timeouts: Timeouts, stop: CancellationToken) -> Option<Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    let activity = Arc::new(Activity::new());
    let (lent, returned) = Lent::lend(stream, Arc::clone(&activity));
    let slow = talk(lent, Watched::new(service, Arc::clone(&activity)), timeouts, stop, &activity).await;
    if let Some(stream) = returned.take() {
        match &slow {
            Some(problem) => answer_and_close(stream, problem).await,
            // Its client does not read: there is no answer to wait for.
            None if activity.is_exhausted() => drop(stream),
            None => close(stream).await,
        }
    }
    slow.map(|problem| problem.outcome())
}

/// Speaks HTTP until the connection is over; says what the sender is still to be told.
async fn talk<IO, S>(
    lent: Lent<IO>,
    service: Watched<S>,
    timeouts: Timeouts,
    stop: CancellationToken,
    activity: &Activity,
) -> Option<Problem>
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
    builder.http2().max_frame_size(FRAME_MAX_BYTES).max_send_buf_size(SEND_MAX_BYTES);
    builder.http2().initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    builder.http2().max_pending_accept_reset_streams(RESETS_PENDING_MAX);
    builder.http2().max_local_error_reset_streams(RESETS_CAUSED_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Metered::new(lent)), service));

    let interval = (timeouts.header.min(timeouts.idle) / LOOKS).min(LOOK_INTERVAL_MAX);
    let mut look = pin!(sleep_until(Instant::now() + interval));
    let mut exhausted = pin!(activity.exhausted());
    let mut ending = false;
    let said = loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(error = &*error, "a connection broke off");
                }
                break None;
            }
            () = exhausted.as_mut() => break None,
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = look.as_mut() => {
                let now = Instant::now();
                look.as_mut().reset(now + interval);
                match activity.verdict(now, timeouts) {
                    Verdict::Fine => {}
                    Verdict::SlowHeaders => break Some(Problem::SlowHeaders),
                    Verdict::Stuck => break None,
                    Verdict::Idle if ending => break None,
                    Verdict::Idle => {
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    };
    streams.end();
    said
}

/// Says one thing to a sender whose request was not read, and closes.
pub(super) async fn answer_and_close(mut stream: impl AsyncRead + AsyncWrite + Unpin, problem: &Problem) {
    let answer = problem.on_the_wire(&RequestId::new());
    // A sender that does not read is not worth waiting for; a short answer fits the socket's buffer.
    if timeout(LINGER_TIME, stream.write_all(&answer)).await.is_ok() {
        close(stream).await;
    }
}

async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let end = async {
        // With TLS this is something to write, too, which a sender that does not read can hold up. An error means that the
        // sender has closed already.
        if stream.shutdown().await.is_ok() {
            let mut unread = stream.take(LINGER_MAX_BYTES);
            let _: Result<_, _> = copy(&mut unread, &mut sink()).await;
        }
    };
    let _: Result<_, _> = timeout(LINGER_TIME, end).await;
}

/// Owns the tasks that hyper makes for HTTP/2's streams. Each holds a clone of it, so they are ended by name.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl Streams {
    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}
