//! The end of the process, in stages. Clones are the same shutdown.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bits of the stages that have begun.
const ANNOUNCED: u8 = 1;
const INTAKE_STOPPED: u8 = 2;
const DRAINING: u8 = 4;

/// Tells every part of the process to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// For the checks that every request makes: a token takes a lock.
    stages: Arc<AtomicU8>,
    intake_stopped: CancellationToken,
    draining: CancellationToken,
    drain_began: Arc<OnceLock<Instant>>,
    handed_over: CancellationToken,
    aborted: CancellationToken,
}

impl Shutdown {
    /// Tells load balancers that the shutdown follows: health checks fail, and requests are still accepted.
    pub fn announce(&self) {
        self.begin(ANNOUNCED);
    }

    /// Rejects new batches, and stores what was accepted. The process goes on, and a shutdown can follow.
    pub fn stop_intake(&self) {
        self.begin(INTAKE_STOPPED);
        self.intake_stopped.cancel();
    }

    /// Begins the shutdown: no new connections are accepted, each open one ends after its next response, and accepted jobs are
    /// stored.
    pub fn drain(&self) {
        self.drain_began.get_or_init(Instant::now);
        self.begin(DRAINING);
        self.intake_stopped.cancel();
        self.draining.cancel();
    }

    /// Begins the shutdown of a process whose listeners another process serves.
    pub fn hand_over(&self) {
        self.handed_over.cancel();
        self.drain();
    }

    /// Ends the shutdown: everything stops where it is. What is in the spool stays there.
    pub fn abort(&self) {
        self.aborted.cancel();
    }

    fn begin(&self, stage: u8) {
        self.stages.fetch_or(stage, Ordering::AcqRel);
    }

    fn has_begun(&self, stages: u8) -> bool {
        self.stages.load(Ordering::Acquire) & stages != 0
    }

    /// Whether health checks fail because the server drains, shuts down, or will.
    pub fn is_announced(&self) -> bool {
        self.has_begun(ANNOUNCED | INTAKE_STOPPED | DRAINING)
    }

    /// Whether new batches are rejected. In a shutdown, the process waits for the batches that still arrive.
    pub fn is_intake_stopped(&self) -> bool {
        self.has_begun(INTAKE_STOPPED)
    }

    /// Whether the intake is stopped or the shutdown has begun.
    pub fn is_stopping(&self) -> bool {
        self.has_begun(INTAKE_STOPPED | DRAINING)
    }

    /// Whether the shutdown has begun.
    pub fn is_draining(&self) -> bool {
        self.has_begun(DRAINING)
    }

    /// Waits until the intake is stopped or the shutdown begins.
    pub async fn intake_stopped(&self) {
        self.intake_stopped.cancelled().await;
    }

    /// Waits until the shutdown begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until the shutdown begins. Returns when it has.
    pub async fn drain_began(&self) -> Instant {
        self.draining().await;
        *self.drain_began.get_or_init(Instant::now)
    }

    /// Waits until everything stops.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// A token that the beginning of the shutdown cancels, for a part that only needs to stop.
    pub fn drain_token(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// A token that the handover of the listeners cancels.
    pub fn handed_over_token(&self) -> CancellationToken {
        self.handed_over.child_token()
    }

    /// A token that the end of the shutdown cancels.
    pub fn abort_token(&self) -> CancellationToken {
        self.aborted.child_token()
    }
}
