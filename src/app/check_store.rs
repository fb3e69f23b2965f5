//! The first contact with the store.

use std::sync::Arc;

use tokio::time::sleep;

use crate::context::PipelineContext;
use crate::store::Store;
use crate::worker::backoff;

/// Checks the store until it has responded once, so that `/ready` reports a missing bucket before the first upload.
pub(super) async fn check_store(store: Arc<Store>, context: PipelineContext) {
    let mut failures = 0;
    while context.metrics.objects.get() == 0 {
        match store.check_reachable().await {
            // An outage that a worker has reported ends with an upload.
            Ok(()) if failures == 0 => return,
            Ok(()) => {
                context.health.store_succeeded();
                return context.backlog.retry_now(false);
            }
            Err(error) => context.health.store_failed(&error),
        }
        sleep(backoff::delay(failures, fastrand::f64())).await;
        failures = failures.saturating_add(1);
    }
}
