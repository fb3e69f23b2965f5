//! The end of the process, in stages. Clones are the same shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

/// How far the end of the process has come. Each stage includes the ones before.
const INTAKE_STOPPED: u8 = 1;
const DRAINING: u8 = 2;

/// Tells every part of the process to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// For the checks that every request makes: a token takes a lock.
    stage: Arc<AtomicU8>,
    intake_stopped: CancellationToken,
    draining: CancellationToken,
    aborted: CancellationToken,
}

impl Shutdown {
    /// Rejects new batches, and stores what was accepted. The process goes on, and a shutdown can follow.
    pub fn stop_intake(&self) {
        self.stage.fetch_max(INTAKE_STOPPED, Ordering::AcqRel);
        self.intake_stopped.cancel();
    }

    /// Begins the shutdown: no new requests are accepted, and accepted jobs are stored.
    pub fn drain(&self) {
        self.stage.fetch_max(DRAINING, Ordering::AcqRel);
        self.intake_stopped.cancel();
        self.draining.cancel();
    }

    /// Ends the shutdown: everything stops where it is. What is in the spool stays there.
    pub fn abort(&self) {
        self.aborted.cancel();
    }

    /// Whether new batches are rejected.
    pub fn is_intake_stopped(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= INTAKE_STOPPED
    }

    /// Whether the shutdown has begun.
    pub fn is_draining(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= DRAINING
    }

    /// Waits until new batches are rejected.
    pub async fn intake_stopped(&self) {
        self.intake_stopped.cancelled().await;
    }

    /// Waits until the shutdown begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until everything stops.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// A token that the beginning of the shutdown cancels, for a part that only needs to stop.
    pub fn drain_token(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// A token that the end of the shutdown cancels.
    pub fn abort_token(&self) -> CancellationToken {
        self.aborted.child_token()
    }
}
