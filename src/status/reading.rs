//! The cumulative values of one moment. Rates are differences between two readings.

use std::time::Duration;

use prometheus::Histogram;
use tokio::time::Instant;

use super::model::{Latency, OutcomeStatus, Packing, SealStatus, Traffic};
use super::quantiles::Buckets;
use super::sources::Sources;
use crate::metrics::{Count, RequestResult, Route};

/// The cumulative values of one moment.
#[derive(Debug)]
pub(super) struct Reading {
    at: Instant,
    outcomes: Vec<(&'static str, RequestResult, u64)>,
    accepted: Count,
    bytes_in: u64,
    bytes_out: u64,
    objects: u64,
    upload_failures: u64,
    commit_failures: u64,
    commits: u64,
    committed_jobs: f64,
    pub(super) cpu: Duration,
    pub(super) busy: Duration,
    accepted_seconds: Buckets,
    rejected_seconds: Buckets,
    failed_seconds: Buckets,
    queue_wait: Buckets,
    commit: Buckets,
    upload: Buckets,
    stored: Buckets,
}

impl Reading {
    pub(super) fn take(sources: &Sources) -> Self {
        let metrics = &sources.context.metrics;
        let requests = |result| Buckets::of(metrics.request_histogram(Route::Payloads, result));
        let buckets = |histogram: &Histogram| Buckets::of(Some(histogram));
        Self {
            at: Instant::now(),
            outcomes: metrics.outcomes().collect(),
            accepted: metrics.ledger.balance().accepted,
            bytes_in: metrics.bytes_in.get(),
            bytes_out: metrics.bytes_out.get(),
            objects: metrics.objects.get(),
            upload_failures: metrics.retries(),
            commit_failures: metrics.commit_failures.get(),
            commits: metrics.frame_jobs.get_sample_count(),
            committed_jobs: metrics.frame_jobs.get_sample_sum(),
            cpu: super::process::cpu_time(),
            busy: sources.runtime_busy(),
            accepted_seconds: requests(RequestResult::Accepted),
            rejected_seconds: requests(RequestResult::Rejected),
            failed_seconds: requests(RequestResult::Failed),
            queue_wait: buckets(&metrics.queue_wait_seconds),
            commit: buckets(&metrics.commit_seconds),
            upload: buckets(&metrics.upload_seconds),
            stored: buckets(&metrics.stored_seconds),
        }
    }

    /// Seconds since `before`.
    pub(super) fn seconds_since(&self, before: &Self) -> f64 {
        self.at.saturating_duration_since(before.at).as_secs_f64()
    }

    /// The rate of a counter since `before`.
    fn rate(&self, before: &Self, counter: impl Fn(&Self) -> u64) -> f64 {
        let seconds = self.seconds_since(before);
        let difference = counter(self).saturating_sub(counter(before)) as f64;
        if seconds > 0.0 { difference / seconds } else { 0.0 }
    }

    /// Requests of one result per second since `before`.
    pub(super) fn result_rate(&self, before: &Self, wanted: RequestResult) -> f64 {
        let count = |reading: &Self| {
            reading.outcomes.iter().filter(|(_, result, _)| *result == wanted).map(|(_, _, count)| count).sum()
        };
        self.rate(before, count)
    }

    /// The traffic since the reading a second ago, and the objects and failures since `earlier`.
    pub(super) fn traffic(&self, last: &Self, earlier: &Self) -> Traffic {
        let all = |reading: &Self| reading.outcomes.iter().map(|(_, _, count)| count).sum();
        let outcomes = self.outcomes.iter().enumerate().filter(|(_, (_, _, total))| *total > 0);
        Traffic {
            requests_per_second: self.rate(last, all),
            jobs_per_second: self.rate(last, |reading| reading.accepted.jobs),
            payloads_per_second: self.rate(last, |reading| reading.accepted.payloads),
            received_bytes_per_second: self.rate(last, |reading| reading.bytes_in),
            stored_bytes_per_second: self.rate(last, |reading| reading.bytes_out),
            objects_per_second: self.rate(earlier, |reading| reading.objects),
            upload_failures_per_second: self.rate(earlier, |reading| reading.upload_failures),
            commit_failures_per_second: self.rate(earlier, |reading| reading.commit_failures),
            outcomes: outcomes
                .map(|(index, (outcome, _, total))| OutcomeStatus {
                    outcome: (*outcome).to_owned(),
                    total: *total,
                    per_second: self
                        .rate(last, |reading| reading.outcomes.get(index).map_or(0, |(_, _, count)| *count)),
                })
                .collect(),
        }
    }

    /// The durations since `earlier`.
    pub(super) fn latency(&self, earlier: &Self) -> Latency {
        Latency {
            accepted: self.accepted_seconds.since(&earlier.accepted_seconds),
            rejected: self.rejected_seconds.since(&earlier.rejected_seconds),
            failed: self.failed_seconds.since(&earlier.failed_seconds),
            queue_wait: self.queue_wait.since(&earlier.queue_wait),
            commit: self.commit.since(&earlier.commit),
            upload: self.upload.since(&earlier.upload),
            stored: self.stored.since(&earlier.stored),
        }
    }

    /// Commits and segments since `earlier`.
    pub(super) fn packing(&self, earlier: &Self, sources: &Sources) -> Packing {
        let metrics = &sources.context.metrics;
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let commits = self.commits.saturating_sub(earlier.commits);
        let (segments, bytes) = (metrics.segment_bytes.get_sample_count(), metrics.segment_bytes.get_sample_sum());
        let seals = metrics.seals().filter(|(_, total)| *total > 0);
        Packing {
            jobs_per_commit: share(self.committed_jobs - earlier.committed_jobs, commits as f64),
            commits_per_second: self.rate(earlier, |reading| reading.commits),
            stored_per_received: share(self.bytes_out as f64, self.bytes_in as f64),
            segment_bytes: share(bytes, segments as f64),
            segments_waiting: sources.context.backlog.waiting(),
            seals: seals.map(|(reason, total)| SealStatus { reason: reason.to_owned(), total }).collect(),
        }
    }
}
