//! Takes segments from the work queue of the broker.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::fate::{Fate, Fates};
use crate::broker::{BrokerError, PROGRESS_INTERVAL, WorkItem, WorkQueue};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::spool::DELIVERIES_MIN;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The delay before a segment is delivered again that is neither in the broker nor in the store.
const MISSING_DELAY: Duration = Duration::from_secs(5);

static FAILED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Takes segments for the workers of this process, as many as they can hold.
pub(super) struct Puller {
    fates: Fates,
    context: PipelineContext,
    /// The segments that workers of this process hold.
    held: Mutex<Vec<Weak<WorkItem>>>,
}

impl Puller {
    pub(super) fn new(fates: Fates, context: PipelineContext) -> Self {
        Self { fates, context, held: Mutex::default() }
    }

    pub(super) async fn run(self) {
        tokio::join!(self.pull(), self.report());
    }

    async fn pull(&self) {
        let PipelineContext { backlog, spool, shutdown, health, .. } = &self.context;
        let mut queue = WorkQueue::default();
        loop {
            // One segment at a time shows whether the store can be reached again. The others are for other workers.
            let mut is_probe_due = false;
            while health.is_cut_off() && !is_probe_due {
                tokio::select! {
                    () = sleep(PAUSE.mul_f64(0.5 + fastrand::f64())) => {}
                    () = health.store_recovered() => {}
                    () = shutdown.draining() => return,
                }
                is_probe_due = self.held().is_empty();
            }
            let slot = tokio::select! {
                slot = backlog.slot() => slot,
                () = shutdown.draining() => return,
            };
            let pulled = tokio::select! {
                pulled = self.fates.broker.next_work(&mut queue) => pulled,
                // A segment that is on its way is delivered to another worker after a time.
                () = shutdown.draining() => return,
            };
            let item = match pulled {
                Ok(Some(item)) => Arc::new(item),
                Ok(None) => continue,
                Err(error) => {
                    self.failed(&error);
                    sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
                    continue;
                }
            };
            if item.is_repeated && self.is_settled(&item).await {
                continue;
            }
            self.held.lock().push(Arc::downgrade(&item));
            slot.fill(spool.take_work(item));
        }
    }

    /// Whether a segment needs no upload now, because the worker that had it before has stored it.
    async fn is_settled(&self, item: &WorkItem) -> bool {
        let fate = self.fates.of(item.name).await;
        let settled = match fate {
            Ok(Fate::Waiting | Fate::Unknown) => return false,
            // The worker may have died before it removed the frames. Only the end of the segment stays.
            Ok(Fate::Stored) => self.fates.broker.remove(item, 1).await,
            Ok(Fate::Missing) => {
                if item.deliveries >= DELIVERIES_MIN {
                    return false;
                }
                tracing::warn!(segment = %item.name.id, "a segment is neither in the broker nor in the store; will look again");
                item.give_back(MISSING_DELAY).await;
                Ok(())
            }
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        if let Err(error) = settled {
            self.failed(&error);
        }
        true
    }

    fn failed(&self, error: &BrokerError) {
        if let Some(suppressed) = FAILED.permit() {
            tracing::warn!(%error, suppressed, "cannot take segments from the work queue of the broker; will retry");
        }
    }

    /// Keeps the segments that this process holds from other workers.
    async fn report(&self) {
        loop {
            sleep(PROGRESS_INTERVAL).await;
            for item in self.held() {
                item.progress().await;
            }
        }
    }

    fn held(&self) -> Vec<Arc<WorkItem>> {
        let mut held = self.held.lock();
        held.retain(|item| item.strong_count() > 0);
        held.iter().filter_map(Weak::upgrade).collect()
    }
}
