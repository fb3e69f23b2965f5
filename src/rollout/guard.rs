//! Compares the other version with this one, and finds out when it is clearly worse.
//!
//! Both sides are measured alike: from the end of the body to the response. Latencies are of requests that wait for the commit
//! alone, because a client that waits until its job is stored waits for a second and longer on either side, and may have all
//! of its requests on one of them. A client that leaves before the response is counted as well: otherwise a version that hangs
//! would have no requests.

use std::fmt;
use std::time::{Duration, Instant};

use super::window::{Sample, WINDOW, Window};

/// Requests that a side must have in the window before it is compared.
pub(super) const REQUESTS_MIN: u64 = 50;
/// Errors of the other version that may be chance.
const ERRORS_MIN: u64 = 5;
/// The other version is worse if its error rate is more than this many times ours, plus this margin.
const ERROR_RATE_FACTOR: f64 = 2.0;
const ERROR_RATE_MARGIN: f64 = 0.02;
/// The other version is worse with this error rate, even if too few requests are handled here for a comparison.
const ERROR_RATE_MAX: f64 = 0.5;
/// The other version is worse if its p99 is more than this many times ours, and more than this much longer.
const LATENCY_FACTOR: u32 = 2;
const LATENCY_MARGIN: Duration = Duration::from_millis(100);
/// Slow responses of the other version that may be chance.
const SLOW_MIN: u64 = 3;
/// So many failures of the other version in a row, over this time at least, are worse at any rate of requests.
const FAILURES_IN_A_ROW: u32 = 10;
const FAILURES_SPAN: Duration = Duration::from_secs(5);
/// A client that leaves after this time did not get its response in time. One that leaves earlier may not want it.
const ABANDONED_MIN: Duration = Duration::from_secs(1);
/// How often the sides are compared at most.
const COMPARE_INTERVAL: Duration = Duration::from_millis(200);

/// Who has handled a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// This server.
    Own,
    /// The other version.
    Other,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With a response that is not the fault of the side.
    Ok,
    /// With an error, or without a response.
    Failed,
    /// The client has left before the response.
    Abandoned,
}

/// The requests of both sides in the last seconds.
#[derive(Debug)]
pub(super) struct Guard {
    own: Window,
    other: Window,
    own_failures: InARow,
    other_failures: InARow,
    compared: Instant,
}

/// Failures since the last success.
#[derive(Debug, Default)]
struct InARow {
    count: u32,
    /// The time of the first one.
    since: Option<Instant>,
}

/// What can be judged with the requests in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Both versions have enough requests.
    Compared,
    /// Too few are handled here, so only the error rate of the other version is judged.
    ErrorsOnly,
    /// The other version has too few requests, so only failures in a row are judged.
    TooFewRequests,
}

/// In what the other version is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It fails, does not respond or cannot be reached.
    Errors,
    /// The same, for its last requests, which are too few for a rate.
    ErrorsInARow,
    /// It is slower.
    Latency,
}

/// What a side did in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Requests.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// The latency of 99% of those that only waited for their commit.
    pub p99: Option<Duration>,
}

/// Why nothing is forwarded any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// In what the other version was worse.
    pub reason: Reason,
    /// What the other version did.
    pub other: Figures,
    /// What this one did.
    pub own: Figures,
}

impl Reason {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Errors | Self::ErrorsInARow => "errors",
            Self::Latency => "latency",
        }
    }
}

impl Judgement {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compared => "compared",
            Self::ErrorsOnly => "errors_only",
            Self::TooFewRequests => "too_few_requests",
        }
    }
}

impl From<&Sample> for Figures {
    fn from(sample: &Sample) -> Self {
        Self { requests: sample.requests, errors: sample.errors, p99: sample.p99() }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} requests failed", self.errors, self.requests)?;
        match self.p99 {
            Some(p99) => write!(f, ", p99 {:.1} ms", p99.as_secs_f64() * 1e3),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == Reason::ErrorsInARow {
            write!(f, "the last {FAILURES_IN_A_ROW} requests there failed; ")?;
        }
        write!(f, "{} in the last {} s: there {}; here {}", self.reason.name(), WINDOW.as_secs(), self.other, self.own)
    }
}

impl InARow {
    fn add(&mut self, now: Instant, is_error: bool) {
        if is_error {
            self.count = self.count.saturating_add(1);
            self.since.get_or_insert(now);
        } else {
            *self = Self::default();
        }
    }

    fn is_complete(&self, now: Instant) -> bool {
        let is_long = self.since.is_some_and(|since| now.saturating_duration_since(since) >= FAILURES_SPAN);
        self.count >= FAILURES_IN_A_ROW && is_long
    }
}

impl Guard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            own: Window::new(now),
            other: Window::new(now),
            own_failures: InARow::default(),
            other_failures: InARow::default(),
            compared: now,
        }
    }

    /// Adds a request that ended at `now`, with its latency if that is comparable. The latency of an abandoned one is a lower
    /// bound. Returns why the other version is worse, if it is.
    pub(super) fn record(
        &mut self,
        side: Side,
        now: Instant,
        outcome: Outcome,
        latency: Option<Duration>,
    ) -> Option<Trip> {
        let (window, failures) = match side {
            Side::Own => (&mut self.own, &mut self.own_failures),
            Side::Other => (&mut self.other, &mut self.other_failures),
        };
        let is_error = match outcome {
            Outcome::Ok => Some(false),
            Outcome::Failed => Some(true),
            Outcome::Abandoned => latency.is_some_and(|latency| latency >= ABANDONED_MIN).then_some(true),
        };
        window.add(now, is_error, latency);
        is_error.inspect(|is_error| failures.add(now, *is_error));
        let fails = self.other_failures.is_complete(now) && self.own_failures.count < FAILURES_IN_A_ROW;
        if !fails && now.saturating_duration_since(self.compared) < COMPARE_INTERVAL {
            return None;
        }
        self.compared = now;
        let (own, other) = (self.own.sum(now), self.other.sum(now));
        let reason = compare(&own, &other).or_else(|| fails.then_some(Reason::ErrorsInARow));
        reason.map(|reason| Trip { reason, other: (&other).into(), own: (&own).into() })
    }

    /// What can be judged at `now`.
    pub(super) fn judgement(&self, now: Instant) -> Judgement {
        let has_enough = |window: &Window| window.sum(now).requests >= REQUESTS_MIN;
        match (has_enough(&self.other), has_enough(&self.own)) {
            (false, _) => Judgement::TooFewRequests,
            (true, false) => Judgement::ErrorsOnly,
            (true, true) => Judgement::Compared,
        }
    }
}

/// In what the other version is worse, if it is.
fn compare(own: &Sample, other: &Sample) -> Option<Reason> {
    if other.requests >= REQUESTS_MIN && other.errors >= ERRORS_MIN {
        let max = if own.requests >= REQUESTS_MIN {
            rate(own) * ERROR_RATE_FACTOR + ERROR_RATE_MARGIN
        } else {
            ERROR_RATE_MAX
        };
        if rate(other) > max {
            return Some(Reason::Errors);
        }
    }
    let is_timed = |sample: &Sample| sample.timed() >= REQUESTS_MIN;
    let p99 = own.p99().filter(|_| is_timed(own) && is_timed(other))?;
    let slow = other.slower_than((p99 * LATENCY_FACTOR).max(p99 + LATENCY_MARGIN));
    // More than one in a hundred is slower, so the p99 is.
    (slow >= SLOW_MIN && slow * 100 > other.timed()).then_some(Reason::Latency)
}

fn rate(sample: &Sample) -> f64 {
    sample.errors as f64 / sample.requests as f64
}

#[cfg(test)]
mod tests;
