//! What became of the segments of this process: the notices of workers, and the store where no notice arrives.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use crate::broker::{Broker, End, Notice, Settled};
use crate::context::PipelineContext;
use crate::segment::SegmentName;
use crate::spool::{SegmentState, SettledSegment};
use crate::store::Store;

/// A segment of this age without a notice is looked up: the notice may be lost.
const SILENT_AFTER: Duration = Duration::from_secs(90);
/// How often, and how many at a time.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(10);
const LOOK_UP_MAX: usize = 16;
/// The pause before the inbox is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Receives what became of the segments of this process.
pub(super) struct Answers {
    pub(super) broker: Arc<Broker>,
    pub(super) context: PipelineContext,
    pub(super) store: Arc<Store>,
    pub(super) prefix: String,
}

impl Answers {
    pub(super) async fn run(self) {
        tokio::join!(self.receive(), self.look_up());
    }

    async fn receive(&self) {
        loop {
            if let Ok(mut notices) = self.broker.notices().await {
                while let Some(message) = notices.next().await {
                    match serde_json::from_slice(&message.payload) {
                        Ok(Notice::Settled(settled)) => self.settle(settled),
                        Ok(Notice::Owns(segment)) => {
                            let is_owner = segment.parse().is_ok_and(|id| self.context.spool.owns(id));
                            if let Some(reply) = message.reply {
                                self.broker.respond(reply, is_owner).await;
                            }
                        }
                        Err(error) => tracing::debug!(%error, "a notice of the broker cannot be read"),
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn settle(&self, Settled { segment, jobs, payloads, dead }: Settled) {
        let Ok(id) = segment.parse() else { return };
        let dead: Arc<_> = dead.into_iter().map(|(first, end)| first..end).collect();
        let state = if jobs == 0 { SegmentState::Dead } else { SegmentState::Stored { dead } };
        let Some(SettledSegment { committed, opened }) = self.context.spool.settle(id, state) else { return };
        let metrics = &self.context.metrics;
        metrics.stored_seconds.observe(Instant::now().saturating_duration_since(opened).as_secs_f64());
        metrics.ledger.stored(jobs, payloads);
        metrics.ledger.dead(
            u64::from(committed.jobs).saturating_sub(jobs),
            u64::from(committed.payloads).saturating_sub(payloads),
        );
    }

    /// Looks up the oldest segments without a notice.
    async fn look_up(&self) {
        loop {
            sleep(LOOK_UP_INTERVAL).await;
            for name in self.context.spool.unsettled(SILENT_AFTER, LOOK_UP_MAX) {
                if self.is_stored(name).await {
                    let committed = name.committed.unwrap_or_default();
                    self.settle(Settled {
                        segment: name.id.to_string(),
                        jobs: committed.jobs.into(),
                        payloads: committed.payloads.into(),
                        dead: Vec::new(),
                    });
                }
            }
        }
    }

    async fn is_stored(&self, name: SegmentName) -> bool {
        match self.broker.tail_of(name).await {
            Ok(Some(tail)) => tail.end == Some(End::Stored),
            Ok(None) => {
                let key = name.id.key(&self.prefix, name.compression);
                matches!(self.store.find(&key).await, Ok(Some(_)))
            }
            Err(_) => false,
        }
    }
}
