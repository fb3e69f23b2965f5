//! The wait for the objects of a running server.

use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::readback::Reader;
use crate::timeline::Admin;

/// The interval of reading a running server's store.
const READ_EVERY: Duration = Duration::from_millis(500);

/// Reads the store of a running server until everything accepted is there, the server's metrics say that no job waits, or
/// the limit has passed. Returns whether the metrics say that no job waits.
pub(super) async fn settle(
    reader: &mut Reader,
    ledger: &mut Ledger,
    limit: Duration,
    admin: &Admin,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        // Before the store is read, so that the object of a job that no longer waits is read.
        let is_idle = admin.is_idle().await;
        if !is_idle && start.elapsed() >= limit {
            return Ok(false);
        }
        reader.read(ledger).await?;
        if is_idle || ledger.complete() {
            return Ok(is_idle);
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}
