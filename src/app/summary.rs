//! What a server logs when it has stopped.

use crate::context::PipelineContext;
use crate::metrics::{Balance, Count};
use crate::spool::Unadopted;

/// The state of the accepted jobs when the server has stopped.
#[derive(Debug)]
pub struct ExitSummary {
    /// The ledger at the end.
    pub balance: Balance,
    /// Whether waiting jobs survive the process.
    pub is_durable: bool,
    /// Whether they are in the broker.
    pub has_broker: bool,
    /// The state of the spool.
    pub spool: SpoolEnd,
    /// Why the server stopped, unless it was asked to.
    pub failure: Option<anyhow::Error>,
}

/// The state of the spool at the end, beyond the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolEnd {
    /// Segments that are not stored.
    pub segments: usize,
    /// Folders of exited processes that were not adopted.
    pub folders: usize,
    /// Segments that were damaged on disk.
    pub damaged: u64,
    /// Segments whose end could not be read, so jobs may be lost.
    pub possibly_lost: u64,
    /// Jobs in these ends, where their number is known.
    pub jobs_possibly_lost: u64,
}

impl ExitSummary {
    /// Logs the summary. Returns whether no job is lost or possibly lost and the server did not fail.
    pub fn report(&self) -> bool {
        let Self { balance, is_durable, has_broker, spool, failure } = self;
        if let Some(failure) = failure {
            tracing::error!("{failure:#}");
        }
        let Count { jobs, payloads } = balance.waiting;
        let is_lost = jobs > 0 && !is_durable;
        let is_damaged = balance.dead.jobs > 0 || spool.possibly_lost > 0;
        if is_lost {
            tracing::error!(jobs, payloads, "accepted jobs were not stored and are lost");
        } else if jobs > 0 && *has_broker {
            tracing::info!(jobs, payloads, "accepted jobs are in the broker, and the workers of the fleet store them");
        } else if jobs > 0 {
            tracing::warn!(
                jobs,
                payloads,
                "accepted jobs are not stored yet; they are kept in the spool for the next start"
            );
        } else if spool.segments > 0 || spool.folders > 0 {
            let SpoolEnd { segments, folders, .. } = spool;
            tracing::warn!(
                segments,
                folders,
                "segments of earlier processes are not stored yet; they are kept in the spool for the next start"
            );
        } else if spool.damaged > 0 && !is_damaged {
            let segments = spool.damaged;
            tracing::warn!(
                segments,
                "segments were damaged on disk, but no job in them was lost; see dead/ in SPOOL_DIR"
            );
        } else if !is_damaged {
            let Count { jobs, payloads } = balance.stored;
            tracing::info!(jobs, payloads, "all accepted jobs are stored");
        }
        if balance.dead.jobs > 0 {
            let Count { jobs, payloads } = balance.dead;
            tracing::error!(jobs, payloads, "accepted jobs were damaged on disk and are lost");
        }
        if spool.possibly_lost > 0 {
            let SpoolEnd { possibly_lost: segments, jobs_possibly_lost: known_jobs, .. } = spool;
            tracing::error!(
                segments,
                known_jobs,
                "the ends of segments could not be read, so jobs are possibly lost; see dead/ in SPOOL_DIR"
            );
        }
        !is_lost && !is_damaged && failure.is_none()
    }
}

impl SpoolEnd {
    pub(super) fn of(context: &PipelineContext) -> Self {
        let Unadopted { waiting, failing, .. } = context.spool.unadopted();
        Self {
            segments: context.spool.segments().spooled(),
            folders: waiting + failing,
            damaged: context.metrics.segments_damaged.get(),
            possibly_lost: context.metrics.segments_possibly_lost.get(),
            jobs_possibly_lost: context.metrics.jobs_possibly_lost.get(),
        }
    }
}
