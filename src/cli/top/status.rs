//! The part of `GET /v1/status` that the view shows.
//!
//! Every member may be missing, so that a server of another version can be watched too.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) time: String,
    pub(super) build: Build,
    pub(super) process: Process,
    pub(super) settings: Settings,
    pub(super) state: String,
    pub(super) since: Option<f64>,
    pub(super) timestamp: f64,
    pub(super) reasons: Vec<Reason>,
    pub(super) ledger: Ledger,
    pub(super) oldest_unstored_seconds: Option<f64>,
    pub(super) traffic: Traffic,
    pub(super) latency: Latency,
    pub(super) limits: Vec<Limit>,
    pub(super) disk: Option<Disk>,
    pub(super) packing: Packing,
    pub(super) tenants: Vec<Tenant>,
    pub(super) rollout: Option<Rollout>,
    pub(super) dead: Dead,
    pub(super) files: Files,
    pub(super) recent_rejections: Vec<Rejection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Build {
    pub(super) version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) host: String,
    pub(super) pid: u64,
    pub(super) uptime_seconds: Option<f64>,
    pub(super) cpu_cores: Option<f64>,
    pub(super) cores: Option<f64>,
    pub(super) memory_bytes: Option<f64>,
    pub(super) runtime_busy_share: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) ack: String,
    pub(super) compression: String,
    pub(super) store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reason {
    pub(super) what: String,
    pub(super) detail: Option<String>,
    pub(super) since: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    pub(super) accepted: Count,
    pub(super) stored: Count,
    pub(super) waiting: Count,
    pub(super) dead: Count,
    pub(super) possibly_lost: Count,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Count {
    pub(super) jobs: Option<f64>,
    pub(super) payloads: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Traffic {
    pub(super) requests_per_second: Option<f64>,
    pub(super) jobs_per_second: Option<f64>,
    pub(super) payloads_per_second: Option<f64>,
    pub(super) received_bytes_per_second: Option<f64>,
    pub(super) stored_bytes_per_second: Option<f64>,
    pub(super) objects_per_second: Option<f64>,
    pub(super) upload_failures_per_second: Option<f64>,
    pub(super) commit_failures_per_second: Option<f64>,
    pub(super) outcomes: Vec<Outcome>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Outcome {
    pub(super) outcome: String,
    pub(super) total: Option<f64>,
    pub(super) per_second: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub(super) accepted: Quantiles,
    pub(super) rejected: Quantiles,
    pub(super) failed: Quantiles,
    pub(super) queue_wait: Quantiles,
    pub(super) commit: Quantiles,
    pub(super) upload: Quantiles,
    pub(super) stored: Quantiles,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantiles {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) count: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) used: Option<f64>,
    pub(super) max: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) free_bytes: Option<f64>,
    pub(super) total_bytes: Option<f64>,
    pub(super) spool_full_in_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Packing {
    pub(super) jobs_per_commit: Option<f64>,
    pub(super) commits_per_second: Option<f64>,
    pub(super) stored_per_received: Option<f64>,
    pub(super) segment_bytes: Option<f64>,
    pub(super) segments_waiting: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tenant {
    /// None for all tenants that are not listed.
    pub(super) tenant: Option<String>,
    pub(super) others: Option<f64>,
    pub(super) requests_per_second: Option<f64>,
    pub(super) payloads_per_second: Option<f64>,
    pub(super) bytes_per_second: Option<f64>,
    pub(super) rejected_per_second: Option<f64>,
    pub(super) is_throttled: bool,
    pub(super) queue_bytes: Option<f64>,
    pub(super) spool_bytes: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rollout {
    pub(super) mirror: Option<Other>,
    pub(super) forward: Option<Other>,
    pub(super) features: Vec<Share>,
    pub(super) variants: Vec<Share>,
}

/// Another server that gets a share of the traffic.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Other {
    pub(super) url: String,
    pub(super) percent: Option<f64>,
    pub(super) sent_total: Option<f64>,
    pub(super) dropped_total: Option<f64>,
    pub(super) failed_total: Option<f64>,
    pub(super) passed_total: Option<f64>,
    pub(super) taken_here_total: Option<f64>,
    pub(super) unknown_total: Option<f64>,
    pub(super) abandoned_total: Option<f64>,
    pub(super) guard: Option<String>,
    pub(super) tripped: Option<Tripped>,
}

/// Why nothing is forwarded to it any more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tripped {
    pub(super) reason: String,
}

/// Something for a share of the clients.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Share {
    pub(super) name: String,
    pub(super) percent: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Dead {
    pub(super) files: Option<f64>,
    pub(super) bytes: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Files {
    pub(super) certificate_days: Option<f64>,
    pub(super) reload_failing: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rejection {
    pub(super) time: String,
    pub(super) outcome: String,
    pub(super) status: Option<u16>,
    pub(super) detail: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) address: Option<String>,
}
