//! The shutdown of the process, in two stages. Clones are the same shutdown.

use tokio_util::sync::CancellationToken;

/// Tells every part of the process to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    aborted: CancellationToken,
}

impl Shutdown {
    /// Begins the first stage: no new requests are accepted, and accepted jobs are stored.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Begins the second stage: everything stops where it is. What is in the spool stays there.
    pub fn abort(&self) {
        self.aborted.cancel();
    }

    /// Whether the first stage has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the first stage begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until the second stage begins.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// A token that the first stage cancels, for a part that only needs to stop.
    pub fn drain_token(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// A token that the second stage cancels.
    pub fn abort_token(&self) -> CancellationToken {
        self.aborted.child_token()
    }
}
