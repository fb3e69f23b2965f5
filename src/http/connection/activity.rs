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
use super::version::Version;

/// Marks of one connection. They guard no other memory, so every access is relaxed.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Requests whose answer is not made yet.
    in_flight: AtomicU32,
    /// Bytes came in since the last answer, and no request yet.
    headers_begun: AtomicBool,
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
            since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        }
    }

    /// The socket gave these bytes, by which `version` was told.
    pub(super) fn read(&self, bytes: &[u8], version: Version) {
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
