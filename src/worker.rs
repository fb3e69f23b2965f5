//! Workers: each takes a sealed segment, puts it into the store, and does not let go of it before the store has said yes.
//!
//! The worker is the one owner of retries, and it retries for as long as the process lives, whatever the error: it waits
//! with exponential backoff and full jitter, and every attempt needs a place under the [`UploadLimit`], which a throttling
//! store lowers.

pub(crate) mod backoff;
mod limit;

use std::sync::Arc;

use tokio::time::{Instant, sleep};

pub use limit::UploadLimit;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::segment::Compression;
use crate::spool::{Backlog, SealedSegment};
use crate::store::{ErrorClass, ObjectInfo, Store};

/// What the workers share.
pub struct Uploads {
    /// Where segments come from.
    pub backlog: Arc<Backlog>,
    /// Where they go.
    pub store: Arc<Store>,
    /// How many attempts may run at once.
    pub limit: UploadLimit,
    /// Whether the store takes objects, for `/ready`.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Put before every key.
    pub prefix: String,
    /// Named in every key.
    pub compression: Compression,
}

impl Uploads {
    /// One worker: uploads segment after segment, until the backlog is closed and empty.
    pub async fn work(&self) {
        while let Some(segment) = self.backlog.next().await {
            self.metrics.busy_workers.inc();
            self.upload(&segment).await;
            self.metrics.ledger.stored(segment.jobs, segment.payloads);
            self.metrics.busy_workers.dec();
        }
    }

    async fn upload(&self, segment: &SealedSegment) {
        let key = segment.id.key(&self.prefix, self.compression);
        let info = ObjectInfo { segment: segment.id, jobs: segment.jobs, payloads: segment.payloads };
        let mut failures = 0;
        loop {
            let place = self.limit.place().await;
            let began = Instant::now();
            // `Bytes` are shared and not copied: the segment keeps them whatever the attempt does with its own.
            let put = self.store.put(&key, segment.body.clone(), info).await;
            self.metrics.upload_seconds.observe(began.elapsed().as_secs_f64());
            match put {
                Ok(()) => {
                    place.succeeded();
                    break;
                }
                Err(error) => {
                    if error.class == ErrorClass::Throttled {
                        place.throttled()
                    } else {
                        drop(place)
                    }
                    self.metrics.upload_limit.set(i64::try_from(self.limit.now()).unwrap_or(i64::MAX));
                    self.metrics.retry(error.class);
                    self.health.store_failed(&error);
                    let wait = backoff::delay(failures, fastrand::f64());
                    tracing::warn!(%key, attempt = failures + 1, ?wait, class = ?error.class, %error, "upload failed, will retry");
                    failures = failures.saturating_add(1);
                    sleep(wait).await;
                }
            }
        }
        self.metrics.upload_limit.set(i64::try_from(self.limit.now()).unwrap_or(i64::MAX));
        self.metrics.objects.inc();
        self.metrics.bytes_out.inc_by(segment.body.len() as u64);
        self.health.store_answered();
        tracing::debug!(%key, bytes = segment.body.len(), jobs = segment.jobs, payloads = segment.payloads, failures, "stored");
    }
}
