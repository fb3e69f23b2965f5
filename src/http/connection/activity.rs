//! What a connection has been doing, marked by its socket and its service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::{Request, Version as HttpVersion};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::version::Version;
use super::{End, Timeouts};

/// Marks of one connection. They guard no other memory, so every access is relaxed.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Requests whose answer is not made yet.
    in_flight: AtomicU32,
    /// Bytes that the socket gave, over the connection's life.
    bytes_read: AtomicU64,
    /// Bytes came in since the last answer, and no request yet.
    headers_begun: AtomicBool,
    /// When the connection began to idle, or the headers to come: milliseconds since it was opened.
    since: AtomicU64,
    /// When the socket took bytes last, while it takes none: milliseconds since the connection was opened, and one.
    stuck_since: AtomicU64,
    /// The service wants the connection ended.
    is_exhausted: AtomicBool,
    exhausted: Notify,
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
            bytes_read: AtomicU64::new(0),
            headers_begun: AtomicBool::new(false),
            since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
            is_exhausted: AtomicBool::new(false),
            exhausted: Notify::new(),
        }
    }

    /// The socket gave these bytes, by which `version` was told.
    pub(super) fn read(&self, bytes: &[u8], version: Version) {
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // It has frames that belong to no request, so bytes there do not mean headers. Those of its preface may have been
        // taken for a request's.
        if version == Version::Http2 {
            self.headers_begun.store(false, Ordering::Relaxed);
            return;
        }
        let waiting = self.in_flight.load(Ordering::Relaxed) == 0 && !self.headers_begun.load(Ordering::Relaxed);
        // A line break before a request is to be passed over (RFC 9112, 2.2).
        if !waiting || bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            return;
        }
        self.mark(Instant::now());
        self.headers_begun.store(true, Ordering::Relaxed);
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

    fn exhaust(&self) {
        self.is_exhausted.store(true, Ordering::Relaxed);
        self.exhausted.notify_one();
    }

    /// Whether the service wants the connection ended.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Ordering::Relaxed)
    }

    /// Waits until the service wants the connection ended.
    pub(super) async fn exhausted(&self) {
        self.exhausted.notified().await;
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

/// How many bytes have come on a connection of HTTP/1 since the head of a request was read, as an extension of the request:
/// those of its body as it is framed, and of what follows it.
#[derive(Debug, Clone)]
pub(in crate::http) struct WireBytes {
    activity: Arc<Activity>,
    before: u64,
}

impl WireBytes {
    pub(in crate::http) fn count(&self) -> u64 {
        self.activity.bytes_read.load(Ordering::Relaxed).saturating_sub(self.before)
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
    S: Service<Request<Incoming>, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Marked<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.request();
        if request.version() != HttpVersion::HTTP_2 {
            let (activity, before) = (Arc::clone(&self.activity), self.activity.bytes_read.load(Ordering::Relaxed));
            request.extensions_mut().insert(WireBytes { activity, before });
        }
        Marked { answer: self.service.call(request), activity: Arc::clone(&self.activity) }
    }
}

/// The making of an answer; in flight until it is done or dropped.
pub(super) struct Marked<F> {
    answer: F,
    activity: Arc<Activity>,
}

impl<F, E> Future for Marked<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        if answer.as_ref().is_ok_and(|response| response.extensions().get::<End>().is_some()) {
            self.activity.exhaust();
            // Never answered: the connection's task ends this one.
            return Poll::Pending;
        }
        Poll::Ready(answer)
    }
}

impl<F> Drop for Marked<F> {
    fn drop(&mut self) {
        self.activity.answered();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::version::H2_PREFACE;
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { header: Duration::from_secs(1), idle: Duration::from_secs(3) };

    /// What is found after these reads when the time for headers is over, and when that for idling is.
    fn verdicts<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> [Verdict; 2] {
        let (activity, mut version) = (Activity::new(), Version::NEW);
        reads.into_iter().for_each(|bytes| {
            version.follow(bytes);
            activity.read(bytes, version);
        });
        let now = Instant::now();
        [TIMEOUTS.header, TIMEOUTS.idle].map(|passed| activity.verdict(now + passed, TIMEOUTS))
    }

    #[test]
    fn frames_behind_a_preface_are_no_headers_in_whatever_pieces_it_came() {
        for piece in 1..=H2_PREFACE.len() {
            let reads = H2_PREFACE.chunks(piece).chain([&b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\0\x08\x06"]);
            assert_eq!(verdicts(reads), [Verdict::Fine, Verdict::Idle], "in pieces of {piece}");
        }
        let with_more = [H2_PREFACE, &b"\0\0\0\x04"[..]].concat();
        assert_eq!(verdicts([&with_more[..]]), [Verdict::Fine, Verdict::Idle]);
    }

    #[test]
    fn a_request_that_begins_like_a_preface_has_the_time_of_headers() {
        for reads in
            [&[&b"PRI"[..]][..], &[b"PRI ", b"/ HTTP/1.1\r\n"], &[b"P", b"OST / HTTP"], &[b"PRI * HTTP/2.0\r\n"]]
        {
            assert_eq!(verdicts(reads.iter().copied()), [Verdict::SlowHeaders; 2]);
        }
    }
}
