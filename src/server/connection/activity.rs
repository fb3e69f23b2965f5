//! What a connection is doing, recorded by its socket and its service, and read by its task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::protocol::Protocol;
use super::{EndConnection, Timeouts};

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The state of one connection. It guards no other memory, so every access is relaxed.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Requests without a response yet.
    in_flight: AtomicU32,
    /// Bytes read over the connection's life.
    bytes_read: AtomicU64,
    /// Bytes have arrived since the last response, but no complete headers.
    headers_begun: AtomicBool,
    /// When the connection became idle, or the headers began to arrive: milliseconds since it was opened.
    since: AtomicU64,
    /// When the socket stopped taking bytes: milliseconds since the connection was opened, plus one; 0 while it takes them.
    blocked_since: AtomicU64,
    /// The preface of HTTP/2 has arrived.
    is_http2: AtomicBool,
    http2: Notify,
    /// The server drains.
    is_draining: AtomicBool,
    /// The service has asked to end the connection.
    is_ending: AtomicBool,
    ending: Notify,
}

/// What the time limits say about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    WithinLimits,
    Idle,
    SlowHeaders,
    /// The client does not read its responses.
    WriteBlocked,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            in_flight: AtomicU32::new(0),
            bytes_read: AtomicU64::new(0),
            headers_begun: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            http2: Notify::new(),
            is_draining: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            ending: Notify::new(),
        }
    }

    /// The socket was read. `protocol` was detected from all bytes up to the end of these.
    pub(super) fn read(&self, bytes: &[u8], protocol: Protocol) {
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // HTTP/2 has frames that belong to no request, so bytes do not mean that headers arrive. The first bytes of its
        // preface may have been taken for a request's.
        if protocol == Protocol::Http2 {
            self.headers_begun.store(false, Ordering::Relaxed);
            if !self.is_http2.swap(true, Ordering::Relaxed) {
                self.http2.notify_one();
            }
            return;
        }
        let waiting = self.in_flight.load(Ordering::Relaxed) == 0 && !self.headers_begun.load(Ordering::Relaxed);
        // Empty lines before a request are ignored (RFC 9112, 2.2).
        if !waiting || bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            return;
        }
        self.mark(Instant::now());
        self.headers_begun.store(true, Ordering::Relaxed);
    }

    /// The socket was written to, and took some bytes or none.
    pub(super) fn wrote(&self, took_some: bool) {
        let is_blocked = self.blocked_since.load(Ordering::Relaxed) != 0;
        if is_blocked == took_some {
            let since = if took_some { 0 } else { self.millis(Instant::now()).saturating_add(1) };
            self.blocked_since.store(since, Ordering::Relaxed);
        }
    }

    fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.headers_begun.store(false, Ordering::Relaxed);
    }

    fn request_ended(&self) {
        self.mark(Instant::now());
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits until the connection is known to be HTTP/2.
    pub(super) async fn http2(&self) {
        self.http2.notified().await;
    }

    /// The server drains from `now` on: the next response of HTTP/1 is the last one, and the time without a request begins
    /// again.
    pub(super) fn drain(&self, now: Instant) {
        self.is_draining.store(true, Ordering::Relaxed);
        if !self.headers_begun.load(Ordering::Relaxed) {
            self.mark(now);
        }
    }

    /// Whether a response says that the connection closes after it. HTTP/2 has GOAWAY for that.
    fn closes_after_response(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed) && !self.is_http2.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.ending.notify_one();
    }

    /// Whether the service has asked to end the connection.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Waits until the service asks to end the connection.
    pub(super) async fn ending(&self) {
        self.ending.notified().await;
    }

    fn mark(&self, now: Instant) {
        self.since.store(self.millis(now), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    /// Compares the activity with the time limits.
    pub(super) fn verdict(&self, now: Instant, timeouts: Timeouts) -> Verdict {
        if let Some(since) = self.blocked_since.load(Ordering::Relaxed).checked_sub(1) {
            let passed = u128::from(self.millis(now).saturating_sub(since));
            return if passed >= timeouts.idle.as_millis() { Verdict::WriteBlocked } else { Verdict::WithinLimits };
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Verdict::WithinLimits;
        }
        let passed = u128::from(self.millis(now).saturating_sub(self.since.load(Ordering::Relaxed)));
        if self.headers_begun.load(Ordering::Relaxed) {
            if passed >= timeouts.header.as_millis() { Verdict::SlowHeaders } else { Verdict::WithinLimits }
        } else if passed >= timeouts.idle.as_millis() {
            Verdict::Idle
        } else {
            Verdict::WithinLimits
        }
    }
}

/// Bytes that arrived on a connection of HTTP/1 since the headers of a request were read, as an extension of the request:
/// the bytes of its body with their framing, and those of pipelined requests.
#[derive(Debug, Clone)]
pub(crate) struct WireBytes {
    activity: Arc<Activity>,
    before: u64,
}

impl WireBytes {
    pub(crate) fn count(&self) -> u64 {
        self.activity.bytes_read.load(Ordering::Relaxed).saturating_sub(self.before)
    }
}

/// A service whose requests are recorded.
pub(super) struct TrackedService<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S> TrackedService<S> {
    pub(super) fn new(service: S, activity: Arc<Activity>) -> Self {
        Self { service, activity }
    }
}

impl<S> Service<Request<Incoming>> for TrackedService<S>
where
    S: Service<Request<Incoming>, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = TrackedResponse<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.request_began();
        if request.version() != Version::HTTP_2 {
            let (activity, before) = (Arc::clone(&self.activity), self.activity.bytes_read.load(Ordering::Relaxed));
            request.extensions_mut().insert(WireBytes { activity, before });
        }
        TrackedResponse { response: self.service.call(request), activity: Arc::clone(&self.activity) }
    }
}

/// A response in the making; its request is in flight until this is dropped.
pub(super) struct TrackedResponse<F> {
    response: F,
    activity: Arc<Activity>,
}

impl<F, E> Future for TrackedResponse<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.response).poll(cx));
        if response.as_ref().is_ok_and(|response| response.extensions().get::<EndConnection>().is_some()) {
            self.activity.end();
            // Never ready: the connection's task drops this future.
            return Poll::Pending;
        }
        if let Ok(response) = &mut response
            && self.activity.closes_after_response()
        {
            // hyper closes the connection after a response with it (RFC 9112, 9.6).
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        Poll::Ready(response)
    }
}

impl<F> Drop for TrackedResponse<F> {
    fn drop(&mut self) {
        self.activity.request_ended();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::protocol::H2_PREFACE;
    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { header: Duration::from_secs(1), idle: Duration::from_secs(3), drain_idle: Duration::from_secs(2) };

    /// The verdicts after these reads, once the header timeout and once the idle timeout has passed.
    fn verdicts<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> [Verdict; 2] {
        let (activity, mut protocol) = (Activity::new(), Protocol::UNKNOWN);
        reads.into_iter().for_each(|bytes| {
            protocol.detect(bytes);
            activity.read(bytes, protocol);
        });
        let now = Instant::now();
        [TIMEOUTS.header, TIMEOUTS.idle].map(|passed| activity.verdict(now + passed, TIMEOUTS))
    }

    #[test]
    fn frames_after_a_preface_are_no_headers_however_it_is_split() {
        for piece in 1..=H2_PREFACE.len() {
            let reads = H2_PREFACE.chunks(piece).chain([&b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\0\x08\x06"]);
            assert_eq!(verdicts(reads), [Verdict::WithinLimits, Verdict::Idle], "in pieces of {piece}");
        }
        let with_more = [H2_PREFACE, &b"\0\0\0\x04"[..]].concat();
        assert_eq!(verdicts([&with_more[..]]), [Verdict::WithinLimits, Verdict::Idle]);
    }

    #[test]
    fn a_request_that_begins_like_a_preface_has_the_header_timeout() {
        for reads in
            [&[&b"PRI"[..]][..], &[b"PRI ", b"/ HTTP/1.1\r\n"], &[b"P", b"OST / HTTP"], &[b"PRI * HTTP/2.0\r\n"]]
        {
            assert_eq!(verdicts(reads.iter().copied()), [Verdict::SlowHeaders; 2]);
        }
    }
}
