//! What became of the segments of this process: the notices of workers, and the store where no notice arrives.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use super::fate::{Fate, Fates, settle, settle_lost, stored_whole};
use crate::broker::Notice;
use crate::context::PipelineContext;

/// A segment of this age without a notice is looked up: the notice may be lost.
const SILENT_AFTER: Duration = Duration::from_secs(90);
/// How often, and how many at a time.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(10);
const LOOK_UP_MAX: usize = 16;
/// A segment that neither the broker nor the store has for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// The pause before the inbox is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Receives what became of the segments of this process.
pub(super) struct Answers {
    pub(super) fates: Fates,
    pub(super) context: PipelineContext,
}

impl Answers {
    pub(super) async fn run(self) {
        tokio::join!(self.receive(), self.look_up());
    }

    async fn receive(&self) {
        loop {
            if let Ok(mut notices) = self.fates.broker.notices().await {
                while let Some(message) = notices.next().await {
                    let spool = &self.context.spool;
                    let is_yes = match serde_json::from_slice(&message.payload) {
                        Ok(Notice::Settled(settled)) => {
                            let is_known = settled.segment.parse().is_ok_and(|id| spool.segments().find(id).is_some());
                            settle(&self.context, settled);
                            is_known
                        }
                        Ok(Notice::Owns(segment)) => segment.parse().is_ok_and(|id| spool.owns(id)),
                        Err(error) => {
                            tracing::debug!(%error, "a notice of the broker cannot be read");
                            continue;
                        }
                    };
                    if let Some(reply) = message.reply {
                        self.fates.broker.respond(reply, is_yes).await;
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Looks up the oldest segments without a notice.
    async fn look_up(&self) {
        let mut last = None;
        let mut has_settled = false;
        loop {
            // After an outage, the notices of many segments may be lost.
            if !has_settled {
                sleep(LOOK_UP_INTERVAL).await;
            }
            has_settled = false;
            // The oldest ones may wait for a long time, and are not looked up each time.
            for name in self.context.spool.unsettled(SILENT_AFTER, last, LOOK_UP_MAX) {
                let fate = self.fates.of(name).await;
                let missing_for = self.context.spool.looked_up(name.id, matches!(fate, Ok(Fate::Missing)));
                match fate {
                    Ok(Fate::Stored) => {
                        settle(&self.context, stored_whole(name, name.committed.unwrap_or_default()));
                        has_settled = true;
                    }
                    Ok(Fate::Missing) if missing_for >= LOST_AFTER => settle_lost(&self.context, name.id),
                    Ok(Fate::Missing | Fate::Waiting | Fate::Unknown) | Err(_) => {}
                }
                last = Some(name.id);
            }
        }
    }
}
