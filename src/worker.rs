//! Workers: each takes a sealed segment and puts it into the store. The segment is kept until the store has it.
//!
//! The workers own all retries, and they retry for as long as the process lives, whatever the error. A segment that fails
//! goes back to the backlog with a time before which it is not retried (exponential backoff, full jitter), and its memory is
//! released: no segment holds a worker. After a failure of the store the worker pauses as well. Every attempt needs a permit
//! of the [`UploadLimit`], which a throttling store lowers.

pub(crate) mod backoff;
mod limit;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub use limit::UploadLimit;

use crate::context::PipelineContext;
use crate::health::Side;
use crate::segment::salvage::{PossiblyLost, Salvage};
use crate::spool::{LoadError, Loaded, SealedSegment};
use crate::store::{ErrorClass, Store, StoreError, StoredObject, Upload};
use crate::trace::UploadResult;

/// The longest delay before a retry while the server drains.
const DELAY_MAX_DRAINING: Duration = Duration::from_millis(500);

/// After this many failures, a segment of the broker goes to another worker, so that it does not take the place of others.
const OWN_FAILURES_MAX: u32 = 3;

/// The outcome of an attempt.
enum UploadOutcome {
    Done,
    /// The segment failed for a reason of its own.
    SegmentFailed,
    /// Any other segment would have failed too, so the worker pauses.
    StoreFailed,
}

/// Uploads segments. Shared by all workers.
pub struct Uploader {
    /// The source of segments, and what the workers report to.
    pub context: PipelineContext,
    /// The destination.
    pub store: Arc<Store>,
    /// Limits concurrent attempts.
    pub limit: UploadLimit,
    /// The prefix of every key.
    pub prefix: String,
}

impl Uploader {
    /// Runs one worker, until the backlog is closed and empty.
    pub async fn run(&self) {
        // Failures of the store since the last success.
        let mut failures = 0;
        while let Some(segment) = self.context.backlog.next().await {
            self.context.metrics.busy_workers.inc();
            let outcome = self.attempt(segment).await;
            self.context.metrics.busy_workers.dec();
            failures = match outcome {
                UploadOutcome::Done => 0,
                UploadOutcome::SegmentFailed => failures,
                UploadOutcome::StoreFailed => self.pause(failures).await,
            };
        }
    }

    /// Attempts to upload a segment. If that fails, the segment goes back to the backlog.
    async fn attempt(&self, mut segment: SealedSegment) -> UploadOutcome {
        let id = segment.status.id();
        let PipelineContext { metrics, health, spool, backlog, .. } = &self.context;
        let mut loaded = match self.load(&mut segment).await {
            Ok(loaded) => loaded,
            Err(error) => {
                health.segments.failed(id, Side::Spool, &error);
                metrics.retry(ErrorClass::Transient);
                self.defer(segment, &error, true).await;
                return UploadOutcome::SegmentFailed;
            }
        };
        health.segments.succeeded(id, Side::Spool);
        if segment.attempts.recorded.is_none() {
            metrics.repack_saved_bytes.inc_by(loaded.saved_bytes as u64);
        }
        let mut salvage = self.record(&mut segment, std::mem::take(&mut loaded.salvage));
        let uploaded = self.upload(&mut segment, &loaded.body, &salvage).await;
        let is_missing = loaded.is_missing;
        loaded.release();
        match uploaded {
            Ok(Some(stored)) => self.reconcile(&mut salvage, stored),
            Ok(None) => {}
            Err(error) => return self.upload_failed(segment, &error).await,
        }
        health.segments.succeeded(id, Side::Store);
        self.report_damage(&segment, &salvage);
        if let Some(opened) = segment.opened {
            metrics.stored_seconds.observe(opened.elapsed().as_secs_f64());
        }
        let is_from_fleet = segment.is_adopted() && segment.is_from_broker();
        // One process of a fleet counts a job: the one that took it, or this one if that has exited.
        if !(spool.tell_owner(&segment, &salvage).await && is_from_fleet) {
            if is_from_fleet {
                let (jobs, payloads) = salvage.committed();
                metrics.ledger.accepted(jobs, payloads);
            }
            metrics.ledger.stored(salvage.jobs, salvage.payloads);
            metrics.ledger.dead(salvage.dead_jobs(), salvage.dead_payloads);
        }
        if let Err(error) = spool.stored(segment, &salvage, is_missing).await {
            tracing::warn!(segment = %id, %error, "cannot remove a stored segment from the spool; will retry");
        }
        backlog.done();
        UploadOutcome::Done
    }

    /// Reads the segment. A file that is missing will not come back, and counts as read.
    async fn load(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        let (spool, id) = (&self.context.spool, segment.status.id());
        loop {
            match spool.load(segment).await {
                Err(error @ LoadError::Unreadable { is_missing: true, .. }) if spool.is_missing(segment).await => {
                    tracing::error!(segment = %id, %error, "the file of a segment is missing from the spool; its jobs are lost");
                    return Ok(Loaded::missing());
                }
                // Once for each segment: the next call does not pack it.
                Err(error @ LoadError::Repacking) => tracing::error!(segment = %id, "{error}"),
                other => return other,
            }
        }
    }

    /// Corrects `salvage` if the store has more of the segment than its file still has. An earlier process stored it and
    /// died before it could remove the file.
    fn reconcile(&self, salvage: &mut Salvage, stored: StoredObject) {
        let (jobs, payloads) = salvage.committed();
        let Some(stored_payloads) = stored.payloads.filter(|stored| *stored > salvage.payloads) else { return };
        match stored.jobs {
            Some(stored_jobs) if stored_jobs >= salvage.jobs && stored.unsure.is_empty() => {
                // A range without an end means that jobs are possibly lost.
                let (open, dead): (Vec<_>, Vec<_>) = stored.dead.into_iter().partition(|range| range.end == u32::MAX);
                let total = open.first().map(|range| range.start).or(stored.total_jobs);
                salvage.jobs = stored_jobs;
                salvage.dead = dead;
                salvage.total_jobs = salvage.total_jobs.max(total.unwrap_or_default());
                salvage.possibly_lost = open.first().map(|range| PossiblyLost::unknown(range.start));
            }
            // Everything that was committed, since no other segment has this key.
            None if stored_payloads >= payloads => {
                salvage.jobs = jobs;
                salvage.dead.clear();
                salvage.possibly_lost = None;
            }
            _ => return,
        }
        salvage.payloads = stored_payloads;
        salvage.dead_payloads = payloads.saturating_sub(stored_payloads);
        if salvage.dead.is_empty() {
            (salvage.is_header_damaged, salvage.unreadable_bytes) = (false, 0);
        }
        let (all_jobs, all_payloads) = salvage.committed();
        self.context.metrics.ledger.accepted(all_jobs.saturating_sub(jobs), all_payloads.saturating_sub(payloads));
    }

    /// Records in the ledger what a exited process had accepted, and in `salvage` what is missing of what was committed.
    fn record(&self, segment: &mut SealedSegment, mut salvage: Salvage) -> Salvage {
        let metrics = &self.context.metrics;
        let id = segment.status.id();
        let recorded = segment.attempts.recorded;
        match (segment.committed, recorded) {
            (Some((jobs, payloads)), _) => salvage.complete(jobs, payloads),
            (None, Some((jobs, payloads))) => salvage.compare_with_earlier_read(jobs, payloads),
            (None, None) => {}
        }
        let (jobs, payloads) = salvage.committed();
        // One from the broker counts when it is stored: until then it may go to another process.
        if segment.is_adopted() && !segment.is_from_broker() {
            // A later read may find more than the first.
            let (before_jobs, before_payloads) = recorded.unwrap_or_default();
            let (new_jobs, new_payloads) =
                (jobs.saturating_sub(before_jobs.into()), payloads.saturating_sub(before_payloads.into()));
            metrics.ledger.accepted(new_jobs, new_payloads);
        }
        if recorded.is_none() && salvage.torn_bytes > 0 {
            metrics.torn_bytes.inc_by(salvage.torn_bytes as u64);
            tracing::info!(segment = %id, bytes = salvage.torn_bytes, "dropped an incomplete append from the end of a segment; it was never acknowledged");
        }
        segment.attempts.record(jobs, payloads);
        salvage
    }

    /// Counts and logs damage, once it is known what the store has of the segment.
    fn report_damage(&self, segment: &SealedSegment, salvage: &Salvage) {
        let (metrics, id) = (&self.context.metrics, segment.status.id());
        if salvage.is_damaged() {
            metrics.segments_damaged.inc();
            let jobs = salvage.dead_jobs();
            tracing::error!(segment = %id, dead_jobs = jobs, dead_payloads = salvage.dead_payloads, "a segment is damaged; its readable jobs are stored, and its file is moved to dead/, or its messages stay in the broker");
        }
        if let Some(PossiblyLost { first, counts }) = salvage.possibly_lost {
            metrics.segments_possibly_lost.inc();
            let (jobs, payloads) = counts.unzip();
            metrics.jobs_possibly_lost.inc_by(jobs.unwrap_or_default().into());
            metrics.payloads_possibly_lost.inc_by(payloads.unwrap_or_default().into());
            tracing::error!(segment = %id, first_job = first, jobs, payloads, "the end of a segment that was not sealed cannot be read; any jobs in it that were acknowledged are lost; the file is moved to dead/");
        }
    }

    /// Uploads the segment. Returns the object that the store already had, if it kept that one.
    async fn upload(
        &self,
        segment: &mut SealedSegment,
        body: &Bytes,
        salvage: &Salvage,
    ) -> Result<Option<StoredObject>, StoreError> {
        let key = segment.status.key(&self.prefix);
        let attempts = &mut segment.attempts;
        if salvage.jobs == 0 {
            // There is nothing to upload, but an earlier attempt may have stored more.
            let may_be_stored = attempts.may_be_stored && salvage.is_suspect();
            return if may_be_stored { self.store.count(key).await } else { Ok(None) };
        }
        let upload = Upload {
            key,
            // Clones of `Bytes` share their memory.
            body: body.clone(),
            segment: segment.status.id(),
            jobs: salvage.jobs,
            payloads: salvage.payloads,
            dead: salvage.lost_indexes(),
            is_damaged: salvage.is_suspect(),
            may_exist: attempts.may_be_stored,
            unconfirmed_payloads: attempts.unconfirmed_payloads,
        };
        let PipelineContext { metrics, health, backlog, .. } = &self.context;
        let permit = self.limit.acquire().await;
        let span = self.context.tracer.as_ref().and_then(|tracer| tracer.upload(&segment.trace));
        let began = Instant::now();
        let put = self.store.put(&upload).await;
        let took = began.elapsed().as_secs_f64();
        if let Some(span) = span {
            span.end(&UploadResult {
                segment: upload.segment,
                key,
                bytes: body.len(),
                jobs: upload.jobs,
                failures: attempts.failures,
                error: put.as_ref().err().map(|error| error.class),
            });
        }
        metrics.upload_seconds.observe(took);
        match &put {
            Ok(_) => permit.succeeded(),
            Err(error) => {
                // Only a rejection proves that nothing was stored. A 503 may follow a PUT that was carried out.
                if error.class != ErrorClass::Permanent {
                    attempts.may_be_stored = true;
                    let fewest = attempts.unconfirmed_payloads.map_or(upload.payloads, |n| n.min(upload.payloads));
                    attempts.unconfirmed_payloads = Some(fewest);
                }
                if error.class.lowers_limit() {
                    permit.throttled();
                } else {
                    drop(permit);
                }
            }
        }
        metrics.upload_limit.set(i64::try_from(self.limit.now()).unwrap_or(i64::MAX));
        let stored = put?;
        metrics.objects.inc();
        metrics.bytes_out.inc_by(body.len() as u64);
        self.context.recent.stored(key, body.len(), upload.jobs, upload.payloads, took);
        let had_outage = health.store_outage().is_some();
        health.store_succeeded();
        if had_outage {
            backlog.retry_now(false);
        }
        tracing::debug!(%key, bytes = body.len(), jobs = upload.jobs, payloads = upload.payloads, failures = attempts.failures, "stored");
        Ok(stored)
    }

    /// Records a failed upload and defers the segment.
    async fn upload_failed(&self, mut segment: SealedSegment, error: &StoreError) -> UploadOutcome {
        let PipelineContext { metrics, health, .. } = &self.context;
        metrics.retry(error.class);
        let attempts = &mut segment.attempts;
        // If the store took other objects between two failures of this segment, the store is not what fails.
        attempts.is_own_failure = attempts.upload_failures > 0 && metrics.objects.get() != attempts.objects_seen;
        attempts.upload_failures = attempts.upload_failures.saturating_add(1);
        attempts.objects_seen = metrics.objects.get();
        let is_own_failure = attempts.is_own_failure;
        let outcome = if is_own_failure {
            health.segments.failed(segment.status.id(), Side::Store, error);
            UploadOutcome::SegmentFailed
        } else {
            health.store_failed(error);
            UploadOutcome::StoreFailed
        };
        self.defer(segment, error, is_own_failure).await;
        outcome
    }

    /// Gives a segment that failed back to the backlog, to be retried after a delay; or to the broker, if the reason is the
    /// segment's own, if this process does not reach the store, or if the server drains.
    async fn defer(&self, mut segment: SealedSegment, error: &(dyn std::error::Error + Sync), is_own_failure: bool) {
        let PipelineContext { shutdown, backlog, spool, health, .. } = &self.context;
        let was_draining = shutdown.is_draining();
        let delay = retry_delay(segment.attempts.failures, was_draining);
        segment.attempts.failures = segment.attempts.failures.saturating_add(1);
        let (id, attempt) = (segment.status.id(), segment.attempts.failures);
        tracing::debug!(segment = %id, attempt, ?delay, %error, "segment deferred; the upload will be retried");
        let is_for_others = if is_own_failure { attempt >= OWN_FAILURES_MAX } else { health.is_cut_off() };
        if was_draining || is_for_others {
            match spool.give_back(segment, delay).await {
                None => {
                    // It is the concern of the process that gets it next.
                    for side in [Side::Spool, Side::Store] {
                        health.segments.succeeded(id, side);
                    }
                    return backlog.done();
                }
                Some(local) => segment = local,
            }
        }
        backlog.defer(segment, delay);
        if shutdown.is_draining() && !was_draining {
            backlog.retry_now(true);
        }
    }

    /// Waits after a failure of the store, without holding a segment. Returns the number of failures to count from.
    async fn pause(&self, failures: u32) -> u32 {
        let PipelineContext { health, shutdown, .. } = &self.context;
        tokio::select! {
            () = sleep(retry_delay(failures, shutdown.is_draining())) => failures.saturating_add(1),
            () = health.store_recovered() => 0,
            // While draining the delays are short.
            () = shutdown.draining(), if !shutdown.is_draining() => failures.saturating_add(1),
        }
    }
}

/// The delay before the next attempt after so many failures.
pub(crate) fn retry_delay(failures: u32, is_draining: bool) -> Duration {
    let delay = backoff::delay(failures, fastrand::f64());
    if is_draining { delay.min(DELAY_MAX_DRAINING) } else { delay }
}
