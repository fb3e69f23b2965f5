//! Metrics of requests that go to another version.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::REQUEST_SECONDS;
use super::label::{ForwardResult, Label, MirrorResult, StatusClass};
use super::registration::{gauge, histogram, labelled};

/// Metrics of copied and of forwarded requests.
pub struct RelayMetrics {
    /// By result.
    mirror: Vec<IntCounter>,
    /// By class.
    mirror_responses: Vec<IntCounter>,
    mirror_seconds: Histogram,
    /// The memory of copies that wait or are on their way.
    pub mirror_bytes: IntGauge,
    /// By result.
    forward: Vec<IntCounter>,
    /// By class.
    forward_responses: Vec<IntCounter>,
    forward_seconds: Histogram,
    /// 1 if the guard has stopped forwarding.
    pub forward_tripped: IntGauge,
}

impl RelayMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            mirror: labelled::<MirrorResult>(r, "mirror_total", "Copies of accepted batches, by result", "result")?,
            mirror_responses: labelled::<StatusClass>(
                r,
                "mirror_responses_total",
                "Responses to copies, by class of status",
                "code",
            )?,
            mirror_seconds: histogram(r, "mirror_seconds", "Time from a copy to its response", REQUEST_SECONDS)?,
            mirror_bytes: gauge(r, "mirror_bytes", "Memory of copies that wait or are on their way")?,
            forward: labelled::<ForwardResult>(
                r,
                "forward_total",
                "Requests selected for the other version, by result",
                "result",
            )?,
            forward_responses: labelled::<StatusClass>(
                r,
                "forward_responses_total",
                "Responses to forwarded requests, by class of status",
                "code",
            )?,
            forward_seconds: histogram(
                r,
                "forward_seconds",
                "Time from a forwarded request to its response",
                REQUEST_SECONDS,
            )?,
            forward_tripped: gauge(
                r,
                "forward_tripped",
                "1 if nothing is forwarded because the other version was worse, until `forward` in ROLLOUT_FILE changes",
            )?,
        })
    }

    /// Counts a copy.
    pub fn mirrored(&self, result: MirrorResult) {
        self.mirror.get(result.index()).inspect(|counter| counter.inc());
    }

    /// Counts the response to a copy.
    pub fn mirror_response(&self, class: StatusClass, after: Duration) {
        self.mirror_responses.get(class.index()).inspect(|counter| counter.inc());
        self.mirror_seconds.observe(after.as_secs_f64());
    }

    /// Counts a request that was selected for the other version.
    pub fn forwarded(&self, result: ForwardResult) {
        self.forward.get(result.index()).inspect(|counter| counter.inc());
    }

    /// Counts the response to a forwarded request.
    pub fn forward_response(&self, class: StatusClass, after: Duration) {
        self.forward_responses.get(class.index()).inspect(|counter| counter.inc());
        self.forward_seconds.observe(after.as_secs_f64());
    }

    /// The number of copies with this result.
    pub fn mirrors(&self, result: MirrorResult) -> u64 {
        self.mirror.get(result.index()).map(IntCounter::get).unwrap_or_default()
    }

    /// The number of requests with this result that were selected for the other version.
    pub fn forwards(&self, result: ForwardResult) -> u64 {
        self.forward.get(result.index()).map(IntCounter::get).unwrap_or_default()
    }
}
