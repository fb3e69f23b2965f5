//! Appends to a segment in the broker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Broker, BrokerError, SegmentMessage};
use crate::segment::{Committed, SegmentName};

/// The pause before an append is tried again, which doubles each time.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The longest time of an append, whatever `ACK_TIMEOUT` is. Far below the time for which the broker recognizes a duplicate and
/// keeps the end of a segment.
const APPEND_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Bytes of a message besides its payload.
const HEADERS_MAX_BYTES: usize = 1024;
/// The largest payload of a message, whatever the server allows: larger ones delay those of others.
const PART_MAX_BYTES: usize = 4 << 20;

/// The writer of one segment.
#[derive(Debug)]
pub(crate) struct Appender {
    broker: Arc<Broker>,
    name: SegmentName,
    subject: String,
    /// The sequence of its last message; 0 without one.
    sequence: u64,
    committed: Committed,
    /// Bytes that were published, those of a torn end included.
    published: usize,
    /// Whether the broker may have stored an append that this writer does not count.
    is_unsure: bool,
}

/// An append failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// The segment has ended without these bytes, and they will never be in it.
    Superseded,
    /// The stream is full. The bytes are not in the segment.
    Full,
    /// The bytes are not in the segment.
    Failed(String),
    /// It is not known whether the bytes are in the segment.
    Unknown(String),
}

impl Appender {
    pub(crate) fn new(broker: Arc<Broker>, name: SegmentName) -> Self {
        let subject = broker.subjects.segment(name.id, name.compression);
        Self { broker, name, subject, sequence: 0, committed: Committed::default(), published: 0, is_unsure: false }
    }

    /// The bytes of the file.
    pub(crate) fn len(&self) -> usize {
        self.committed.bytes
    }

    /// Whether another process may have ended the segment, an append with an unknown outcome may still arrive, or the broker has
    /// a part of a frame that no whole one precedes.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure || (self.published > 0 && self.committed.bytes == 0)
    }

    /// Appends a frame, after which the segment holds `jobs` and `payloads`. Not cancel safe.
    pub(crate) async fn append(&mut self, frame: Vec<u8>, jobs: u32, payloads: u32) -> Result<(), AppendError> {
        let deadline = Instant::now() + self.broker.settings.append_timeout.min(APPEND_TIMEOUT_MAX);
        let after = Committed { jobs, payloads, bytes: self.committed.bytes + frame.len() };
        let part_max = self.broker.max_payload().saturating_sub(HEADERS_MAX_BYTES).clamp(1, PART_MAX_BYTES);
        let mut rest = Bytes::from(frame);
        let appended = async {
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(part_max));
                let committed = if rest.is_empty() { after } else { self.committed };
                self.publish(part, committed, deadline).await?;
            }
            Ok(())
        };
        let appended = appended.await;
        match &appended {
            Ok(()) => {
                self.committed = after;
                self.broker.append_ended(None);
            }
            Err(AppendError::Superseded) => self.is_unsure = true,
            Err(AppendError::Unknown(reason)) => {
                self.is_unsure = true;
                self.broker.append_ended(Some(reason));
            }
            Err(AppendError::Failed(reason)) => self.broker.append_ended(Some(reason)),
            Err(AppendError::Full) => {}
        }
        appended
    }

    async fn publish(&mut self, part: Bytes, committed: Committed, deadline: Instant) -> Result<(), AppendError> {
        let id = format!("{}.{}", self.name.id, self.published);
        let len = part.len();
        let mut is_unknown = false;
        let mut pause = PAUSE;
        loop {
            let message = SegmentMessage {
                payload: part.clone(),
                id: id.clone(),
                committed,
                inbox: Some(&self.broker.inbox),
                follows: Some(self.sequence),
                ..SegmentMessage::default()
            };
            let result = if self.broker.connection.is_ready() {
                self.broker.publish(self.subject.clone(), message.build()).await
            } else {
                Err(BrokerError::Unavailable(self.broker.connection.reason()))
            };
            let error = match result {
                Ok(sequence) => {
                    (self.sequence, self.published) = (sequence, self.published + len);
                    return Ok(());
                }
                Err(BrokerError::Full) if !is_unknown => return Err(AppendError::Full),
                Err(BrokerError::Conflict) => match self.outcome(&id, committed).await {
                    Ok(true) => {
                        self.published += len;
                        return Ok(());
                    }
                    Ok(false) => return Err(AppendError::Superseded),
                    // Without an earlier attempt, a conflict proves that the bytes are not in the segment.
                    Err(_) if !is_unknown => return Err(AppendError::Superseded),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            is_unknown |= matches!(error, BrokerError::Unknown(_));
            if Instant::now() + pause >= deadline {
                let error = error.to_string();
                return Err(if is_unknown { AppendError::Unknown(error) } else { AppendError::Failed(error) });
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.broker.connection.became_ready() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the bytes with this id are in the segment, after the broker has rejected them because the last message is not
    /// the expected one.
    async fn outcome(&mut self, id: &str, committed: Committed) -> Result<bool, BrokerError> {
        let tail = self.broker.tail(&self.subject).await?;
        let tail = tail.ok_or_else(|| BrokerError::Unknown("the segment was purged".to_owned()))?;
        if tail.message_id == id {
            self.sequence = tail.sequence;
            return Ok(true);
        }
        if tail.end.is_none() {
            return Err(BrokerError::Unknown("the last message of the segment is another one".to_owned()));
        }
        // No append can follow an end.
        self.is_unsure = true;
        Ok(committed.bytes > self.committed.bytes && tail.committed.bytes >= committed.bytes)
    }
}
