//! Takes a snapshot once a second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::history::{History, Row};
use super::model::{
    Build, CountStatus, Dead, DiskStatus, Files, LedgerStatus, LimitStatus, Process, Quantiles, Reason, ReloadFailures,
    State, Status,
};
use super::process::{max_files, memory, open_files};
use super::reading::Reading;
use super::slow::{DiskReader, DiskReading};
use super::sources::{Sources, since_1970};
use super::tenant_rates::TenantRates;
use super::{Snapshot, Snapshots, readiness, rollout};
use crate::cores::cores;
use crate::metrics::{Balance, Limit, RequestResult, WatchedFile};
use crate::rfc3339;

const INTERVAL: Duration = Duration::from_secs(1);
/// Quantiles, and rates of what happens seldom, are of so many seconds.
const WINDOW: usize = 10;
/// The growth of the spool is measured over so many seconds.
const GROWTH_WINDOW: usize = 60;
const DAY_SECONDS: f64 = 86_400.0;
/// A growth that fills the spool later than this is noise.
const SPOOL_HORIZON_SECONDS: f64 = 30.0 * DAY_SECONDS;

/// Takes snapshots.
pub struct Sampler {
    sources: Arc<Sources>,
    history: Arc<History>,
    sender: watch::Sender<Arc<Snapshot>>,
    state: SamplerState,
}

/// What one snapshot leaves for the next.
struct SamplerState {
    /// The last readings, oldest first; never empty.
    readings: VecDeque<Reading>,
    /// The bytes in the spool, with the time, oldest first.
    growth: VecDeque<(Instant, usize)>,
    tenants: TenantRates,
    disk: DiskReader,
    state: State,
    since: SystemTime,
    /// The present reasons against readiness, with the time of the first snapshot that had them.
    reasons_since: Vec<(String, SystemTime)>,
    /// Nothing waited at the last snapshot.
    was_empty: bool,
}

impl Sampler {
    /// Takes the first snapshot.
    pub fn new(sources: Arc<Sources>) -> (Self, Snapshots) {
        let mut state = SamplerState {
            readings: VecDeque::from([Reading::take(&sources)]),
            growth: VecDeque::new(),
            tenants: TenantRates::default(),
            disk: DiskReader::default(),
            state: State::Ready,
            since: SystemTime::now(),
            reasons_since: Vec::new(),
            was_empty: false,
        };
        let history = Arc::new(History::default());
        let (snapshot, row) = state.snapshot(&sources);
        let (sender, current) = watch::channel(Arc::new(snapshot));
        history.push(row, || ());
        let snapshots = Snapshots { current, history: Arc::clone(&history) };
        (Self { sources, history, sender, state }, snapshots)
    }

    /// Takes a snapshot each second. Never returns.
    pub async fn run(mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.sources.context.recent.renew_budget();
            let (snapshot, row) = self.state.snapshot(&self.sources);
            self.history.push(row, || drop(self.sender.send_replace(Arc::new(snapshot))));
        }
    }
}

impl SamplerState {
    /// The snapshot of this moment and its row of the history.
    fn snapshot(&mut self, sources: &Sources) -> (Snapshot, Bytes) {
        let disk = self.read_disk(sources);
        let families = sources.gather();
        let status = self.status(sources, disk);
        let row = to_json(&status.sample);
        (Snapshot { json: to_json(&status), status, families }, row)
    }

    fn status(&mut self, sources: &Sources, disk: Option<DiskStatus>) -> Status {
        let now = SystemTime::now();
        let reading = Reading::take(sources);
        let mut reasons = readiness(&sources.context, &sources.depth);
        self.complete(&mut reasons, now);
        let (last, earlier) = match (self.readings.back(), self.readings.front()) {
            (Some(last), Some(earlier)) => (last, earlier),
            _ => (&reading, &reading),
        };
        let seconds = reading.seconds_since(last);
        let metrics = &sources.context.metrics;
        let balance = metrics.ledger.balance();
        let (traffic, latency) = (reading.traffic(last, earlier), reading.latency(earlier));
        let packing = reading.packing(earlier, sources);
        let tenants = sources.tenants.as_ref().map(|tenants| self.tenants.update(tenants, seconds));
        let process = process(sources, &reading, last, now);
        let oldest_unstored_seconds = sources.oldest_unstored();
        let rates = [RequestResult::Accepted, RequestResult::Rejected, RequestResult::Failed]
            .map(|result| reading.result_rate(last, result));
        let used = |limit| Some(sources.used(limit) as f64);
        let Quantiles { p50, p90, p99, .. } = latency.accepted;
        let sample = Row {
            timestamp: Some(since_1970(now)),
            accepted_per_second: Some(rates[0]),
            rejected_per_second: Some(rates[1]),
            failed_per_second: Some(rates[2]),
            payloads_per_second: Some(traffic.payloads_per_second),
            received_bytes_per_second: Some(traffic.received_bytes_per_second),
            stored_bytes_per_second: Some(traffic.stored_bytes_per_second),
            p50,
            p90,
            p99,
            commit_p99: latency.commit.p99,
            upload_p99: latency.upload.p99,
            queue_jobs: used(Limit::QueueJobs),
            queue_bytes: used(Limit::QueueBytes),
            spool_bytes: used(Limit::SpoolBytes),
            waiting_jobs: Some(balance.waiting.jobs as f64),
            oldest_unstored_seconds,
            cpu_cores: Some(process.cpu_cores),
            memory_bytes: process.memory_bytes.map(|bytes| bytes as f64),
            connections: used(Limit::Connections),
            busy_workers: used(Limit::Workers),
            jobs_per_commit: packing.jobs_per_commit,
        };
        let sample = sample.values();
        self.readings.push_back(reading);
        if self.readings.len() > WINDOW {
            self.readings.pop_front();
        }
        self.update_state(sources, &reasons, &balance, now);
        Status {
            time: rfc3339::with_seconds(now),
            timestamp: since_1970(now),
            build: Build { version: env!("CARGO_PKG_VERSION").to_owned() },
            limits: limits(sources, &process),
            process,
            settings: sources.facts.clone(),
            state: self.state,
            since: since_1970(self.since),
            since_time: rfc3339::with_seconds(self.since),
            reasons,
            ledger: LedgerStatus {
                accepted: balance.accepted.into(),
                stored: balance.stored.into(),
                waiting: balance.waiting.into(),
                dead: balance.dead.into(),
                possibly_lost: CountStatus {
                    jobs: metrics.jobs_possibly_lost.get(),
                    payloads: metrics.payloads_possibly_lost.get(),
                },
            },
            oldest_unstored_seconds,
            traffic,
            latency,
            broker: sources.broker(),
            disk,
            packing,
            tenants: tenants.unwrap_or_default(),
            rollout: sources.rollout.as_ref().map(|current| rollout::of(current, metrics)),
            files: files(sources, now),
            dead: Dead {
                files: usize::try_from(metrics.sampled.dead_files.get()).unwrap_or_default(),
                bytes: u64::try_from(metrics.sampled.dead_bytes.get()).unwrap_or_default(),
            },
            recent_objects: sources.context.recent.objects(),
            recent_rejections: sources.context.recent.rejections(),
            sample,
        }
    }

    /// Adds the beginning to the reasons that have none.
    fn complete(&mut self, reasons: &mut [Reason], now: SystemTime) {
        self.reasons_since.retain(|(what, _)| reasons.iter().any(|reason| reason.what == *what));
        for reason in reasons {
            let seen = self.reasons_since.iter().find(|(what, _)| reason.what == *what).map(|(_, since)| *since);
            let since = seen.unwrap_or_else(|| {
                self.reasons_since.push((reason.what.clone(), now));
                now
            });
            reason.begins(since);
        }
    }

    /// Changes the state, and records when.
    fn update_state(&mut self, sources: &Sources, reasons: &[Reason], balance: &Balance, now: SystemTime) {
        let is_draining = sources.context.shutdown.is_stopping();
        let unadopted = sources.context.spool.unadopted();
        let is_empty = balance.waiting.jobs == 0
            && sources.depth.now() == (0, 0)
            && sources.context.spool.segments().spooled() == 0
            // Folders of exited processes may hold acknowledged jobs.
            && unadopted.waiting + unadopted.failing == 0;
        let state = match (is_draining, reasons.is_empty()) {
            // Twice, because a request that passed the check before the drain may just reserve its place in the queue.
            (true, _) if is_empty && self.was_empty => State::Drained,
            (true, _) => State::Draining,
            (false, true) => State::Ready,
            (false, false) => State::NotReady,
        };
        self.was_empty = is_draining && is_empty;
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
    }

    /// The last reading of the spool's file system, whose gauges it sets.
    fn read_disk(&mut self, sources: &Sources) -> Option<DiskStatus> {
        let space = sources.context.spool.space()?;
        let DiskReading { free_bytes, total_bytes, dead_files, dead_bytes } = self.disk.poll(&sources.context.spool)?;
        let used = space.used();
        let left = space.max_bytes().saturating_sub(used) as f64;
        let spool_full_in_seconds = self.growth(used).map(|growth| left.min(free_bytes as f64) / growth);
        let spool_full_in_seconds = spool_full_in_seconds.filter(|seconds| *seconds < SPOOL_HORIZON_SECONDS);
        let gauges = &sources.context.metrics.sampled;
        for (gauge, value) in [
            (&gauges.disk_free, free_bytes),
            (&gauges.disk_total, total_bytes),
            (&gauges.dead_files, dead_files as u64),
            (&gauges.dead_bytes, dead_bytes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        gauges.spool_full_in.set(spool_full_in_seconds.unwrap_or(f64::INFINITY));
        Some(DiskStatus { free_bytes, total_bytes, spool_full_in_seconds })
    }

    /// The bytes per second by which the spool grows; none if it does not.
    fn growth(&mut self, used: usize) -> Option<f64> {
        let now = Instant::now();
        self.growth.push_back((now, used));
        if self.growth.len() > GROWTH_WINDOW {
            self.growth.pop_front();
        }
        let (then, before) = *self.growth.front()?;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        (used > before && seconds > 0.0).then(|| (used - before) as f64 / seconds)
    }
}

fn process(sources: &Sources, reading: &Reading, last: &Reading, now: SystemTime) -> Process {
    let seconds = reading.seconds_since(last);
    let per_second = |now: Duration, before: Duration| {
        if seconds > 0.0 { now.saturating_sub(before).as_secs_f64() / seconds } else { 0.0 }
    };
    let workers = sources.runtime.num_workers().max(1) as f64;
    Process {
        host: sources.process.host.clone(),
        pid: std::process::id(),
        started: since_1970(sources.process.started),
        started_time: rfc3339::with_seconds(sources.process.started),
        uptime_seconds: now.duration_since(sources.process.started).unwrap_or_default().as_secs_f64(),
        cpu_seconds: reading.cpu.as_secs_f64(),
        cpu_cores: per_second(reading.cpu, last.cpu),
        cores: cores(),
        memory_bytes: memory(),
        open_files: open_files(),
        max_files: max_files(),
        runtime_busy_share: (per_second(reading.busy, last.busy) / workers).min(1.0),
    }
}

fn limits(sources: &Sources, process: &Process) -> Vec<LimitStatus> {
    let limits = sources.limits().into_iter().filter(|(_, max)| *max > 0);
    let limits = limits.map(|(limit, max)| LimitStatus {
        name: limit.text().to_owned(),
        used: sources.used(limit),
        max: max as u64,
    });
    let files = process.open_files.zip(process.max_files);
    limits.chain(files.map(|(used, max)| LimitStatus { name: "open_files".to_owned(), used, max })).collect()
}

fn files(sources: &Sources, now: SystemTime) -> Files {
    let reloads = |file| sources.context.metrics.reloads(file);
    let failures = |file| reloads(file).failures.get();
    let failing = WatchedFile::ALL.iter().filter(|file| reloads(**file).failing.get() > 0);
    let expires = sources.tls.as_ref().and_then(|tls| tls.expires());
    Files {
        reload_failures: ReloadFailures {
            tokens: failures(WatchedFile::Tokens),
            certificate: failures(WatchedFile::Certificate),
            rollout: failures(WatchedFile::Rollout),
        },
        reload_failing: failing.map(|file| file.text().to_owned()).collect(),
        certificate_expires_time: expires.map(rfc3339::with_seconds),
        certificate_days: expires.map(|expires| (since_1970(expires) - since_1970(now)) / DAY_SECONDS),
    }
}

fn to_json(value: &impl serde::Serialize) -> Bytes {
    // These types always serialize.
    serde_json::to_vec(value).unwrap_or_default().into()
}
