//! What a connection has been doing, marked by its socket and its service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::time::Instant;

use super::Timeouts;

/// The first bytes of HTTP/2's preface (RFC 9113, 3.4); no HTTP/1 method begins so.
const H2_PREFACE_START: &[u8] = b"PRI ";

/// Marks of one connection. They guard no other memory, so every access is relaxed.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Requests whose answer is not made yet.
    in_flight: AtomicU32,
    /// Bytes came in since the last answer, and no request yet.
    headers_begun: AtomicBool,
    /// HTTP/2 has frames that belong to no request, so bytes there do not mean headers.
    is_h2: AtomicBool,
    /// When the connection began to idle, or the headers to come: milliseconds since it was opened.
    since: AtomicU64,
    /// When the socket took bytes last, while it takes none: milliseconds since the connection was opened, and one.
    stuck_since: AtomicU64,
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Idle,
    SlowHeaders,
    /// The sender does not read its answers.
    Stuck,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            in_flight: AtomicU32::new(0),
            headers_begun: AtomicBool::new(false),
            is_h2: AtomicBool::new(false),
            since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        }
    }

    /// The socket gave these bytes.
    pub(super) fn read(&self, bytes: &[u8]) {
        let waiting = self.in_flight.load(Ordering::Relaxed) == 0 && !self.headers_begun.load(Ordering::Relaxed);
        // A line break before a request is to be passed over (RFC 9112, 2.2).
        if !waiting || bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            return;
        }
        if bytes.starts_with(H2_PREFACE_START) {
            self.is_h2.store(true, Ordering::Relaxed);
        }
        if !self.is_h2.load(Ordering::Relaxed) {
            self.mark(Instant::now());
            self.headers_begun.store(true, Ordering::Relaxed);
        }
    }

    /// The socket was given bytes, and took some or none.
    pub(super) fn wrote(&self, took_some: bool) {
        let is_stuck = self.stuck_since.load(Ordering::Relaxed) != 0;
        if is_stuck == took_some {
            let since = if took_some { 0 } else { self.millis(Instant::now()).saturating_add(1) };
            self.stuck_since.store(since, Ordering::Relaxed);
        }
    }

    fn request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.headers_begun.store(false, Ordering::Relaxed);
    }

    fn answered(&self) {
        self.mark(Instant::now());
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn mark(&self, now: Instant) {
        self.since.store(self.millis(now), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the connection may go on as it is.
    pub(super) fn verdict(&self, now: Instant, timeouts: Timeouts) -> Verdict {
        if let Some(since) = self.stuck_since.load(Ordering::Relaxed).checked_sub(1) {
            let passed = u128::from(self.millis(now).saturating_sub(since));
            return if passed >= timeouts.idle.as_millis() { Verdict::Stuck } else { Verdict::Fine };
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Verdict::Fine;
        }
        let passed = u128::from(self.millis(now).saturating_sub(self.since.load(Ordering::Relaxed)));
        if self.headers_begun.load(Ordering::Relaxed) {
            if passed >= timeouts.header.as_millis() { Verdict::SlowHeaders } else { Verdict::Fine }
        } else if passed >= timeouts.idle.as_millis() {
            Verdict::Idle
        } else {
            Verdict::Fine
        }
    }
}

/// A service whose requests are marked.
pub(super) struct Watched<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(service: S, activity: Arc<Activity>) -> Self {
        Self { service, activity }
    }
}

impl<S> Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Marked<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.request();
        Marked { answer: self.service.call(request), activity: Arc::clone(&self.activity) }
    }
}

/// The making of an answer; in flight until it is done or dropped.
pub(super) struct Marked<F> {
    answer: F,
    activity: Arc<Activity>,
}

impl<F: Future + Unpin> Future for Marked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.answer).poll(cx)
    }
}

impl<F> Drop for Marked<F> {
    fn drop(&mut self) {
        self.activity.answered();
    }
}
