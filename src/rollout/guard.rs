//! Compares the other version with this one, and finds out when it is clearly worse.
//!
//! Both sides are measured alike: from the end of the body to the response. Latencies are of requests that wait for the commit
//! alone, because a client that waits until its job is stored waits for a second and longer on either side, and may have all
//! of its requests on one of them.

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

/// The requests of both sides in the last seconds.
#[derive(Debug)]
pub(super) struct Guard {
    own: Window,
    other: Window,
    compared: Instant,
}

/// In what the other version is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It fails, does not respond or cannot be reached.
    Errors,
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
            Self::Errors => "errors",
            Self::Latency => "latency",
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
        write!(f, "{} in the last {} s: there {}; here {}", self.reason.name(), WINDOW.as_secs(), self.other, self.own)
    }
}

impl Guard {
    pub(super) fn new(now: Instant) -> Self {
        Self { own: Window::new(now), other: Window::new(now), compared: now }
    }

    /// Adds a request that ended at `now`, with its latency if that is comparable. Returns why the other version is worse,
    /// if it is.
    pub(super) fn record(
        &mut self,
        side: Side,
        now: Instant,
        is_error: bool,
        latency: Option<Duration>,
    ) -> Option<Trip> {
        match side {
            Side::Own => self.own.add(now, is_error, latency),
            Side::Other => self.other.add(now, is_error, latency),
        }
        if now.saturating_duration_since(self.compared) < COMPARE_INTERVAL {
            return None;
        }
        self.compared = now;
        let (own, other) = (self.own.sum(now), self.other.sum(now));
        compare(&own, &other).map(|reason| Trip { reason, other: (&other).into(), own: (&own).into() })
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
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A guard after `requests` of each side within a second, `(requests, errors, latency)`, and the last comparison.
    fn after(own: (u64, u64, Duration), other: (u64, u64, Duration)) -> Option<Trip> {
        let began = Instant::now();
        let mut guard = Guard::new(began);
        for (side, (requests, errors, latency)) in [(Side::Own, own), (Side::Other, other)] {
            for request in 0..requests {
                let is_error = request < errors;
                guard.record(side, began, is_error, (!is_error).then_some(latency));
            }
        }
        let (own, other) = (guard.own.sum(began), guard.other.sum(began));
        compare(&own, &other).map(|reason| Trip { reason, other: (&other).into(), own: (&own).into() })
    }

    fn reason(own: (u64, u64, Duration), other: (u64, u64, Duration)) -> Option<&'static str> {
        after(own, other).map(|trip| trip.reason.name())
    }

    #[test]
    fn a_version_that_is_as_good_does_not_trip_the_guard() {
        for other in [(50, 0, MS), (50, 1, MS), (10_000, 100, 2 * MS), (1000, 0, 90 * MS)] {
            assert_eq!(reason((1000, 0, MS), other), None, "{other:?}");
        }
        assert_eq!(reason((1000, 1000, MS), (1000, 1000, MS)), None, "both fail, so neither is worse");
        assert_eq!(reason((1000, 100, MS), (1000, 200, MS)), None);
    }

    #[test]
    fn a_higher_error_rate_trips_the_guard() {
        assert_eq!(reason((50, 0, MS), (50, 5, MS)), Some("errors"));
        assert_eq!(reason((1000, 100, MS), (1000, 250, MS)), Some("errors"));
        assert_eq!(reason((1000, 0, MS), (1000, 25, MS)), Some("errors"));
    }

    #[test]
    fn few_requests_or_few_errors_do_not_trip_the_guard() {
        assert_eq!(reason((1000, 0, MS), (REQUESTS_MIN - 1, REQUESTS_MIN - 1, MS)), None);
        assert_eq!(reason((1000, 0, MS), (100, ERRORS_MIN - 1, MS)), None);
        assert_eq!(reason((REQUESTS_MIN - 1, 0, MS), (1000, 100, MS)), None);
        assert_eq!(reason((REQUESTS_MIN - 1, 0, MS), (1000, 0, 9000 * MS)), None);
        assert_eq!(reason((1000, 0, MS), (REQUESTS_MIN - 1, 0, 9000 * MS)), None);
    }

    #[test]
    fn a_version_that_mostly_fails_trips_the_guard_although_nothing_is_handled_here() {
        assert_eq!(reason((0, 0, MS), (50, 26, MS)), Some("errors"));
        assert_eq!(reason((0, 0, MS), (50, 25, MS)), None);
    }

    #[test]
    fn a_longer_p99_trips_the_guard() {
        assert_eq!(reason((50, 0, MS), (50, 0, 200 * MS)), Some("latency"));
        assert_eq!(reason((50, 0, 500 * MS), (50, 0, 900 * MS)), None, "less than twice as long");
        assert_eq!(reason((50, 0, 500 * MS), (50, 0, 1500 * MS)), Some("latency"));
    }

    #[test]
    fn one_slow_response_in_a_hundred_does_not_trip_the_guard() {
        let began = Instant::now();
        let mut guard = Guard::new(began);
        for request in 0..1000 {
            guard.record(Side::Own, began, false, Some(MS));
            guard.record(Side::Other, began, false, Some(if request % 100 == 0 { 9000 * MS } else { MS }));
        }
        assert_eq!(compare(&guard.own.sum(began), &guard.other.sum(began)), None);
        guard.record(Side::Other, began, false, Some(9000 * MS));
        assert_eq!(compare(&guard.own.sum(began), &guard.other.sum(began)), Some(Reason::Latency));
    }

    #[test]
    fn the_sides_are_compared_at_intervals_and_errors_that_are_older_than_the_window_do_not_count() {
        let began = Instant::now();
        let mut guard = Guard::new(began);
        for _ in 0..100 {
            assert_eq!(guard.record(Side::Own, began, false, None), None);
            assert_eq!(guard.record(Side::Other, began, true, None), None, "not compared yet");
        }
        let mut late = Guard::new(began);
        for _ in 0..100 {
            late.record(Side::Own, began, false, None);
            late.record(Side::Other, began, true, None);
        }
        assert!(guard.record(Side::Other, began + COMPARE_INTERVAL, true, None).is_some());
        assert_eq!(late.record(Side::Other, began + WINDOW, true, None), None);
    }

    #[test]
    fn a_trip_says_what_both_sides_did() {
        let trip = after((100, 0, MS), (100, 50, MS)).unwrap();
        assert_eq!(
            trip.to_string(),
            "errors in the last 30 s: there 50 of 100 requests failed, p99 1.1 ms; here 0 of 100 requests failed, p99 1.1 ms"
        );
    }
}
