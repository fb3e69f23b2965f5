//! Workers: each takes a sealed segment, puts it into the store, and does not let go of it before the store has said yes.
//!
//! The worker is the one owner of retries, and it retries for as long as the process lives, whatever the error: it waits
//! with exponential backoff and full jitter, and every attempt needs a place under the [`UploadLimit`], which a throttling
//! store lowers.

pub(crate) mod backoff;
mod limit;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub use limit::UploadLimit;

use crate::dispatcher::Outlet;
use crate::segment::file::{PossiblyLost, Salvage};
use crate::spool::{Loaded, SealedSegment};
use crate::store::{ErrorClass, ObjectInfo, Store, StoreError};

/// While the server stops, nobody waits longer before the next attempt.
const WAIT_MAX_DRAINING: Duration = Duration::from_millis(500);

/// What the workers share.
pub struct Uploads {
    /// Where segments come from, and what they report to.
    pub outlet: Outlet,
    /// Where they go.
    pub store: Arc<Store>,
    /// How many attempts may run at once.
    pub limit: UploadLimit,
    /// Put before every key.
    pub prefix: String,
}

impl Uploads {
    /// One worker: uploads segment after segment, until the backlog is closed and empty.
    pub async fn work(&self) {
        while let Some(segment) = self.outlet.backlog.next().await {
            self.outlet.metrics.busy_workers.inc();
            self.handle(segment).await;
            self.outlet.metrics.busy_workers.dec();
        }
    }

    async fn handle(&self, mut segment: SealedSegment) {
        let loaded = self.load(&mut segment).await;
        self.outlet.metrics.repack_saved_bytes.inc_by(loaded.saved as u64);
        let salvage = self.book(&segment, loaded.salvage.clone());
        if salvage.jobs > 0 && !self.was_stored_whole(&segment, &salvage).await {
            self.upload(&segment, &loaded.body, &salvage).await;
        }
        let is_gone = loaded.is_gone();
        loaded.release();
        let metrics = &self.outlet.metrics;
        metrics.ledger.stored(salvage.jobs, salvage.payloads);
        metrics.ledger.dead(salvage.dead_jobs(), salvage.dead_payloads);
        let id = segment.status.id();
        if let Err(error) = self.outlet.spool.stored(segment, &salvage, is_gone).await {
            tracing::warn!(segment = %id, %error, "a stored segment cannot be removed from the spool");
        }
    }

    /// Whether a dead process had stored a segment that was damaged since: a good object is not to be put over.
    async fn was_stored_whole(&self, segment: &SealedSegment, salvage: &Salvage) -> bool {
        let may_be_there = segment.known().is_none() && salvage.is_suspect();
        may_be_there && matches!(self.store.find(segment.status.key(&self.prefix)).await, Ok(Some(_)))
    }

    /// Reads the segment, for as long as that takes. A file that is gone is not coming back.
    async fn load(&self, segment: &mut SealedSegment) -> Loaded {
        let mut failures = 0;
        loop {
            match self.outlet.spool.load(segment).await {
                Ok(loaded) => return loaded,
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.outlet.spool.is_gone(segment).await => {
                    tracing::error!(segment = %segment.status.id(), %error, "a segment is gone from the spool");
                    return Loaded::gone();
                }
                Err(error) => {
                    let error =
                        StoreError { class: ErrorClass::Transient, message: format!("reading the spool: {error}") };
                    failures = self.wait(segment, &error, failures).await;
                }
            }
        }
    }

    /// Enters in the ledger what a dead process had accepted, and in `salvage` what is missing of what was committed.
    fn book(&self, segment: &SealedSegment, mut salvage: Salvage) -> Salvage {
        let metrics = &self.outlet.metrics;
        let id = segment.status.id();
        if let Some((jobs, payloads)) = segment.committed() {
            salvage.complete(jobs, payloads);
        }
        if segment.known().is_none() {
            let (jobs, payloads) = (salvage.jobs + salvage.dead_jobs(), salvage.payloads + salvage.dead_payloads);
            metrics.ledger.accepted(jobs, payloads);
            metrics.torn_bytes.inc_by(salvage.torn as u64);
        }
        if salvage.torn > 0 {
            tracing::info!(segment = %id, bytes = salvage.torn, "cut an append that did not finish from the end of a segment: it was never acknowledged");
        }
        if salvage.is_damaged() {
            metrics.segments_damaged.inc();
            let jobs = salvage.dead_jobs();
            tracing::error!(segment = %id, dead_jobs = jobs, dead_payloads = salvage.dead_payloads, "a segment was damaged on disk: it is stored as far as it can be read, and set aside");
        }
        if let Some(PossiblyLost { from, counts }) = salvage.possibly_lost {
            metrics.segments_possibly_lost.inc();
            if let Some((jobs, payloads)) = counts {
                metrics.jobs_possibly_lost.inc_by(u64::from(jobs));
                metrics.payloads_possibly_lost.inc_by(u64::from(payloads));
                tracing::error!(segment = %id, from, jobs, payloads, "the end of a segment that was never sealed cannot be read: its jobs are lost if they were acknowledged; the file is set aside");
            } else {
                tracing::error!(segment = %id, from, "the end of a segment that was never sealed cannot be read: jobs are lost if any were acknowledged there, and how many is unknown; the file is set aside");
            }
        }
        salvage
    }

    async fn upload(&self, segment: &SealedSegment, body: &Bytes, salvage: &Salvage) {
        let key = segment.status.key(&self.prefix);
        let Salvage { jobs, payloads, .. } = salvage;
        let dead = salvage.lost_places();
        let info = ObjectInfo { segment: segment.status.id(), jobs: *jobs, payloads: *payloads, dead };
        let metrics = &self.outlet.metrics;
        let mut failures = 0;
        let mut may_be_there = segment.known().is_none();
        loop {
            let place = self.limit.place().await;
            let began = Instant::now();
            // `Bytes` are shared and not copied: the segment keeps them whatever the attempt does with its own.
            let put = self.store.put(key, body.clone(), &info, may_be_there).await;
            metrics.upload_seconds.observe(began.elapsed().as_secs_f64());
            match put {
                Ok(()) => {
                    place.succeeded();
                    break;
                }
                Err(error) => {
                    // An answer that says no says that nothing is there; anything else says nothing.
                    may_be_there |= matches!(error.class, ErrorClass::Transient | ErrorClass::TimedOut);
                    if error.class.asks_for_less() {
                        place.throttled();
                    } else {
                        drop(place);
                    }
                    self.show_limit();
                    failures = self.wait(segment, &error, failures).await;
                }
            }
        }
        self.show_limit();
        metrics.objects.inc();
        metrics.bytes_out.inc_by(body.len() as u64);
        self.outlet.health.store_answered();
        tracing::debug!(%key, bytes = body.len(), jobs, payloads, failures, "stored");
    }

    /// Counts and shows a failure and waits; says how many there were now.
    async fn wait(&self, segment: &SealedSegment, error: &StoreError, failures: u32) -> u32 {
        self.outlet.metrics.retry(error.class);
        self.outlet.health.store_failed(error);
        let mut wait = backoff::delay(failures, fastrand::f64());
        if self.outlet.health.is_draining() {
            wait = wait.min(WAIT_MAX_DRAINING);
        }
        let attempt = failures.saturating_add(1);
        tracing::warn!(segment = %segment.status.id(), attempt, ?wait, class = ?error.class, %error, "upload failed, will retry");
        tokio::select! {
            () = sleep(wait) => {}
            // Others have got through: so may this one.
            () = self.outlet.health.store_is_back() => {}
            // There is no time to lose any more.
            () = self.outlet.health.draining(), if !self.outlet.health.is_draining() => {}
        }
        attempt
    }

    fn show_limit(&self) {
        self.outlet.metrics.upload_limit.set(i64::try_from(self.limit.now()).unwrap_or(i64::MAX));
    }
}
