//! The work queue: sealed segments that wait for a worker, and what became of them.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Request, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::streams::{ACK_WAIT, WORKERS};
use super::{Broker, BrokerError, END_TTL, End, INBOX, Inbox, REPEATED, RESPONSE_TIMEOUT, SegmentMessage};
use crate::segment::{Committed, SEGMENT_MAX_BYTES, SegmentName};

/// How long one request for work waits. A request that was lost with its connection delays the next segment by ten seconds.
const PULL_TIME: Duration = Duration::from_secs(5);
/// How often a worker reports that it still has a segment.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(ACK_WAIT.as_secs() / 3);
/// The delay before a message that does not name a segment of this version is delivered again.
const FOREIGN_DELAY: Duration = Duration::from_secs(60);
const YES: &[u8] = b"yes";
const NO: &[u8] = b"no";

/// A sealed segment that this process uploads. It goes to another worker if this one does not report on it.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub(crate) name: SegmentName,
    pub(crate) committed: Committed,
    /// Whether a worker may have stored the segment before.
    pub(crate) is_repeated: bool,
    /// How often it was delivered, this time included.
    pub(crate) deliveries: u32,
    inbox: Option<Inbox>,
    message: Message,
}

/// How a process responds to a notice.
enum Response {
    Yes,
    No,
    /// No process receives what is sent to the inbox.
    Gone,
    /// There is no response in time.
    Silent,
}

/// A message to an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// A segment of the process has left the broker.
    Settled(Settled),
    /// A question: whether the process appends to this segment, or has ended it and will add it to the work queue.
    Owns(String),
}

/// What became of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    /// Its id.
    pub(crate) segment: String,
    /// Jobs in the store. Without any, the segment is dead.
    pub(crate) jobs: u64,
    /// Their payloads.
    pub(crate) payloads: u64,
    /// The first and the last index, exclusive, of jobs that were damaged.
    pub(crate) dead: Vec<(u32, u32)>,
}

/// The work queue, for the task that takes segments from it.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    workers: Option<PullConsumer>,
    /// The first segment of the queue, if the consumer had passed it before.
    passed: Option<u64>,
}

impl Broker {
    /// Waits a short time for a segment to upload.
    pub(crate) async fn next_work(&self, queue: &mut WorkQueue) -> Result<Option<WorkItem>, BrokerError> {
        let workers = match &mut queue.workers {
            Some(workers) => workers,
            None => queue.workers.insert(self.workers().await.map_err(BrokerError::unavailable)?),
        };
        let pulled = async {
            let mut messages = workers.fetch().max_messages(1).expires(PULL_TIME).messages().await;
            let messages = messages.as_mut().map_err(|error| BrokerError::Unavailable(error.to_string()))?;
            messages.next().await.transpose().map_err(|error| BrokerError::Unavailable(error.to_string()))
        };
        let pulled = pulled.await;
        if pulled.is_err() {
            queue.workers = None;
        }
        let Some(message) = pulled? else {
            self.replace_consumer_if_ahead(queue).await?;
            return Ok(None);
        };
        let name = std::str::from_utf8(&message.payload).ok().and_then(SegmentName::parse);
        let Some((name, committed)) = name.and_then(|name| Some((name, name.committed?))) else {
            tracing::error!(
                subject = %message.subject,
                "a message in the work queue does not name a segment that this version knows; it is left to workers of another version"
            );
            let _: Result<(), _> = message.ack_with(AckKind::Nak(Some(FOREIGN_DELAY))).await;
            return Ok(None);
        };
        if committed.bytes > SEGMENT_MAX_BYTES {
            tracing::error!(
                subject = %message.subject,
                bytes = committed.bytes,
                "a message in the work queue names a segment that is larger than any that millpond makes; it is not uploaded: correct the message, or delete it"
            );
            let _: Result<(), _> = message.ack_with(AckKind::Nak(Some(FOREIGN_DELAY))).await;
            return Ok(None);
        }
        let delivered = message.info().map_or(1, |info| info.delivered);
        let deliveries = u32::try_from(delivered).unwrap_or(u32::MAX);
        let header = |name| message.headers.as_ref()?.get(name);
        let inbox = header(INBOX).and_then(|inbox| self.subjects.inbox(inbox.as_str()));
        let is_repeated = deliveries > 1 || header(REPEATED).is_some();
        Ok(Some(WorkItem { name, committed, is_repeated, deliveries, inbox, message }))
    }

    /// Deletes a consumer that has passed a segment which is still in the queue; the next pull creates it again. After a power cut, the
    /// servers can have more of the consumer than of the stream.
    async fn replace_consumer_if_ahead(&self, queue: &mut WorkQueue) -> Result<(), BrokerError> {
        if self.connection.state().waiting == 0 {
            return Ok(());
        }
        let consumer = self.workers().await.map_err(BrokerError::unavailable)?;
        let stream = self.subjects.work_stream();
        let found = self.jetstream.get_stream(&stream).await.map_err(BrokerError::unavailable)?;
        let state = &found.cached_info().state;
        let is_ahead = state.messages > 0 && consumer.cached_info().ack_floor.stream_sequence >= state.first_sequence;
        let passed = is_ahead.then_some(state.first_sequence);
        // Between its acknowledgement and its removal, each segment has been passed for a moment.
        if is_ahead && queue.passed == passed {
            tracing::error!(
                "the consumer of the work queue has passed segments that are not stored; it is created again"
            );
            let deleted = self.jetstream.delete_consumer_from_stream(WORKERS, stream).await;
            deleted.map_err(BrokerError::unavailable)?;
            *queue = WorkQueue::default();
        } else {
            queue.passed = passed;
        }
        Ok(())
    }

    /// Tells the process that took the jobs of a segment what became of them. Returns whether it counts them.
    pub(crate) async fn tell_owner(&self, item: &WorkItem, settled: Settled) -> bool {
        let Some(inbox) = &item.inbox else { return false };
        if *inbox == self.inbox {
            return true;
        }
        // A process that hangs does not delay each of its segments.
        let response = self.ask(inbox, &Notice::Settled(settled), self.silent.timeout(inbox)).await;
        self.silent.asked(inbox, !matches!(response, Response::Silent));
        // A notice that is lost costs time: the owner looks for the object in the store, which is the truth.
        matches!(response, Response::Yes | Response::Silent)
    }

    /// The valid part of the segment is stored: removes it, or keeps its frames to be examined if it is damaged.
    pub(crate) async fn settled(&self, item: &WorkItem, is_damaged: bool) -> Result<(), BrokerError> {
        let SegmentName { id, compression, .. } = item.name;
        let subject = self.subjects.segment(id, compression);
        let end = SegmentMessage {
            id: format!("{id}.stored"),
            committed: item.committed,
            end: Some(if is_damaged { End::Damaged } else { End::Stored }),
            ttl: (!is_damaged).then_some(END_TTL),
            ..SegmentMessage::default()
        };
        if is_damaged {
            self.publish(subject, end.build()).await?;
            return item.done().await;
        }
        let keep = match self.publish(subject, end.build()).await {
            Ok(_) => 1,
            // The frames make way for the ends of other segments.
            Err(BrokerError::Full) => 0,
            Err(error) => return Err(error),
        };
        self.remove(item, keep).await
    }

    /// Removes a stored segment, except for its last `keep` messages, and then from the work queue.
    pub(crate) async fn remove(&self, item: &WorkItem, keep: u64) -> Result<(), BrokerError> {
        self.purge(item.name, keep).await?;
        item.done().await
    }

    /// Removes the messages of a stored segment, except for the last `keep`.
    pub(crate) async fn purge(&self, name: SegmentName, keep: u64) -> Result<(), BrokerError> {
        let subject = self.subjects.segment(name.id, name.compression);
        let purged = self.segments().await?.purge().keep(keep).filter(subject).await;
        purged.map(drop).map_err(BrokerError::unavailable)
    }

    /// The notices to this process.
    pub(crate) async fn notices(&self) -> Result<Subscriber, BrokerError> {
        let notices = self.client.subscribe(self.inbox.as_str().to_owned()).await;
        notices.map_err(BrokerError::unavailable)
    }

    /// Responds to a notice that is a question.
    pub(crate) async fn respond(&self, reply: Subject, is_owner: bool) {
        // A question cannot make a process publish to any other subject.
        if !reply.starts_with(&self.subjects.replies()) {
            return;
        }
        let _: Result<(), _> = self.client.publish(reply, Bytes::from_static(if is_owner { YES } else { NO })).await;
    }

    /// Asks a process whether it still has a segment. None if it does not respond.
    pub(crate) async fn ask_owner(&self, inbox: &Inbox, name: SegmentName) -> Option<bool> {
        match self.ask(inbox, &Notice::Owns(name.id.to_string()), RESPONSE_TIMEOUT).await {
            Response::Yes => Some(true),
            Response::No => Some(false),
            // It may be connecting to another server.
            Response::Gone | Response::Silent => None,
        }
    }

    async fn ask(&self, inbox: &Inbox, notice: &Notice, time: Duration) -> Response {
        let Ok(question) = serde_json::to_vec(notice) else { return Response::Silent };
        let request = Request::new().payload(Bytes::from(question)).timeout(Some(time));
        match self.client.send_request(inbox.as_str().to_owned(), request).await {
            Ok(response) if response.payload == YES => Response::Yes,
            Ok(_) => Response::No,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Response::Gone,
            Err(_) => Response::Silent,
        }
    }
}

impl WorkItem {
    /// Removes the segment from the work queue.
    async fn done(&self) -> Result<(), BrokerError> {
        self.message.double_ack().await.map_err(|error| BrokerError::Unavailable(error.to_string()))
    }

    /// Keeps the segment from other workers.
    pub(crate) async fn progress(&self) {
        let _: Result<(), _> = self.message.ack_with(AckKind::Progress).await;
    }

    /// Gives the segment back. Another worker, or this one, gets it after `delay`.
    pub(crate) async fn give_back(&self, delay: Duration) {
        let _: Result<(), _> = self.message.ack_with(AckKind::Nak(Some(delay))).await;
    }
}
