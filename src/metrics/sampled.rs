//! Gauges of what has no event to count: the sampler sets them once a second.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::{AtomicF64, GenericCounter};
use prometheus::{Counter, Gauge, IntGauge, Opts, Registry};

use super::label::{Label, Limit};
use super::registration::{gauge, labelled_gauges, name, number};

/// The gauges that the sampler sets.
#[derive(Debug)]
pub struct SampledGauges {
    /// Held while the gauges are set: a counter is read and then raised.
    pub updating: Mutex<()>,
    limits: Vec<IntGauge>,
    /// Whether the store takes objects.
    pub store_up: IntGauge,
    /// Whether the spool takes commits.
    pub spool_up: IntGauge,
    /// Sealed segments in the broker that are not stored.
    pub broker_waiting: IntGauge,
    /// Whether batches are rejected because the process drains.
    pub draining: IntGauge,
    /// The age of the oldest segment that is not stored; 0 without one.
    pub oldest_unstored: Gauge,
    /// The free bytes of the file system of the spool.
    pub disk_free: IntGauge,
    /// The size of the file system of the spool.
    pub disk_total: IntGauge,
    /// The time until the spool is full at its present growth; infinite if it does not grow.
    pub spool_full_in: Gauge,
    /// Files under `dead/`.
    pub dead_files: IntGauge,
    /// Bytes of these files.
    pub dead_bytes: IntGauge,
    /// When the certificate of the public listener expires, in seconds since 1970.
    pub certificate_expires: Gauge,
    runtime_busy: Counter,
    cpu: Counter,
    /// Resident memory.
    pub memory: IntGauge,
    /// Open file descriptors.
    pub open_files: IntGauge,
    /// The limit on open file descriptors.
    pub max_files: IntGauge,
    /// When the process started, in seconds since 1970.
    pub started: Gauge,
}

impl SampledGauges {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let build = Opts::new(name("build_info"), "Always 1; the label has the version");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1);
        r.register(Box::new(build))?;
        let gauges = Self {
            updating: Mutex::default(),
            limits: labelled_gauges::<Limit>(
                r,
                "limit",
                "The limits in force, in the unit of what they limit",
                "limit",
            )?,
            store_up: gauge(r, "store_up", "1 if the store takes objects, 0 during an outage")?,
            spool_up: gauge(r, "spool_up", "1 if the spool takes commits, 0 during an outage")?,
            broker_waiting: gauge(
                r,
                "broker_waiting_segments",
                "Sealed segments of the fleet in the broker that are not stored; 0 without one",
            )?,
            draining: gauge(r, "draining", "1 while the server drains or shuts down")?,
            oldest_unstored: number(
                r,
                &name("oldest_unstored_seconds"),
                "Age of the oldest segment with jobs that is not stored; 0 without one",
            )?,
            disk_free: gauge(r, "disk_free_bytes", "Free bytes of the file system of SPOOL_DIR")?,
            disk_total: gauge(r, "disk_total_bytes", "Size of the file system of SPOOL_DIR")?,
            spool_full_in: number(
                r,
                &name("spool_full_in_seconds"),
                "Time until the spool is full at its growth of the last minute; +Inf if it does not grow",
            )?,
            dead_files: gauge(r, "dead_files", "Damaged files under dead/ in SPOOL_DIR")?,
            dead_bytes: gauge(r, "dead_bytes", "Bytes of the damaged files under dead/ in SPOOL_DIR")?,
            certificate_expires: number(
                r,
                &name("certificate_expires_timestamp_seconds"),
                "When TLS_CERT expires, in seconds since 1970; 0 without TLS_CERT",
            )?,
            runtime_busy: seconds(
                r,
                &name("runtime_busy_seconds_total"),
                "Time in which the threads of the handlers' runtime were busy, all threads together",
            )?,
            cpu: seconds(r, "process_cpu_seconds_total", "CPU time of the process, user and system")?,
            memory: conventional(r, "process_resident_memory_bytes", "Resident memory of the process")?,
            open_files: conventional(r, "process_open_fds", "Open file descriptors")?,
            max_files: conventional(r, "process_max_fds", "Limit on open file descriptors")?,
            started: number(r, "process_start_time_seconds", "When the process started, in seconds since 1970")?,
        };
        gauges.spool_full_in.set(f64::INFINITY);
        Ok(gauges)
    }

    /// Sets the gauge of a limit.
    pub fn limit(&self, limit: Limit, value: usize) {
        self.limits.get(limit.index()).inspect(|gauge| set(gauge, value));
    }

    /// Sets the CPU time of the process since it started.
    pub fn cpu_time(&self, total: Duration) {
        raise(&self.cpu, total);
    }

    /// Sets the busy time of the handlers' runtime since it started.
    pub fn runtime_busy(&self, total: Duration) {
        raise(&self.runtime_busy, total);
    }
}

/// Raises a counter to `total`. One call at a time, see [`SampledGauges::updating`].
fn raise(counter: &GenericCounter<AtomicF64>, total: Duration) {
    counter.inc_by((total.as_secs_f64() - counter.get()).max(0.0));
}

/// Sets a gauge to a size.
pub(super) fn set(gauge: &IntGauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn seconds(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Counter> {
    let counter = Counter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A gauge with a name that all Prometheus clients use for the process.
fn conventional(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
