//! The measurements of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies above this are recorded as this.
const LONGEST: Duration = Duration::from_secs(600);

/// The counts and latencies of some span of a load. All times are in microseconds.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Tally {
    /// From when an accepted request was due to its response.
    pub accepted: Latencies,
    pub rejected: Latencies,
    /// From when a request was due to when it was sent: what the generator itself, or a wait for a free connection, added.
    pub late: Latencies,
    pub statuses: BTreeMap<u16, u64>,
    pub unanswered: u64,
    pub connects: u64,
    pub connect_errors: u64,
    /// Why the first of them could not be made.
    pub connect_error: Option<String>,
    /// Why the first request on a connection had no response.
    pub request_error: Option<String>,
    /// Requests that the server did not process and that were sent again, as HTTP allows: pipelined ones after a response with
    /// `Connection: close`, and streams above the last one of a GOAWAY.
    pub sent_again: u64,
    /// Requests that were due but that no connection was free for, or could be made for, before the end.
    pub unsent: u64,
}

/// Points of a curve from each to half of the share that is left.
const CURVE_STEPS: u32 = 4;

/// A histogram of times to three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Tally {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            accepted: Latencies::new()?,
            rejected: Latencies::new()?,
            late: Latencies::new()?,
            statuses: BTreeMap::new(),
            unanswered: 0,
            connects: 0,
            connect_errors: 0,
            connect_error: None,
            request_error: None,
            sent_again: 0,
            unsent: 0,
        })
    }

    /// Requests with a response.
    pub fn answered(&self) -> u64 {
        self.accepted.count() + self.rejected.count()
    }

    pub(super) fn answer(&mut self, status: u16, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        if (200..300).contains(&status) { &mut self.accepted } else { &mut self.rejected }.record(latency);
    }

    /// Adds the other's counts to these and sets the other's back to zero.
    pub(crate) fn take_from(&mut self, other: &mut Self) {
        self.accepted.take_from(&mut other.accepted);
        self.rejected.take_from(&mut other.rejected);
        self.late.take_from(&mut other.late);
        for (status, count) in std::mem::take(&mut other.statuses) {
            *self.statuses.entry(status).or_default() += count;
        }
        self.unanswered += std::mem::take(&mut other.unanswered);
        self.connects += std::mem::take(&mut other.connects);
        self.connect_errors += std::mem::take(&mut other.connect_errors);
        self.connect_error = self.connect_error.take().or(other.connect_error.take());
        self.request_error = self.request_error.take().or(other.request_error.take());
        self.sent_again += std::mem::take(&mut other.sent_again);
        self.unsent += std::mem::take(&mut other.unsent);
    }
}

impl Latencies {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3)?))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of them, from 0 to 1, did not exceed, in microseconds; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(share) }
    }

    /// Shares, from 0 to 1, and the times that they did not exceed: closer the further out.
    pub fn curve(&self) -> Vec<(f64, u64)> {
        let points = self.0.iter_quantiles(CURVE_STEPS).filter(|point| point.quantile_iterated_to() < 1.0);
        points.map(|point| (point.quantile_iterated_to(), point.value_iterated_to())).collect()
    }

    /// The usual quantiles.
    pub fn summary(&self) -> Quantiles {
        let [p50, p90, p99, p99_9, max] = [0.5, 0.9, 0.99, 0.999, 1.0].map(|share| self.quantile(share));
        Quantiles { p50, p90, p99, p99_9, max }
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn take_from(&mut self, other: &mut Self) {
        // Both have the same bounds, so that this cannot fail.
        let _ = self.0.add(&other.0);
        other.0.reset();
    }
}

/// Times in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the quantile of its name")]
pub struct Quantiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
}
