//! A run second by second: the load, the server's metrics, and the usage of its process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::{self, Target};
use crate::load::Progress;
use crate::server::Usage;

/// CPU time is in ticks of 10 ms: over a shorter span, one tick more or less would look like a change.
const SHORTEST_CPU_SPAN: Duration = Duration::from_millis(500);

/// Rates over a shorter span, in seconds, are not shown.
const SHORTEST_SPAN: f64 = 0.25;

/// The timeout of a scrape, below the second from one to the next.
const SCRAPE_TIMEOUT: Duration = Duration::from_millis(500);

/// The gauges of millpond that show its load, without their prefix.
const GAUGES: [&str; 8] = [
    "queue_jobs",
    "queue_bytes",
    "busy_workers",
    "upload_limit",
    "segments_waiting",
    "spool_bytes",
    "connections",
    JOBS_WAITING,
];

/// Jobs that are accepted and not stored yet.
const JOBS_WAITING: &str = "jobs_waiting";

/// A span of a run, usually of a second. The spans of a run add up to the whole of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Sample {
    /// From the begin of the load to the end of this span, in seconds.
    pub at: f64,
    /// The length of this span, in seconds.
    pub span: f64,
    pub accepted: u64,
    pub rejected: u64,
    pub unanswered: u64,
    pub connect_errors: u64,
    /// The median latency of accepted requests, in microseconds; 0 if there were none.
    pub p50: u64,
    pub p99: u64,
    /// Of 99% of all requests, how late they were sent, in microseconds.
    pub late_p99: u64,
    /// The server's gauges at the end of this span, if they could be scraped.
    pub gauges: BTreeMap<String, u64>,
    pub cpu_cores: Option<f64>,
    /// The server's resident memory in bytes, if this program started it.
    pub resident: Option<u64>,
}

impl Sample {
    /// The load's part of it.
    pub fn of(progress: &Progress<'_>) -> Self {
        let recent = progress.recent;
        Self {
            at: progress.elapsed.as_secs_f64(),
            span: progress.span.as_secs_f64(),
            accepted: recent.accepted.count(),
            rejected: recent.rejected.count(),
            unanswered: recent.unanswered,
            connect_errors: recent.connect_errors,
            p50: recent.accepted.quantile(0.5),
            p99: recent.accepted.quantile(0.99),
            late_p99: recent.late.quantile(0.99),
            ..Self::default()
        }
    }

    /// Whether the span is too short for a rate, as it may be at the end.
    pub fn is_short(&self) -> bool {
        self.span < SHORTEST_SPAN
    }

    /// A count of this span as a rate.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.span.max(f64::MIN_POSITIVE)
    }
}

/// The admin listener of a server.
#[derive(Debug, Clone, Default)]
pub struct Admin {
    /// Of a server that was not started here.
    pub target: Option<Target>,
    /// Its token, if it has one.
    pub token: Option<String>,
}

impl Admin {
    /// Whether the metrics say that every accepted job is stored. `false` if there are none.
    pub(crate) async fn is_idle(&self) -> bool {
        let Some(target) = &self.target else { return false };
        let gauges = scrape(target, self.token.as_deref()).await.unwrap_or_default();
        gauges.get(JOBS_WAITING) == Some(&0)
    }
}

/// Completes samples with the server's metrics and usage. What is not available is left out: the server may be down.
pub(crate) struct Observer<A> {
    admin: Admin,
    started: A,
    pid: Option<u32>,
    last: Option<(Instant, Usage)>,
    samples: Vec<Sample>,
    no_metrics: Option<String>,
}

impl<A: Fn() -> Option<SocketAddr>> Observer<A> {
    /// Of a server with this admin listener, or of the process `pid`, whose admin listener has the address `started`.
    pub(crate) fn new(admin: Admin, started: A, pid: Option<u32>) -> Self {
        let last = pid.and_then(Usage::of).map(|usage| (Instant::now(), usage));
        Self { admin, started, pid, last, samples: Vec::new(), no_metrics: None }
    }

    /// Completes the sample and keeps it. Takes no longer than a scrape.
    pub(crate) async fn complete(&mut self, mut sample: Sample) -> &Sample {
        if let Some(usage) = self.pid.and_then(Usage::of) {
            let now = Instant::now();
            sample.resident = Some(usage.resident);
            let (then, before) = self.last.get_or_insert((now, usage));
            let span = now.saturating_duration_since(*then);
            if span >= SHORTEST_CPU_SPAN {
                sample.cpu_cores = Some(usage.cpu_since(before) as f64 / 1e6 / span.as_secs_f64());
                self.last = Some((now, usage));
            }
        }
        if let Some(target) = self.admin.target.clone().or_else(|| (self.started)().map(Target::from)) {
            match scrape(&target, self.admin.token.as_deref()).await {
                Ok(gauges) => sample.gauges = gauges,
                Err(why) => self.no_metrics = Some(why),
            }
        }
        let index = self.samples.len();
        self.samples.push(sample);
        &self.samples[index]
    }

    /// The samples in order, and why none of them has metrics, if they should.
    pub(crate) fn finish(self) -> (Vec<Sample>, Option<String>) {
        let has_metrics = self.samples.iter().any(|sample| !sample.gauges.is_empty());
        (self.samples, self.no_metrics.filter(|_| !has_metrics))
    }
}

async fn scrape(admin: &Target, token: Option<&str>) -> Result<BTreeMap<String, u64>, String> {
    let get = tokio::time::timeout(SCRAPE_TIMEOUT, client::get(admin, "/metrics", token)).await;
    match get.map_err(std::io::Error::from).flatten() {
        Ok((200, text)) => Ok(gauges(&text)),
        Ok((401 | 403, _)) => Err("the admin listener rejects the token: give it with --admin-token-file".to_owned()),
        Ok((status, _)) => Err(format!("/metrics responds with {status}")),
        Err(wrong) => Err(wrong.to_string()),
    }
}

/// The gauges in Prometheus's text format:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>, `name value [timestamp]`.
fn gauges(text: &str) -> BTreeMap<String, u64> {
    let gauge = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?.strip_prefix("millpond_").filter(|name| GAUGES.contains(name))?;
        let value: f64 = fields.next()?.parse().ok()?;
        // One below 0 is between two updates.
        value.is_finite().then(|| (name.to_owned(), value.max(0.0) as u64))
    };
    text.lines().filter_map(gauge).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn gauges_are_read_and_other_lines_are_ignored() {
        let text = "# HELP millpond_queue_jobs Jobs waiting to be packed\n\
            # TYPE millpond_queue_jobs gauge\n\
            millpond_queue_jobs 42\n\
            millpond_queue_bytes 1.5e3 1700000000000\n\
            millpond_requests_total{outcome=\"queue full 7\",route=\"payloads\"} 3\n\
            millpond_busy_workers NaN\n\
            millpond_spool_bytes -1\n\
            millpond_connections\n\
            other_queue_jobs 9\n\
            \n\
            nonsense nonsense\n";
        let expected = [("queue_jobs", 42), ("queue_bytes", 1500), ("spool_bytes", 0)];
        assert_eq!(gauges(text), expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    /// What an observer says of an admin listener with this response, and the request that it got.
    async fn observed(response: &str) -> (Sample, Option<String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = Admin { target: listener.local_addr().ok().map(Target::from), token: Some("t".to_owned()) };
        let mut observer = Observer::new(admin, || None, None);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 512];
            let read = stream.read(&mut request).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, response.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        let sample = Sample { at: 1.0, span: 0.5, accepted: 7, ..Sample::default() };
        let (sample, request) = tokio::join!(async { observer.complete(sample).await.clone() }, server);
        let (samples, no_metrics) = observer.finish();
        assert_eq!((samples.len(), sample.cpu_cores, sample.resident), (1, None, None));
        (sample, no_metrics, request)
    }

    #[tokio::test]
    async fn metrics_are_scraped_with_the_token_and_it_is_reported_why_there_are_none() {
        let (sample, no_metrics, request) = observed("HTTP/1.0 200 OK\r\n\r\nmillpond_busy_workers 2\n").await;
        assert_eq!((sample.gauges["busy_workers"], no_metrics), (2, None));
        assert!(request.starts_with("GET /metrics HTTP/1.0\r\n") && request.contains("Authorization: Bearer t\r\n"));
        assert!((sample.per_second(sample.accepted) - 14.0).abs() < 1e-9);
        for (response, why) in [
            ("HTTP/1.0 404 Not Found\r\n\r\nmillpond_busy_workers 2\n", "responds with 404"),
            ("HTTP/1.0 401 Unauthorized\r\n\r\n", "--admin-token-file"),
            ("HTTP/1.0 200 OK\r\n", "not a response"),
        ] {
            let (sample, no_metrics, _) = observed(response).await;
            assert!(sample.gauges.is_empty() && no_metrics.unwrap().contains(why), "{response}");
        }
    }

    #[tokio::test]
    async fn a_short_span_has_memory_and_no_cpu() {
        let mut observer = Observer::new(Admin::default(), || None, Some(std::process::id()));
        observer.last = observer.last.map(|(then, usage)| (then + Duration::from_secs(60), usage));
        let sample = observer.complete(Sample::default()).await;
        assert!(sample.cpu_cores.is_none() && sample.resident.is_some_and(|bytes| bytes > 0));
        observer.last = observer.last.map(|(then, usage)| (then - Duration::from_secs(120), usage));
        let sample = observer.complete(Sample::default()).await;
        assert!(sample.cpu_cores.is_some_and(|cores| (0.0..64.0).contains(&cores)), "{sample:?}");
    }
}
