//! Every metric, declared in one place and registered into the registry that the caller passes.
//! docs/metrics.md is generated from that registry.

mod ledger;
mod route;

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

use ledger::LedgerCollector;
pub use ledger::{Balance, Count, Ledger};
pub use route::Route;

use crate::store::ErrorClass;

/// 100 us to 10 s.
const REQUEST_SECONDS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 5 ms to 60 s.
const UPLOAD_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 100 us to 1 s.
const COMMIT_SECONDS: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// 100 ms to 5 min.
const AGE_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The result of a request: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx to a batch.
    Accepted,
    /// 400, 431.
    Invalid,
    /// 413.
    TooLarge,
    /// 408.
    Slow,
    /// 404, 405, 411, 415, 501: no route, or an unsupported method, type or encoding.
    NotUnderstood,
    /// 401: no token.
    NoToken,
    /// 403: no tenant has this token.
    UnknownToken,
    /// 403: more asked for than `ACK_MAX` or the tenant's `ack_max` allows.
    NotAllowed,
    /// 429: the tenant exceeds one of its rate limits.
    OverRate,
    /// 503 because the queue is full.
    QueueFull,
    /// 503 because the tenant's share of the queue is full.
    ShareFull,
    /// 503 because the tenant's share of the spool is full.
    SpoolShareFull,
    /// 503 because `MAX_CONNECTIONS` are open.
    TooManyConnections,
    /// 429 because the address has `MAX_CONNECTIONS_PER_ADDRESS` open.
    TooManyFromAddress,
    /// 503 because the requests in flight use all the memory allowed for them.
    TooManyRequests,
    /// 429 because the requests in flight of the address use all the memory allowed for them.
    TooManyRequestsFromAddress,
    /// 403: a browser request of another origin.
    CrossOrigin,
    /// 503 because the spool is full, failed a commit, or did not confirm one in time.
    NoSpool,
    /// 503 because the server is draining.
    Draining,
    /// A response to anything but a batch: 2xx, or the 503 of a health check.
    Other,
    /// 500; or 503 because the store cannot be asked for a job.
    Failed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 21] = [
        (Self::Accepted, "accepted"),
        (Self::Invalid, "invalid"),
        (Self::TooLarge, "too_large"),
        (Self::Slow, "slow"),
        (Self::NotUnderstood, "not_understood"),
        (Self::NoToken, "no_token"),
        (Self::UnknownToken, "unknown_token"),
        (Self::NotAllowed, "not_allowed"),
        (Self::OverRate, "over_rate"),
        (Self::QueueFull, "queue_full"),
        (Self::ShareFull, "share_full"),
        (Self::SpoolShareFull, "spool_share_full"),
        (Self::TooManyConnections, "too_many_connections"),
        (Self::TooManyFromAddress, "too_many_from_address"),
        (Self::TooManyRequests, "too_many_requests"),
        (Self::TooManyRequestsFromAddress, "too_many_requests_from_address"),
        (Self::CrossOrigin, "cross_origin"),
        (Self::NoSpool, "no_spool"),
        (Self::Draining, "draining"),
        (Self::Other, "other"),
        (Self::Failed, "failed"),
    ];
}

/// Why a segment was sealed: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// It reached `OBJECT_MAX_BYTES`.
    Size,
    /// It reached `OBJECT_MAX_AGE`.
    Age,
    /// A request waits until it is stored.
    Urgent,
    /// A commit failed, or the spool was full.
    Fault,
    /// The spool is nearly full: storing the segment frees space.
    SpoolFull,
    /// The server is draining.
    Shutdown,
}

impl SealReason {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Size, "size"),
        (Self::Age, "age"),
        (Self::Urgent, "urgent"),
        (Self::Fault, "fault"),
        (Self::SpoolFull, "spool_full"),
        (Self::Shutdown, "shutdown"),
    ];
}

const CLASSES: [(ErrorClass, &str); 4] = [
    (ErrorClass::Transient, "transient"),
    (ErrorClass::Throttled, "throttled"),
    (ErrorClass::TimedOut, "timed_out"),
    (ErrorClass::Permanent, "permanent"),
];

/// The server's metrics. Labelled counters are looked up once, at startup, and not per request.
pub struct Metrics {
    registry: Registry,
    /// Accepted, stored, waiting and dead jobs and payloads.
    pub ledger: Arc<Ledger>,
    requests: [[IntCounter; Outcome::ALL.len()]; Route::ALL.len()],
    sealed: [IntCounter; SealReason::ALL.len()],
    retries: [IntCounter; CLASSES.len()],
    request_seconds: [Histogram; Route::ALL.len()],
    /// Requests from their headers until their response is written.
    pub requests_in_flight: IntGauge,
    /// Memory charged to those requests.
    pub requests_in_flight_bytes: IntGauge,
    /// Request bodies, as sent.
    pub bytes_in: IntCounter,
    /// Stored objects.
    pub bytes_out: IntCounter,
    /// Stored objects.
    pub objects: IntCounter,
    /// Open connections on the public listener.
    pub connections: IntGauge,
    /// Admin requests rejected for a wrong token.
    pub admin_token_failures: IntCounter,
    /// Connections that failed in the TLS handshake or the PROXY header.
    pub failed_arrivals: IntCounter,
    /// Jobs per frame.
    pub frame_jobs: Histogram,
    /// Compressed size of segments when sealed.
    pub segment_bytes: Histogram,
    /// Age of segments when sealed.
    pub segment_age_seconds: Histogram,
    /// Workers that process a segment.
    pub busy_workers: IntGauge,
    /// Uploads that may run concurrently; below `MAX_WORKERS` after throttling or timeouts.
    pub upload_limit: IntGauge,
    /// One upload attempt, successful or not.
    pub upload_seconds: Histogram,
    /// One commit: compress, append, fdatasync.
    pub commit_seconds: Histogram,
    /// Commits that failed.
    pub commit_failures: IntCounter,
    /// Bytes saved by repacking small frames.
    pub repack_saved_bytes: IntCounter,
    /// Unacknowledged bytes cut from segments of exited processes.
    pub torn_bytes: IntCounter,
    /// Segments damaged on disk and moved to `dead/`.
    pub segments_damaged: IntCounter,
    /// Segments with an unreadable end that may have held acknowledged jobs.
    pub segments_possibly_lost: IntCounter,
    /// Jobs in those ends, where their number is known.
    pub jobs_possibly_lost: IntCounter,
    /// Payloads in those ends, where their number is known.
    pub payloads_possibly_lost: IntCounter,
    /// Segments adopted from exited processes.
    pub segments_adopted: IntCounter,
    /// Folders of exited processes that wait for adoption, and those that cannot be adopted.
    folders_unadopted: [IntGauge; 2],
    spool_bytes: IntGauge,
    queue_jobs: IntGauge,
    queue_bytes: IntGauge,
    segments_waiting: IntGauge,
}

impl Metrics {
    /// Declares the metrics in `registry`.
    ///
    /// # Errors
    /// When `registry` already has one of them.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let r = &registry;
        let ledger = Arc::new(Ledger::default());
        registry.register(Box::new(LedgerCollector::new(Arc::clone(&ledger))?))?;
        Ok(Self {
            ledger,
            requests: route::counters(r, Outcome::ALL.map(|(_, label)| label))?,
            sealed: labelled(
                r,
                "segments_sealed_total",
                "Sealed segments, by reason",
                "reason",
                SealReason::ALL.map(|(_, l)| l),
            )?,
            retries: labelled(
                r,
                "upload_retries_total",
                "Upload attempts that failed and are retried, by class of error",
                "class",
                CLASSES.map(|(_, l)| l),
            )?,
            request_seconds: route::histograms(r, REQUEST_SECONDS)?,
            requests_in_flight: gauge(r, "requests_in_flight", "Requests whose response is not yet written")?,
            requests_in_flight_bytes: gauge(
                r,
                "requests_in_flight_bytes",
                "Memory charged to requests in flight, without their bodies",
            )?,
            bytes_in: counter(r, "received_bytes_total", "Bytes of request bodies, as sent")?,
            bytes_out: counter(r, "stored_bytes_total", "Bytes of stored objects")?,
            objects: counter(r, "objects_stored_total", "Objects stored")?,
            connections: gauge(r, "connections", "Open connections on the public listener")?,
            admin_token_failures: counter(
                r,
                "admin_token_failures_total",
                "Admin requests rejected for a wrong ADMIN_TOKEN",
            )?,
            failed_arrivals: counter(
                r,
                "connections_failed_total",
                "Connections that failed in the TLS handshake or the PROXY header",
            )?,
            frame_jobs: histogram(r, "frame_jobs", "Jobs per frame", &exponential_buckets(1.0, 2.0, 12)?)?,
            segment_bytes: histogram(
                r,
                "segment_bytes",
                "Compressed size of segments when sealed",
                &exponential_buckets(1024.0, 2.0, 18)?,
            )?,
            segment_age_seconds: histogram(r, "segment_age_seconds", "Age of segments when sealed", AGE_SECONDS)?,
            busy_workers: gauge(r, "busy_workers", "Workers that process a segment")?,
            upload_limit: gauge(r, "upload_limit", "Uploads that may run concurrently")?,
            upload_seconds: histogram(r, "upload_seconds", "Duration of upload attempts", UPLOAD_SECONDS)?,
            commit_seconds: histogram(
                r,
                "commit_seconds",
                "Duration of commits: compress, append, fdatasync",
                COMMIT_SECONDS,
            )?,
            commit_failures: counter(r, "commit_failures_total", "Failed commits")?,
            repack_saved_bytes: counter(r, "repack_saved_bytes_total", "Bytes saved by repacking small frames")?,
            torn_bytes: counter(r, "torn_bytes_total", "Unacknowledged bytes cut from segments of exited processes")?,
            segments_damaged: counter(r, "segments_damaged_total", "Segments damaged on disk and moved to dead/")?,
            segments_possibly_lost: counter(
                r,
                "segments_possibly_lost_total",
                "Segments with an unreadable end that may have held acknowledged jobs",
            )?,
            jobs_possibly_lost: counter(
                r,
                "jobs_possibly_lost_total",
                "Jobs in unreadable ends of segments, where their number is known",
            )?,
            payloads_possibly_lost: counter(
                r,
                "payloads_possibly_lost_total",
                "Payloads in unreadable ends of segments, where their number is known",
            )?,
            segments_adopted: counter(r, "segments_adopted_total", "Segments adopted from exited processes")?,
            folders_unadopted: [
                gauge(r, "spool_folders_waiting", "Folders of exited processes that wait for adoption")?,
                gauge(r, "spool_folders_not_adopted", "Folders of exited processes that cannot be adopted")?,
            ],
            spool_bytes: gauge(r, "spool_bytes", "Bytes used in the spool")?,
            queue_jobs: gauge(r, "queue_jobs", "Jobs in the queue")?,
            queue_bytes: gauge(
                r,
                "queue_bytes",
                "Bytes reserved in the queue, for jobs and for bodies being received",
            )?,
            segments_waiting: gauge(r, "segments_waiting", "Sealed segments that wait for a worker")?,
            registry,
        })
    }

    /// Counts a request.
    pub fn request(&self, route: Route, outcome: Outcome) {
        pick(&Outcome::ALL, route::pick(&self.requests, route), outcome);
    }

    /// Records the duration of a request, from its headers to its response.
    pub fn request_took(&self, route: Route, seconds: f64) {
        route::pick(&self.request_seconds, route).observe(seconds);
    }

    /// Counts a sealed segment.
    pub fn sealed(&self, reason: SealReason) {
        pick(&SealReason::ALL, &self.sealed, reason);
    }

    /// Counts a failed upload attempt that is retried.
    pub fn retry(&self, class: ErrorClass) {
        pick(&CLASSES, &self.retries, class);
    }

    /// Sets how many folders of exited processes wait for adoption, and how many cannot be adopted.
    pub fn folders_unadopted(&self, waiting: usize, failing: usize) {
        for (gauge, value) in self.folders_unadopted.iter().zip([waiting, failing]) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// All metrics in Prometheus's text format, with gauges that are set when they are read.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(
        &self,
        queue: (usize, usize),
        segments_waiting: usize,
        spool_bytes: usize,
    ) -> prometheus::Result<String> {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.queue_jobs, queue.0);
        set(&self.queue_bytes, queue.1);
        set(&self.segments_waiting, segments_waiting);
        set(&self.spool_bytes, spool_bytes);
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn pick<T: PartialEq + Copy, const N: usize>(keys: &[(T, &str); N], counters: &[IntCounter; N], key: T) {
    if let Some((_, counter)) = keys.iter().zip(counters).find(|((k, _), _)| *k == key) {
        counter.inc();
    }
}

fn name(short: &str) -> String {
    format!("millpond_{short}")
}

fn counter(registry: &Registry, short: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name(short), help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, short: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name(short), help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn histogram(registry: &Registry, short: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

/// A counter for every value of its one label.
fn labelled<const N: usize>(
    registry: &Registry,
    short: &str,
    help: &str,
    label: &str,
    values: [&str; N],
) -> prometheus::Result<[IntCounter; N]> {
    let counters = IntCounterVec::new(Opts::new(name(short), help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(values.map(|value| counters.with_label_values(&[value])))
}
