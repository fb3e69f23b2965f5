//! The members of `/v1/status`. Times are seconds since 1970, and members named `…_time` are the same in RFC 3339.

use serde::{Deserialize, Serialize};

use crate::recent::{RecentObject, RecentRejection};

/// Declares structs of public members that are the same in Rust and in JSON.
macro_rules! model {
    ($($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $member_doc:literal])* $member:ident: $type:ty,)+ })+) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct $name {
                $($(#[doc = $member_doc])* pub $member: $type,)+
            }
        )+
    };
}

/// Whether batches are accepted and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything works.
    Ready,
    /// There are reasons against readiness.
    NotReady,
    /// Batches are rejected, and accepted jobs are being stored.
    Draining,
    /// Batches are rejected, and all accepted jobs are stored.
    Drained,
}

model! {
    /// The state of the server.
    Status {
        /// When (RFC 3339).
        time: String,
        /// When.
        timestamp: f64,
        /// The program.
        build: Build,
        /// The process.
        process: Process,
        /// Settings that explain the other members.
        settings: Facts,
        /// Whether batches are accepted and stored.
        state: State,
        /// Since when.
        since: f64,
        /// Since when.
        since_time: String,
        /// The reasons against readiness.
        reasons: Vec<Reason>,
        /// Accepted jobs and what became of them.
        ledger: LedgerStatus,
        /// The age of the oldest segment that is not stored.
        oldest_unstored_seconds: Option<f64>,
        /// Requests, by outcome.
        traffic: Traffic,
        /// Durations.
        latency: Latency,
        /// Limits, and how much of them is used.
        limits: Vec<LimitStatus>,
        /// The broker; none without `BROKER_URL`.
        broker: Option<BrokerStatus>,
        /// The file system of the spool; none in memory mode.
        disk: Option<DiskStatus>,
        /// Commits and segments.
        packing: Packing,
        /// The busiest tenants, and one entry for all others.
        tenants: Vec<TenantStatus>,
        /// What is rolled out; none without `ROLLOUT_FILE`.
        rollout: Option<RolloutStatus>,
        /// Files that are reloaded.
        files: Files,
        /// Damaged files.
        dead: Dead,
        /// The last stored objects, newest first.
        recent_objects: Vec<RecentObject>,
        /// The last rejected requests, newest first.
        recent_rejections: Vec<RecentRejection>,
        /// The row of the history.
        sample: Vec<Option<f64>>,
    }
    /// The program.
    Build {
        /// Its version.
        version: String,
    }
    /// The process.
    Process {
        /// The name of the machine.
        host: String,
        /// Its id.
        pid: u32,
        /// When it started.
        started: f64,
        /// When it started.
        started_time: String,
        /// The time since then.
        uptime_seconds: f64,
        /// CPU time since then.
        cpu_seconds: f64,
        /// CPU time in the last second, in cores.
        cpu_cores: f64,
        /// The cores that it may use.
        cores: usize,
        /// Resident memory.
        memory_bytes: Option<u64>,
        /// Open file descriptors.
        open_files: Option<u64>,
        /// The limit on them.
        max_files: Option<u64>,
        /// The part of the last second in which the threads of the handlers were busy, from 0 to 1.
        runtime_busy_share: f64,
    }
    /// Settings that explain the other members.
    Facts {
        /// `ROLE`.
        role: String,
        /// The ack level in force.
        ack: String,
        /// `COMPRESSION`.
        compression: String,
        /// The location of the store.
        store: String,
        /// `SPOOL_DIR`; none in memory mode and with a broker.
        spool_dir: Option<String>,
    }
    /// The ledger: accepted = stored + waiting + dead.
    LedgerStatus {
        /// Accepted, or adopted.
        accepted: CountStatus,
        /// In the store.
        stored: CountStatus,
        /// In the queue or in the spool.
        waiting: CountStatus,
        /// Damaged on disk.
        dead: CountStatus,
        /// In unreadable ends of segments, where their number is known.
        possibly_lost: CountStatus,
    }
    /// Jobs and the payloads in them.
    CountStatus {
        /// Jobs.
        jobs: u64,
        /// Payloads.
        payloads: u64,
    }
    /// What arrives and what is stored, over the last second. Objects and failures over the last ten.
    Traffic {
        /// Requests, without health checks and lookups of jobs.
        requests_per_second: f64,
        /// Accepted jobs.
        jobs_per_second: f64,
        /// Accepted payloads.
        payloads_per_second: f64,
        /// Bytes of bodies, as sent.
        received_bytes_per_second: f64,
        /// Bytes of objects.
        stored_bytes_per_second: f64,
        /// Objects.
        objects_per_second: f64,
        /// Uploads that failed.
        upload_failures_per_second: f64,
        /// Commits that failed.
        commit_failures_per_second: f64,
        /// The outcomes that have occurred.
        outcomes: Vec<OutcomeStatus>,
    }
    /// Requests with one outcome.
    OutcomeStatus {
        /// The label of the metric.
        outcome: String,
        /// Since the start.
        total: u64,
        /// In the last second.
        per_second: f64,
    }
    /// Durations over the last ten seconds.
    Latency {
        /// Of accepted batches.
        accepted: Quantiles,
        /// Of rejected batches.
        rejected: Quantiles,
        /// Of batches that failed.
        failed: Quantiles,
        /// In the queue.
        queue_wait: Quantiles,
        /// Of commits.
        commit: Quantiles,
        /// Of upload attempts.
        upload: Quantiles,
        /// From the opening of a segment to its object.
        stored: Quantiles,
    }
    /// Quantiles in seconds; none without observations.
    Quantiles {
        /// The median.
        p50: Option<f64>,
        /// 90%.
        p90: Option<f64>,
        /// 99%.
        p99: Option<f64>,
        /// The number of observations.
        count: u64,
    }
    /// A limit.
    LimitStatus {
        /// What is limited.
        name: String,
        /// How much is used.
        used: u64,
        /// The limit.
        max: u64,
    }
    /// The broker.
    BrokerStatus {
        /// Hosts and ports in `BROKER_URL`.
        servers: Vec<String>,
        /// `BROKER_STREAM`.
        stream: String,
        /// `BROKER_REPLICAS`.
        replicas: usize,
        /// Whether there is a connection to a server.
        is_connected: bool,
        /// Bytes in the stream, of the whole fleet.
        bytes: u64,
        /// The limit of the stream.
        max_bytes: u64,
        /// Sealed segments of the fleet that are not stored.
        segments_waiting: u64,
    }
    /// The file system of the spool.
    DiskStatus {
        /// Free bytes.
        free_bytes: u64,
        /// Its size.
        total_bytes: u64,
        /// The time until the spool is full, at its growth of the last minute; none if that takes longer than 30 days.
        spool_full_in_seconds: Option<f64>,
    }
    /// Commits and segments over the last ten seconds.
    Packing {
        /// Jobs in a commit.
        jobs_per_commit: Option<f64>,
        /// Commits.
        commits_per_second: f64,
        /// Bytes of objects for each received byte, since the start.
        stored_per_received: Option<f64>,
        /// The mean size of sealed segments, since the start.
        segment_bytes: Option<f64>,
        /// Sealed segments that wait for a worker.
        segments_waiting: usize,
        /// Sealed segments since the start, by reason.
        seals: Vec<SealStatus>,
    }
    /// Segments that were sealed for one reason.
    SealStatus {
        /// The label of the metric.
        reason: String,
        /// Since the start.
        total: u64,
    }
    /// What one tenant sends, as an average of the last seconds.
    TenantStatus {
        /// Its name; none for all others together.
        tenant: Option<String>,
        /// The number of tenants in the entry of the others.
        others: Option<usize>,
        /// Requests.
        requests_per_second: f64,
        /// Accepted payloads.
        payloads_per_second: f64,
        /// Bytes of accepted bodies.
        bytes_per_second: f64,
        /// Rejected requests.
        rejected_per_second: f64,
        /// Whether it exceeded a rate limit or a share in the last ten seconds.
        is_throttled: bool,
        /// Accepted requests since the start.
        accepted_total: u64,
        /// Rejected requests since the start.
        rejected_total: u64,
        /// Bytes in the queue, if its share is limited.
        queue_bytes: Option<usize>,
        /// Bytes in the spool, if its share is limited; with a broker, those that this process has added.
        spool_bytes: Option<usize>,
    }
    /// What is rolled out to which share of the traffic, in percent.
    RolloutStatus {
        /// Where copies of accepted batches go.
        mirror: Option<MirrorStatus>,
        /// Which other server handles requests.
        forward: Option<ForwardStatus>,
        /// The features that are limited.
        features: Vec<FeatureStatus>,
        /// The variants.
        variants: Vec<VariantStatus>,
    }
    /// Where copies of accepted batches go.
    MirrorStatus {
        /// The other server.
        url: String,
        /// The share of the batches.
        percent: f64,
        /// Whether the copies contain tokens.
        tokens: bool,
        /// Copies that got a response since the start.
        sent_total: u64,
        /// Copies that were not tried since then.
        dropped_total: u64,
        /// Copies without a response since then.
        failed_total: u64,
    }
    /// Which other server handles requests.
    ForwardStatus {
        /// The other server.
        url: String,
        /// The share of the requests, or of the tenants.
        percent: f64,
        /// `tenant` or `request`.
        by: String,
        /// Requests whose response was passed on since the start.
        passed_total: u64,
        /// Requests that the other server had not taken or had rejected, so this one took them, since then.
        taken_here_total: u64,
        /// Requests whose outcome is unknown since then.
        unknown_total: u64,
        /// Requests whose client left before the response since then.
        abandoned_total: u64,
        /// What the guard can judge: `compared`, `errors_only`, or `too_few_requests`; none if nothing is forwarded.
        guard: Option<String>,
        /// Why nothing is forwarded any more; none while requests are forwarded.
        tripped: Option<TrippedStatus>,
    }
    /// Why the guard has stopped forwarding.
    TrippedStatus {
        /// When it has.
        since_time: String,
        /// `errors` or `latency`.
        reason: String,
        /// What both versions did until then.
        detail: String,
    }
    /// A feature that is limited.
    FeatureStatus {
        /// Its name.
        name: String,
        /// The share of the clients that may use it.
        percent: f64,
        /// The number of tenants that may use it in addition.
        tenants: usize,
        /// The number of tenants that may not use it.
        except: usize,
    }
    /// A variant.
    VariantStatus {
        /// Its name.
        name: String,
        /// Its share of the clients.
        percent: f64,
        /// Accepted batches since it is in force.
        accepted_total: u64,
        /// Rejected batches since then.
        rejected_total: u64,
        /// Failed batches since then.
        failed_total: u64,
    }
    /// Files that are reloaded.
    Files {
        /// Failed reloads since the start.
        reload_failures: ReloadFailures,
        /// The settings whose last reload failed, so that an earlier version of the file is in force.
        reload_failing: Vec<String>,
        /// When the certificate expires.
        certificate_expires_time: Option<String>,
        /// Days until then.
        certificate_days: Option<f64>,
    }
    /// Damaged files under `dead/`.
    Dead {
        /// Files.
        files: usize,
        /// Their bytes.
        bytes: u64,
    }
}

/// A reason against readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What is not ready.
    pub what: String,
    /// The error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_time: Option<String>,
}

/// Failed reloads since the start, by the setting that names the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReloadFailures {
    /// `TOKENS_FILE`.
    #[serde(rename = "TOKENS_FILE")]
    pub tokens: u64,
    /// `TLS_CERT` and `TLS_KEY`.
    #[serde(rename = "TLS_CERT")]
    pub certificate: u64,
    /// `ROLLOUT_FILE`.
    #[serde(rename = "ROLLOUT_FILE")]
    pub rollout: u64,
}

impl From<crate::metrics::Count> for CountStatus {
    fn from(count: crate::metrics::Count) -> Self {
        Self { jobs: count.jobs, payloads: count.payloads }
    }
}
