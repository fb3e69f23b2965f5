//! All metrics. They are registered into a registry that is a parameter.

mod label;
mod ledger;
mod registration;
mod relay;
mod sampled;
mod tenants;
mod variants;

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use label::Label;
pub use label::{
    ForwardResult, HandoverResult, Limit, MirrorResult, Outcome, RequestResult, Route, SealReason, StatusClass,
    WatchedFile,
};
use ledger::LedgerCollector;
pub use ledger::{Balance, Count, Ledger};
use registration::{by_label, counter, gauge, histogram, labelled, name};
pub use relay::RelayMetrics;
pub use sampled::SampledGauges;
use sampled::set;
use tenants::TenantsCollector;
pub use tenants::{LABELLED_TENANTS_MAX, TenantActivities, TenantActivity, TenantTotals};
pub use variants::VariantMetrics;

use crate::reload::ReloadMetrics;
use crate::store::ErrorClass;

/// 100 us to 10 s.
const REQUEST_SECONDS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 5 ms to 60 s.
const UPLOAD_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 100 us to 1 s.
const COMMIT_SECONDS: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// 50 ms to 1 h.
const STORED_SECONDS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0];
/// 100 ms to 5 min.
const AGE_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The metrics of the server. The children of labelled metrics are looked up once, in [`Metrics::new`].
pub struct Metrics {
    registry: Registry,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// By route, then by outcome.
    requests: Vec<Vec<IntCounter>>,
    /// By reason.
    sealed: Vec<IntCounter>,
    /// By class.
    retries: Vec<IntCounter>,
    /// By route, then by result.
    request_seconds: Vec<Vec<Histogram>>,
    reload_failures: IntCounterVec,
    reload_failing: IntGaugeVec,
    /// By result.
    handovers: Vec<IntCounter>,
    /// What the sampler sets.
    pub sampled: SampledGauges,
    /// What each variant sends.
    pub variants: VariantMetrics,
    /// What each tenant sends.
    pub tenants: Arc<TenantActivities>,
    /// What goes to another version.
    pub relay: RelayMetrics,
    /// Requests between their headers and the end of their response.
    pub requests_in_flight: IntGauge,
    /// The memory that is charged to these requests.
    pub requests_in_flight_bytes: IntGauge,
    /// Requests of the worker tier's daemon that wait until they can be accepted or until they are rejected.
    pub requests_held: IntGauge,
    /// Bytes of bodies as sent.
    pub bytes_in: IntCounter,
    /// Bytes of stored objects.
    pub bytes_out: IntCounter,
    /// Stored objects.
    pub objects: IntCounter,
    /// Open connections of the public listener.
    pub connections: IntGauge,
    /// Admin requests with a wrong token.
    pub admin_token_failures: IntCounter,
    /// Connections that failed in the TLS handshake or the PROXY header.
    pub failed_connections: IntCounter,
    /// Jobs per frame.
    pub frame_jobs: Histogram,
    /// The size of segments when they are sealed.
    pub segment_bytes: Histogram,
    /// The age of segments when they are sealed.
    pub segment_age_seconds: Histogram,
    /// Workers with a segment.
    pub busy_workers: IntGauge,
    /// The limit on concurrent uploads. Throttling lowers it below `MAX_WORKERS`.
    pub upload_limit: IntGauge,
    /// The duration of upload attempts, successful or not.
    pub upload_seconds: Histogram,
    /// The time in the queue of the job of each frame that waited longest.
    pub queue_wait_seconds: Histogram,
    /// The time from the opening of a segment to its object in the store.
    pub stored_seconds: Histogram,
    /// The duration of commits: compress, append, fdatasync.
    pub commit_seconds: Histogram,
    /// What could not be sent to `STATSD_ADDR`.
    pub statsd_failures: IntCounter,
    /// Failed commits.
    pub commit_failures: IntCounter,
    /// Bytes saved by repacking small frames.
    pub repack_saved_bytes: IntCounter,
    /// Incomplete frames at the end of segments of exited processes, in bytes. They were never acknowledged.
    pub torn_bytes: IntCounter,
    /// Damaged segments, which are kept under `dead/`.
    pub segments_damaged: IntCounter,
    /// Segments whose end is unreadable, so that acknowledged jobs may be lost.
    pub segments_possibly_lost: IntCounter,
    /// Jobs in such an end, if their number is known.
    pub jobs_possibly_lost: IntCounter,
    /// Payloads in such an end, if their number is known.
    pub payloads_possibly_lost: IntCounter,
    /// Segments of exited processes that were adopted.
    pub segments_adopted: IntCounter,
    /// Folders of exited processes that wait to be adopted, and those that cannot be adopted.
    folders_unadopted: [IntGauge; 2],
    /// Spans that a collector has accepted.
    pub spans_exported: IntCounter,
    /// Spans that were not exported.
    pub spans_dropped: IntCounter,
    spool_bytes: IntGauge,
    queue_jobs: IntGauge,
    queue_bytes: IntGauge,
    segments_waiting: IntGauge,
}

impl Metrics {
    /// Registers the metrics in `registry`.
    ///
    /// # Errors
    /// If `registry` already has one of them.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let r = &registry;
        let ledger = Arc::new(Ledger::default());
        registry.register(Box::new(LedgerCollector::new(Arc::clone(&ledger))?))?;
        let requests = IntCounterVec::new(
            Opts::new(name("requests_total"), "Requests, by route and outcome"),
            &["route", "outcome"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(name("request_seconds"), "Time from the headers of a request to its response")
                .buckets(REQUEST_SECONDS.to_vec()),
            &["route", "result"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        let reload_failures = IntCounterVec::new(
            Opts::new(
                name("reload_failures_total"),
                "Failed reloads, after which the previous version stays in use, by the setting that names the file",
            ),
            &["file"],
        )?;
        registry.register(Box::new(reload_failures.clone()))?;
        let reload_failing = IntGaugeVec::new(
            Opts::new(
                name("reload_failing"),
                "1 if the last reload failed, so that an earlier version is in use, by the setting that names the file",
            ),
            &["file"],
        )?;
        registry.register(Box::new(reload_failing.clone()))?;
        for file in WatchedFile::VALUES {
            reload_failures.with_label_values(&[file]);
            reload_failing.with_label_values(&[file]);
        }
        let tenants = Arc::new(TenantActivities::default());
        registry.register(Box::new(TenantsCollector::new(Arc::clone(&tenants))?))?;
        Ok(Self {
            ledger,
            requests: by_label::<Route, _>(|route| {
                by_label::<Outcome, _>(|outcome| requests.with_label_values(&[route, outcome]))
            }),
            sealed: labelled::<SealReason>(r, "segments_sealed_total", "Sealed segments, by reason", "reason")?,
            retries: labelled::<ErrorClass>(
                r,
                "upload_retries_total",
                "Upload attempts that failed and are retried, by class of error",
                "class",
            )?,
            request_seconds: by_label::<Route, _>(|route| {
                by_label::<RequestResult, _>(|result| request_seconds.with_label_values(&[route, result]))
            }),
            reload_failures,
            reload_failing,
            handovers: labelled::<HandoverResult>(
                r,
                "handovers_total",
                "Takeovers that this process has completed as the new one, and handovers that failed while it was the old one",
                "result",
            )?,
            sampled: SampledGauges::new(r)?,
            tenants,
            relay: RelayMetrics::new(r)?,
            variants: VariantMetrics::new(r)?,
            requests_in_flight: gauge(r, "requests_in_flight", "Requests whose response is not yet written")?,
            requests_in_flight_bytes: gauge(
                r,
                "requests_in_flight_bytes",
                "Memory charged to requests in flight, without their bodies",
            )?,
            requests_held: gauge(
                r,
                "requests_held",
                "Requests of the daemon of a worker environment of Elastic Beanstalk that wait for capacity, or for their rejection",
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
            failed_connections: counter(
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
            queue_wait_seconds: histogram(
                r,
                "queue_wait_seconds",
                "Time in the queue of the job of each frame that waited longest",
                REQUEST_SECONDS,
            )?,
            stored_seconds: histogram(
                r,
                "stored_seconds",
                "Time from the opening of a segment to its object in the store",
                STORED_SECONDS,
            )?,
            commit_seconds: histogram(
                r,
                "commit_seconds",
                "Duration of commits: compress, append, fdatasync",
                COMMIT_SECONDS,
            )?,
            commit_failures: counter(r, "commit_failures_total", "Failed commits")?,
            statsd_failures: counter(
                r,
                "statsd_failures_total",
                "Datagrams that could not be sent to STATSD_ADDR, lines too long for one, and failed lookups of its name",
            )?,
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
            spans_exported: counter(r, "spans_exported_total", "Spans accepted by the collector")?,
            spans_dropped: counter(
                r,
                "spans_dropped_total",
                "Spans lost because the queue to the collector was full or the export failed",
            )?,
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
        let counters = self.requests.get(route.index());
        counters.and_then(|counters| counters.get(outcome.index())).inspect(|counter| counter.inc());
    }

    /// Observes the time between the headers of a request and its response.
    pub fn observe_request(&self, route: Route, result: RequestResult, seconds: f64) {
        self.request_histogram(route, result).inspect(|histogram| histogram.observe(seconds));
    }

    /// The durations of requests.
    pub fn request_histogram(&self, route: Route, result: RequestResult) -> Option<&Histogram> {
        self.request_seconds.get(route.index()).and_then(|histograms| histograms.get(result.index()))
    }

    /// The number of requests for each outcome, by its text and its result, without health checks and lookups of jobs.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, RequestResult, u64)> {
        let counted = |outcome: &Outcome| {
            let of = |route: Route| self.requests.get(route.index())?.get(outcome.index());
            [Route::Payloads, Route::Other].into_iter().filter_map(of).map(IntCounter::get).sum()
        };
        Outcome::ALL.iter().map(move |outcome| (outcome.text(), outcome.result(), counted(outcome)))
    }

    /// The number of sealed segments for each reason.
    pub fn seals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SealReason::VALUES.iter().copied().zip(self.sealed.iter().map(IntCounter::get))
    }

    /// What is counted of the reloads of a file.
    pub fn reloads(&self, file: WatchedFile) -> ReloadMetrics {
        let label = &[file.text()];
        ReloadMetrics {
            failures: self.reload_failures.with_label_values(label),
            failing: self.reload_failing.with_label_values(label),
        }
    }

    /// Counts a handover.
    pub fn handover(&self, result: HandoverResult) {
        self.handovers.get(result.index()).inspect(|counter| counter.inc());
    }

    /// Counts a sealed segment.
    pub fn sealed(&self, reason: SealReason) {
        self.sealed.get(reason.index()).inspect(|counter| counter.inc());
    }

    /// Upload attempts that failed.
    pub fn retries(&self) -> u64 {
        self.retries.iter().map(IntCounter::get).sum()
    }

    /// Counts an upload that will be retried.
    pub fn retry(&self, class: ErrorClass) {
        self.retries.get(class.index()).inspect(|counter| counter.inc());
    }

    /// Sets the numbers of folders of exited processes that wait to be adopted and that cannot be adopted.
    pub fn folders_unadopted(&self, waiting: usize, failing: usize) {
        self.folders_unadopted.iter().zip([waiting, failing]).for_each(|(gauge, value)| set(gauge, value));
    }

    /// Reads all metrics. The parameters are gauges that are only read for this.
    pub fn gather(&self, queue: (usize, usize), segments_waiting: usize, spool_bytes: usize) -> Vec<MetricFamily> {
        set(&self.queue_jobs, queue.0);
        set(&self.queue_bytes, queue.1);
        set(&self.segments_waiting, segments_waiting);
        set(&self.spool_bytes, spool_bytes);
        self.registry.gather()
    }
}
