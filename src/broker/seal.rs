//! Sealing segments, and the work queue of sealed ones.

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;

use super::{Broker, BrokerError, END_TTL, End, INBOX, Inbox, REPEATED, SegmentMessage, last_message};
use crate::segment::{Committed, SegmentId, SegmentName};

/// How often a segment may grow while it is being ended.
const ENDINGS_MAX: usize = 16;

impl Broker {
    /// Ends a segment, so that no append can follow. Returns what was committed to it, and its end.
    pub(crate) async fn end(&self, name: SegmentName) -> Result<(Committed, End, Option<Inbox>), BrokerError> {
        let subject = self.subjects.segment(name.id, name.compression);
        for _ in 0..ENDINGS_MAX {
            let tail = self.tail(&subject).await?;
            let (sequence, committed, inbox) = match tail {
                Some(tail) => match tail.end {
                    Some(end) => return Ok((tail.committed, end, tail.inbox)),
                    None => (tail.sequence, tail.committed, tail.inbox),
                },
                None => (0, Committed::default(), None),
            };
            let message = SegmentMessage {
                // Of this attempt: if its outcome is unknown, the next attempt finds the end.
                id: format!("{}.end.{sequence}", name.id),
                committed,
                inbox: inbox.as_ref(),
                follows: Some(sequence),
                end: Some(End::Sealed),
                // No worker ends a segment without jobs.
                ttl: (committed.jobs == 0).then_some(END_TTL),
                ..SegmentMessage::default()
            };
            match self.publish(subject.clone(), message.build()).await {
                Ok(_) => return Ok((committed, End::Sealed, inbox)),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(BrokerError::Conflict)
    }

    /// Adds a sealed segment to the work queue, unless it is there. `may_be_stored` if a worker may have had it before.
    pub(crate) async fn enqueue(
        &self,
        name: SegmentName,
        inbox: Option<&Inbox>,
        may_be_stored: bool,
    ) -> Result<(), BrokerError> {
        let mut message = PublishMessage::build().payload(Bytes::from(name.to_string()));
        if let Some(inbox) = inbox {
            message = message.header(INBOX, inbox.as_str());
        }
        // Without an id, the broker takes it again although it has had a message of the segment a short time ago.
        message = if may_be_stored {
            message.header(REPEATED, "1")
        } else {
            message.header(NATS_MESSAGE_ID, name.id.to_string().as_str())
        };
        match self.publish(self.subjects.work(name.id), message).await {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
    /// Whether a segment is in the work queue.
    pub(crate) async fn is_queued(&self, id: SegmentId) -> Result<bool, BrokerError> {
        let queue = self.stream(&self.subjects.work_stream()).await?;
        Ok(last_message(&queue, &self.subjects.work(id)).await?.is_some())
    }
}
