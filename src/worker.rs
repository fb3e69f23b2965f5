//! Workers: each takes a sealed segment, puts it into the store, and does not let go of it before the store has said yes.
//!
//! The workers are the one owner of retries, and they retry for as long as the process lives, whatever the error. A
//! segment that fails goes back to the backlog with a time before which it is not taken again (exponential backoff, full
//! jitter), and its memory is released: no worker is held by one segment. After a failure of the store the worker itself
//! pauses too. Every attempt needs a place under the [`UploadLimit`], which a throttling store lowers.

pub(crate) mod backoff;
mod limit;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub use limit::UploadLimit;

use crate::health::Side;
use crate::pipeline::PipelineContext;
use crate::segment::file::{PossiblyLost, Salvage};
use crate::spool::{LoadError, Loaded, SealedSegment};
use crate::store::{ErrorClass, ObjectInfo, Store, StoreError, StoredObject};

/// While the server stops, nobody waits longer before the next attempt.
const WAIT_MAX_DRAINING: Duration = Duration::from_millis(500);

/// How an attempt went.
enum Went {
    Done,
    /// For reasons of its own.
    SegmentFailed,
    /// As any other would have: the worker does not try the next one at once.
    StoreFailed,
}

/// What the workers share.
pub struct Uploader {
    /// Where segments come from, and what they report to.
    pub context: PipelineContext,
    /// Where they go.
    pub store: Arc<Store>,
    /// How many attempts may run at once.
    pub limit: UploadLimit,
    /// Put before every key.
    pub prefix: String,
}

impl Uploader {
    /// One worker: uploads segment after segment, until the backlog is closed and empty.
    pub async fn run(&self) {
        // In a row, with no upload that succeeded in between.
        let mut failures = 0;
        while let Some(segment) = self.context.backlog.next().await {
            self.context.metrics.busy_workers.inc();
            let went = self.handle(segment).await;
            self.context.metrics.busy_workers.dec();
            failures = match went {
                Went::Done => 0,
                Went::SegmentFailed => failures,
                Went::StoreFailed => self.pause(failures).await,
            };
        }
    }

    /// Tries to upload a segment, once. One that fails goes back to the backlog.
    async fn handle(&self, mut segment: SealedSegment) -> Went {
        let id = segment.status.id();
        let mut loaded = match self.load(&mut segment).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.context.health.segments.failed(id, Side::Spool, &error);
                self.context.metrics.retry(ErrorClass::Transient);
                self.defer(segment, &error);
                return Went::SegmentFailed;
            }
        };
        self.context.health.segments.passed(id, Side::Spool);
        let mut salvage = self.book(&segment, std::mem::take(&mut loaded.salvage));
        if segment.attempts.booked.is_none() {
            self.context.metrics.repack_saved_bytes.inc_by(loaded.saved as u64);
        }
        segment.booked(&salvage);
        let uploaded = self.upload(&mut segment, &loaded.body, &salvage).await;
        let is_gone = loaded.is_gone();
        loaded.release();
        match uploaded {
            Ok(there) => self.settle(&mut salvage, there),
            Err(error) => return self.upload_failed(segment, &error),
        }
        self.context.health.segments.passed(id, Side::Store);
        self.report_damage(&segment, &salvage);
        let metrics = &self.context.metrics;
        metrics.ledger.stored(salvage.jobs, salvage.payloads);
        metrics.ledger.dead(salvage.dead_jobs(), salvage.dead_payloads);
        if let Err(error) = self.context.spool.stored(segment, &salvage, is_gone).await {
            tracing::warn!(segment = %id, %error, "a stored segment cannot be removed from the spool");
        }
        self.context.backlog.done();
        Went::Done
    }

    /// Reads the segment. A file that is gone is not coming back.
    async fn load(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        loop {
            match self.context.spool.load(segment).await {
                Err(error @ LoadError::Unreadable { is_missing: true, .. })
                    if self.context.spool.is_gone(segment).await =>
                {
                    tracing::error!(segment = %segment.status.id(), %error, "a segment is gone from the spool");
                    return Ok(Loaded::gone());
                }
                // Once for a segment: it is not packed the next time.
                Err(error @ LoadError::Packing) => {
                    tracing::error!(segment = %segment.status.id(), "{error}");
                }
                other => return other,
            }
        }
    }

    /// Where the store has more of a segment than its file has by now, from an upload that a process did not live to hear of,
    /// what the store has is what counts.
    fn settle(&self, salvage: &mut Salvage, there: Option<StoredObject>) {
        let Some(there) = there else { return };
        let (jobs, payloads) = (salvage.jobs + salvage.dead_jobs(), salvage.payloads + salvage.dead_payloads);
        let Some(stored) = there.payloads.filter(|stored| *stored > salvage.payloads) else { return };
        match there.jobs {
            Some(there_jobs) if there_jobs >= salvage.jobs && there.unsure.is_empty() => {
                // A range without an end says that jobs are possibly lost.
                let (open, dead): (Vec<_>, Vec<_>) = there.dead.into_iter().partition(|places| places.end == u32::MAX);
                let places = open.first().map(|places| places.start).or(there.total_jobs);
                salvage.jobs = there_jobs;
                salvage.dead = dead;
                salvage.total_jobs = salvage.total_jobs.max(places.unwrap_or_default());
                salvage.possibly_lost = open.first().map(|places| PossiblyLost::unknown(places.start));
            }
            // All that there ever was, since nothing else has this key.
            None if stored >= payloads => {
                salvage.jobs = jobs;
                salvage.dead.clear();
                salvage.possibly_lost = None;
            }
            _ => return,
        }
        salvage.payloads = stored;
        salvage.dead_payloads = payloads.saturating_sub(stored);
        if salvage.dead.is_empty() {
            (salvage.headless, salvage.unreadable) = (false, 0);
        }
        let (all_jobs, all_payloads) = (salvage.jobs + salvage.dead_jobs(), salvage.payloads + salvage.dead_payloads);
        self.context.metrics.ledger.accepted(all_jobs.saturating_sub(jobs), all_payloads.saturating_sub(payloads));
    }

    /// Enters in the ledger what a dead process had accepted, and in `salvage` what is missing of what was committed.
    fn book(&self, segment: &SealedSegment, mut salvage: Salvage) -> Salvage {
        let metrics = &self.context.metrics;
        let id = segment.status.id();
        let booked = segment.attempts.booked;
        match (segment.committed(), booked) {
            (Some((jobs, payloads)), _) => salvage.complete(jobs, payloads),
            (None, Some((jobs, payloads))) => salvage.compare_with_earlier_read(jobs, payloads),
            (None, None) => {}
        }
        if segment.known().is_none() {
            // A later read may find more than the first.
            let (jobs_before, payloads_before) =
                booked.map_or((0, 0), |(jobs, payloads)| (jobs.into(), payloads.into()));
            let (jobs, payloads) = (salvage.jobs + salvage.dead_jobs(), salvage.payloads + salvage.dead_payloads);
            metrics.ledger.accepted(jobs.saturating_sub(jobs_before), payloads.saturating_sub(payloads_before));
        }
        if booked.is_none() && salvage.torn > 0 {
            metrics.torn_bytes.inc_by(salvage.torn as u64);
            tracing::info!(segment = %id, bytes = salvage.torn, "cut an append that did not finish from the end of a segment: it was never acknowledged");
        }
        salvage
    }

    /// Counts and logs what of a segment is lost or may be, once it is known what the store has of it.
    fn report_damage(&self, segment: &SealedSegment, salvage: &Salvage) {
        let (metrics, id) = (&self.context.metrics, segment.status.id());
        if salvage.is_damaged() {
            metrics.segments_damaged.inc();
            let jobs = salvage.dead_jobs();
            tracing::error!(segment = %id, dead_jobs = jobs, dead_payloads = salvage.dead_payloads, "a segment was damaged on disk: it is stored as far as it can be read, and set aside");
        }
        if let Some(PossiblyLost { first: from, counts }) = salvage.possibly_lost {
            metrics.segments_possibly_lost.inc();
            if let Some((jobs, payloads)) = counts {
                metrics.jobs_possibly_lost.inc_by(u64::from(jobs));
                metrics.payloads_possibly_lost.inc_by(u64::from(payloads));
                tracing::error!(segment = %id, from, jobs, payloads, "the end of a segment that was never sealed cannot be read: its jobs are lost if they were acknowledged; the file is set aside");
            } else {
                tracing::error!(segment = %id, from, "the end of a segment that was never sealed cannot be read: jobs are lost if any were acknowledged there, and how many is unknown; the file is set aside");
            }
        }
    }

    /// One attempt; what the store had of the segment already, if that was kept.
    async fn upload(
        &self,
        segment: &mut SealedSegment,
        body: &Bytes,
        salvage: &Salvage,
    ) -> Result<Option<StoredObject>, StoreError> {
        let key = segment.status.key(&self.prefix);
        let may_be_there = segment.attempts.may_be_there;
        if salvage.jobs == 0 {
            // There is nothing to upload; an earlier upload may have been in time.
            let is_worth_a_look = may_be_there && salvage.is_suspect();
            return if is_worth_a_look { self.store.count(key).await } else { Ok(None) };
        }
        let (dead, is_damaged) = (salvage.lost_indexes(), salvage.is_suspect());
        let Salvage { jobs, payloads, .. } = salvage;
        let info = ObjectInfo {
            segment: segment.status.id(),
            jobs: *jobs,
            payloads: *payloads,
            dead,
            is_damaged,
            earlier_payloads: segment.attempts.put_payloads,
        };
        let metrics = &self.context.metrics;
        let place = self.limit.place().await;
        let began = Instant::now();
        // `Bytes` are shared and not copied: the segment keeps them whatever the attempt does with its own.
        let put = self.store.put(key, body.clone(), &info, may_be_there).await;
        metrics.upload_seconds.observe(began.elapsed().as_secs_f64());
        let there = match put {
            Ok(there) => {
                place.succeeded();
                there
            }
            Err(error) => {
                // A refusal says that nothing is there. Anything else says nothing: also a 503 may come after the object
                // was stored.
                if error.class != ErrorClass::Permanent {
                    segment.attempts.may_be_there = true;
                    let fewest = segment.attempts.put_payloads.map_or(*payloads, |before| before.min(*payloads));
                    segment.attempts.put_payloads = Some(fewest);
                }
                if error.class.asks_for_less() {
                    place.throttled();
                } else {
                    drop(place);
                }
                self.show_limit();
                return Err(error);
            }
        };
        self.show_limit();
        metrics.objects.inc();
        metrics.bytes_out.inc_by(body.len() as u64);
        let was_in_trouble = self.context.health.store_outage().is_some();
        self.context.health.store_succeeded();
        if was_in_trouble {
            self.context.backlog.retry_now(false);
        }
        let failures = segment.attempts.failures;
        tracing::debug!(%key, bytes = body.len(), jobs, payloads, failures, "stored");
        Ok(there)
    }

    /// Counts and shows a failed upload and gives the segment back.
    fn upload_failed(&self, mut segment: SealedSegment, error: &StoreError) -> Went {
        let PipelineContext { metrics, health, .. } = &self.context;
        metrics.retry(error.class);
        let attempts = &mut segment.attempts;
        // The store took others between two failures of this one: then it is not the store that fails.
        attempts.is_own_failure = attempts.upload_failures > 0 && metrics.objects.get() != attempts.objects_seen;
        attempts.upload_failures = attempts.upload_failures.saturating_add(1);
        attempts.objects_seen = metrics.objects.get();
        let went = if attempts.is_own_failure {
            health.segments.failed(segment.status.id(), Side::Store, error);
            Went::SegmentFailed
        } else {
            health.store_failed(error);
            Went::StoreFailed
        };
        self.defer(segment, error);
        went
    }

    /// Gives a segment that failed back to the backlog, for a later attempt.
    fn defer(&self, mut segment: SealedSegment, error: &(dyn std::error::Error + Sync)) {
        let shutdown = &self.context.shutdown;
        let was_draining = shutdown.is_draining();
        let wait = backoff(segment.attempts.failures, was_draining);
        segment.attempts.failures = segment.attempts.failures.saturating_add(1);
        let (id, attempt) = (segment.status.id(), segment.attempts.failures);
        tracing::debug!(segment = %id, attempt, ?wait, %error, "upload failed; will retry");
        self.context.backlog.defer(segment, wait);
        if shutdown.is_draining() && !was_draining {
            self.context.backlog.retry_now(true);
        }
    }

    /// Waits after a failure of the store, without holding a segment; says how many failures there were now.
    async fn pause(&self, failures: u32) -> u32 {
        let PipelineContext { health, shutdown, .. } = &self.context;
        tokio::select! {
            () = sleep(backoff(failures, shutdown.is_draining())) => failures.saturating_add(1),
            // Others have got through: so may this one.
            () = health.store_recovered() => 0,
            // There is no time to lose any more.
            () = shutdown.draining(), if !shutdown.is_draining() => failures.saturating_add(1),
        }
    }

    fn show_limit(&self) {
        self.context.metrics.upload_limit.set(i64::try_from(self.limit.now()).unwrap_or(i64::MAX));
    }
}

fn backoff(failures: u32, is_draining: bool) -> Duration {
    let wait = backoff::delay(failures, fastrand::f64());
    if is_draining { wait.min(WAIT_MAX_DRAINING) } else { wait }
}
