//! Folders of processes that share the spool and have exited.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task;
use tokio::time::sleep;

use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;

/// How often the spool is searched for folders of processes that have exited.
const ADOPT_INTERVAL: Duration = Duration::from_secs(2);
/// The same while some folders are not adopted yet.
const ADOPT_WAITING_INTERVAL: Duration = Duration::from_millis(200);
/// How often a failed search is logged.
const ADOPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Adopts the folders of processes that share the spool and have exited since.
pub(super) async fn adopt(context: PipelineContext) {
    let log = LogThrottle::new(ADOPT_LOG_INTERVAL);
    loop {
        let unadopted = context.spool.unadopted();
        context.metrics.folders_unadopted(unadopted.waiting, unadopted.failing);
        sleep(if unadopted.waiting > 0 { ADOPT_WAITING_INTERVAL } else { ADOPT_INTERVAL }).await;
        context.spool.retry_cleanups().await;
        if context.shutdown.is_draining() {
            // The replacement process adopts them.
            continue;
        }
        let spool = Arc::clone(&context.spool);
        let adopted = task::spawn_blocking(move || spool.adopt()).await;
        match adopted.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(segments) => {
                context.metrics.segments_adopted.inc_by(segments.len() as u64);
                context.backlog.add(segments);
            }
            Err(error) => {
                if let Some(suppressed) = log.permit() {
                    tracing::warn!(%error, suppressed, "cannot adopt the folders of exited processes");
                }
            }
        }
    }
}
