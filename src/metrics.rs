//! Every metric, declared in one place and registered into a registry that is handed in.

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

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx to a batch.
    Accepted,
    /// 400.
    Invalid,
    /// 413.
    TooLarge,
    /// 408.
    Slow,
    /// 404, 405, 411, 415: the request is not one that the server knows.
    NotUnderstood,
    /// 401: no token.
    NoToken,
    /// 403: a token that nobody has.
    UnknownToken,
    /// 403: the sender is known, or need not be, and may not do this.
    NotAllowed,
    /// 429: a tenant is over one of its limits.
    OverRate,
    /// 503 because the queue is full.
    QueueFull,
    /// 503 because the sender's share of the queue is full.
    ShareFull,
    /// 503 because the sender's share of the spool is full.
    SpoolShareFull,
    /// 503 because `MAX_CONNECTIONS` are open.
    TooManyConnections,
    /// 429 because the address has `MAX_CONNECTIONS_PER_ADDRESS` open.
    TooManyFromAddress,
    /// 503 because the requests in flight hold all the memory that they may hold.
    TooManyRequests,
    /// 429 because the requests of the address hold all the memory that they may hold.
    TooManyRequestsFromAddress,
    /// 403: a request from a web page of another origin.
    CrossOrigin,
    /// 503 because the spool is full or fails.
    NoSpool,
    /// 503 because the server stops.
    Draining,
    /// An answer to anything but a batch: 2xx, or a health check's 503.
    Other,
    /// 500; or 503 because the store cannot be asked about a job.
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

/// Why a segment was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// It reached `OBJECT_MAX_BYTES`.
    Size,
    /// It reached `OBJECT_MAX_AGE`.
    Age,
    /// Somebody waits until it is stored.
    Urgent,
    /// A commit failed, or the spool was full.
    Fault,
    /// The spool is nearly full: storing the segment makes room.
    SpoolFull,
    /// The server stops.
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

/// The server's metrics. Counters that have a label are looked up once, here, and not per request.
pub struct Metrics {
    registry: Registry,
    /// What was accepted and what became of it.
    pub ledger: Arc<Ledger>,
    requests: [[IntCounter; Outcome::ALL.len()]; Route::ALL.len()],
    sealed: [IntCounter; SealReason::ALL.len()],
    retries: [IntCounter; CLASSES.len()],
    request_seconds: [Histogram; Route::ALL.len()],
    /// Requests from their headers until their answer is written.
    pub requests_in_flight: IntGauge,
    /// What those requests are charged for memory.
    pub requests_in_flight_bytes: IntGauge,
    /// Bodies of requests, as they were sent.
    pub bytes_in: IntCounter,
    /// Objects that the store took.
    pub bytes_out: IntCounter,
    /// Objects that the store took.
    pub objects: IntCounter,
    /// Connections open on the public listener.
    pub connections: IntGauge,
    /// Admin requests refused for a wrong token.
    pub admin_token_failures: IntCounter,
    /// Connections that failed at TLS's handshake or the PROXY header.
    pub failed_connections: IntCounter,
    /// Jobs that one frame holds.
    pub frame_jobs: Histogram,
    /// Segments when sealed.
    pub segment_bytes: Histogram,
    /// Segments when sealed.
    pub segment_age_seconds: Histogram,
    /// Workers that have a segment.
    pub busy_workers: IntGauge,
    /// Uploads that may run at once; lower than `MAX_WORKERS` after the store asked for less.
    pub upload_limit: IntGauge,
    /// One attempt of an upload, whatever came of it.
    pub upload_seconds: Histogram,
    /// One commit: pack, append, fdatasync.
    pub commit_seconds: Histogram,
    /// Commits that failed.
    pub commit_failures: IntCounter,
    /// Bytes that objects lost when small frames were packed anew.
    pub repack_saved_bytes: IntCounter,
    /// Bytes after the last good frame, cut from segments of dead processes.
    pub torn_bytes: IntCounter,
    /// Segments that were damaged and are set aside.
    pub segments_damaged: IntCounter,
    /// Segments whose end cannot be read, so that it is not known whether acknowledged jobs were there.
    pub segments_possibly_lost: IntCounter,
    /// Jobs there, where their number is known.
    pub jobs_possibly_lost: IntCounter,
    /// Payloads there, where their number is known.
    pub payloads_possibly_lost: IntCounter,
    /// Segments that dead processes left.
    pub segments_adopted: IntCounter,
    /// Folders of dead processes that wait to be taken over, and those that cannot be.
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
    /// When one of them is in `registry` already.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let r = &registry;
        let ledger = Arc::new(Ledger::default());
        registry.register(Box::new(LedgerCollector::new(Arc::clone(&ledger))?))?;
        Ok(Self {
            ledger,
            requests: route::counters(r, Outcome::ALL.map(|(_, label)| label))?,
            sealed: labelled(r, "segments_sealed_total", "Segments sealed", "reason", SealReason::ALL.map(|(_, l)| l))?,
            retries: labelled(r, "upload_retries_total", "Uploads to retry", "class", CLASSES.map(|(_, l)| l))?,
            request_seconds: route::histograms(r, REQUEST_SECONDS)?,
            requests_in_flight: gauge(r, "requests_in_flight", "Requests whose answer is not written yet")?,
            requests_in_flight_bytes: gauge(
                r,
                "requests_in_flight_bytes",
                "Bytes of memory charged to requests in flight, bodies aside",
            )?,
            bytes_in: counter(r, "received_bytes_total", "Bytes of request bodies, as sent")?,
            bytes_out: counter(r, "stored_bytes_total", "Bytes of objects that the store took")?,
            objects: counter(r, "objects_stored_total", "Objects that the store took")?,
            connections: gauge(r, "connections", "Connections open on the public listener")?,
            admin_token_failures: counter(
                r,
                "admin_token_failures_total",
                "Admin requests refused for a wrong ADMIN_TOKEN",
            )?,
            failed_connections: counter(
                r,
                "connections_failed_total",
                "Connections that failed at TLS's handshake or the PROXY header",
            )?,
            frame_jobs: histogram(r, "frame_jobs", "Jobs in a frame", &exponential_buckets(1.0, 2.0, 12)?)?,
            segment_bytes: histogram(
                r,
                "segment_bytes",
                "Size of segments when sealed",
                &exponential_buckets(1024.0, 2.0, 18)?,
            )?,
            segment_age_seconds: histogram(r, "segment_age_seconds", "Age of segments when sealed", AGE_SECONDS)?,
            busy_workers: gauge(r, "busy_workers", "Workers that have a segment")?,
            upload_limit: gauge(r, "upload_limit", "Uploads that may run at once")?,
            upload_seconds: histogram(r, "upload_seconds", "Duration of upload attempts", UPLOAD_SECONDS)?,
            commit_seconds: histogram(r, "commit_seconds", "Duration of commits", COMMIT_SECONDS)?,
            commit_failures: counter(r, "commit_failures_total", "Commits that failed")?,
            repack_saved_bytes: counter(
                r,
                "repack_saved_bytes_total",
                "Bytes that objects lost when small frames were packed anew",
            )?,
            torn_bytes: counter(
                r,
                "torn_bytes_total",
                "Bytes never acknowledged, cut from segments of dead processes",
            )?,
            segments_damaged: counter(r, "segments_damaged_total", "Segments damaged on disk and set aside")?,
            segments_possibly_lost: counter(
                r,
                "segments_possibly_lost_total",
                "Segments whose end cannot be read: jobs there are lost if any were acknowledged",
            )?,
            jobs_possibly_lost: counter(
                r,
                "jobs_possibly_lost_total",
                "Jobs at an end that cannot be read, where their number is known",
            )?,
            payloads_possibly_lost: counter(
                r,
                "payloads_possibly_lost_total",
                "Payloads at an end that cannot be read, where their number is known",
            )?,
            segments_adopted: counter(r, "segments_adopted_total", "Segments taken over from dead processes")?,
            folders_unadopted: [
                gauge(r, "spool_folders_waiting", "Folders of dead processes that wait until others are taken over")?,
                gauge(r, "spool_folders_not_adopted", "Folders of dead processes that cannot be taken over")?,
            ],
            spool_bytes: gauge(r, "spool_bytes", "Bytes on disk in the spool")?,
            queue_jobs: gauge(r, "queue_jobs", "Jobs waiting to be packed")?,
            queue_bytes: gauge(r, "queue_bytes", "Bytes waiting to be packed or being received")?,
            segments_waiting: gauge(r, "segments_waiting", "Sealed segments that no worker has taken")?,
            registry,
        })
    }

    /// Counts a request.
    pub fn request(&self, route: Route, outcome: Outcome) {
        pick(&Outcome::ALL, route::pick(&self.requests, route), outcome);
    }

    /// Notes how long a request took, from its headers to its answer.
    pub fn observe_request(&self, route: Route, seconds: f64) {
        route::pick(&self.request_seconds, route).observe(seconds);
    }

    /// Counts a sealed segment.
    pub fn sealed(&self, reason: SealReason) {
        pick(&SealReason::ALL, &self.sealed, reason);
    }

    /// Counts an upload that has to be repeated.
    pub fn retry(&self, class: ErrorClass) {
        pick(&CLASSES, &self.retries, class);
    }

    /// Shows how many folders of dead processes wait to be taken over, and how many cannot be.
    pub fn folders_unadopted(&self, waiting: usize, failing: usize) {
        for (gauge, value) in self.folders_unadopted.iter().zip([waiting, failing]) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// All metrics in Prometheus's text format, with what is read only when somebody asks.
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
