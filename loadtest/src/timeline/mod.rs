//! A run second by second: what the load saw, what the server's metrics said, and what its process used.

mod scrape;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::scrape::Gauges;

use crate::load::Progress;
use crate::server::Usage;

/// CPU time comes in ticks of 10 ms: over a shorter span, one tick more or less would be read as a change.
const SHORTEST_CPU_SPAN: Duration = Duration::from_millis(500);

/// A rate over a shorter span than this, in seconds, says more of the span than of the rate.
const SHORTEST_SPAN: f64 = 0.25;

/// One look at a run, usually of a second. The looks of a run add up to the whole of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From the begin of the load to the end of this span, in seconds.
    pub at: f64,
    /// The length of this span, in seconds.
    pub span: f64,
    /// Requests accepted in this span.
    pub accepted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Connections that could not be made.
    pub connect_errors: u64,
    /// The median latency of accepted requests, in microseconds; 0 if there were none.
    pub p50: u64,
    /// Of 99% of them.
    pub p99: u64,
    /// What 99% of all requests were sent late by at most, in microseconds.
    pub late_p99: u64,
    /// What the server's metrics said at the end of this span, if they could be had.
    pub gauges: Option<Gauges>,
    /// Cores that the server was busy with, if this program started it.
    pub cpu_cores: Option<f64>,
    /// The server's resident memory in bytes, if this program started it.
    pub resident: Option<u64>,
}

impl Sample {
    /// What the load itself knows of the span.
    pub fn of(progress: &Progress<'_>) -> Self {
        let recent = progress.recent;
        Self {
            at: progress.elapsed.as_secs_f64(),
            span: progress.span.as_secs_f64(),
            accepted: recent.accepted.count(),
            refused: recent.refused.count(),
            unanswered: recent.unanswered,
            connect_errors: recent.connect_errors,
            p50: recent.accepted.quantile(0.5),
            p99: recent.accepted.quantile(0.99),
            late_p99: recent.late.quantile(0.99),
            ..Self::default()
        }
    }

    /// Requests that went out in this span and came to an end, with an answer or without.
    pub fn sent(&self) -> u64 {
        self.accepted + self.refused + self.unanswered
    }

    /// Whether the span is too short to tell a rate from, as it may be at the end.
    pub fn is_short(&self) -> bool {
        self.span < SHORTEST_SPAN
    }

    /// A count of this span as a count a second.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.span.max(f64::MIN_POSITIVE)
    }
}

/// Completes samples with what the server shows of itself. What cannot be had is left out: a server that is away is
/// what many a run is about.
pub(crate) struct Observer<A> {
    admin: A,
    pid: Option<u32>,
    last: Option<(Instant, Usage)>,
    samples: Vec<Sample>,
}

impl<A: Fn() -> Option<SocketAddr>> Observer<A> {
    /// Of the process `pid`, whose metrics are where `admin` says.
    pub(crate) fn new(admin: A, pid: Option<u32>) -> Self {
        let last = pid.and_then(Usage::of).map(|usage| (Instant::now(), usage));
        Self { admin, pid, last, samples: Vec::new() }
    }

    /// Completes the sample and keeps it. Takes no longer than a scrape may.
    pub(crate) async fn look(&mut self, mut sample: Sample) -> &Sample {
        if let Some(usage) = self.pid.and_then(Usage::of) {
            let now = Instant::now();
            sample.resident = Some(usage.resident);
            match self.last {
                Some((then, before)) => {
                    let span = now.saturating_duration_since(then);
                    if span >= SHORTEST_CPU_SPAN {
                        let cpu = Duration::from_micros(usage.cpu_micros.saturating_sub(before.cpu_micros));
                        sample.cpu_cores = Some(cpu.as_secs_f64() / span.as_secs_f64());
                        self.last = Some((now, usage));
                    }
                }
                None => self.last = Some((now, usage)),
            }
        }
        if let Some(admin) = (self.admin)() {
            sample.gauges = scrape::scrape(admin).await;
        }
        let at = self.samples.len();
        self.samples.push(sample);
        &self.samples[at]
    }

    /// The samples in order.
    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_shows_nothing_leaves_gaps() {
        // Nobody listens on port 1.
        let mut observer = Observer::new(|| Some(SocketAddr::from(([127, 0, 0, 1], 1))), None);
        let sample = observer.look(Sample { at: 1.0, span: 1.0, accepted: 7, ..Sample::default() }).await;
        assert_eq!((sample.accepted, sample.gauges, sample.cpu_cores, sample.resident), (7, None, None, None));
        assert_eq!(observer.into_samples().len(), 1);
    }

    #[tokio::test]
    async fn too_short_a_span_has_memory_and_no_cpu() {
        let mut observer = Observer::new(|| None, Some(std::process::id()));
        let now = Instant::now();
        observer.last = observer.last.map(|(_, usage)| (now + Duration::from_secs(60), usage));
        let sample = observer.look(Sample::default()).await;
        assert!(sample.cpu_cores.is_none() && sample.resident.is_some_and(|bytes| bytes > 0));
        observer.last = observer.last.map(|(then, usage)| (then - Duration::from_secs(120), usage));
        let sample = observer.look(Sample::default()).await;
        assert!(sample.cpu_cores.is_some_and(|cores| (0.0..64.0).contains(&cores)), "{sample:?}");
    }

    #[test]
    fn counts_are_told_a_second() {
        let sample = Sample { span: 0.5, accepted: 10, refused: 4, unanswered: 1, ..Sample::default() };
        assert_eq!(sample.sent(), 15);
        assert!((sample.per_second(sample.sent()) - 30.0).abs() < 1e-9);
    }
}
