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
use super::{Broker, BrokerError, END_TTL, End, INBOX, Inbox, RESPONSE_TIMEOUT, SegmentMessage};
use crate::segment::{Committed, SegmentName};

/// How long one request for work waits. A request that was lost with its connection delays the next segment by as much.
const PULL_TIME: Duration = Duration::from_secs(5);
/// How often a worker reports that it still has a segment.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(ACK_WAIT.as_secs() / 3);
const YES: &[u8] = b"yes";
const NO: &[u8] = b"no";

/// A sealed segment that this process uploads. It goes to another worker if this one does not report on it.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub(crate) name: SegmentName,
    pub(crate) committed: Committed,
    /// Whether a worker has had the segment before, and may have stored it.
    pub(crate) is_repeated: bool,
    inbox: Option<Inbox>,
    message: Message,
}

/// A message to an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// A segment of the process has left the broker.
    Settled(Settled),
    /// A question: whether the process still appends to this segment, or will add it to the work queue.
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
pub(crate) struct WorkQueue(Option<PullConsumer>);

impl Broker {
    /// Waits a short time for a segment to upload.
    pub(crate) async fn next_work(&self, queue: &mut WorkQueue) -> Result<Option<WorkItem>, BrokerError> {
        let workers = match &mut queue.0 {
            Some(workers) => workers,
            None => {
                let stream = self.subjects.work_stream();
                let found = self.jetstream.get_consumer_from_stream(WORKERS, stream).await;
                queue.0.insert(found.map_err(BrokerError::unavailable)?)
            }
        };
        let pulled = async {
            let mut messages = workers.fetch().max_messages(1).expires(PULL_TIME).messages().await;
            let messages = messages.as_mut().map_err(|error| BrokerError::Unavailable(error.to_string()))?;
            messages.next().await.transpose().map_err(|error| BrokerError::Unavailable(error.to_string()))
        };
        let pulled = pulled.await;
        if pulled.is_err() {
            queue.0 = None;
        }
        let Some(message) = pulled? else { return Ok(None) };
        let name = std::str::from_utf8(&message.payload).ok().and_then(SegmentName::parse);
        let Some((name, committed)) = name.and_then(|name| Some((name, name.committed?))) else {
            tracing::error!(subject = %message.subject, "a message in the work queue does not name a segment; it is dropped");
            let _: Result<(), _> = message.ack_with(AckKind::Term).await;
            return Ok(None);
        };
        let is_repeated = message.info().is_ok_and(|info| info.delivered > 1);
        let header = message.headers.as_ref().and_then(|headers| headers.get(INBOX));
        let inbox = header.and_then(|inbox| self.subjects.inbox(inbox.as_str()));
        Ok(Some(WorkItem { name, committed, is_repeated, inbox, message }))
    }

    /// Tells the process that took the jobs of a segment what became of them. Returns whether it counts them.
    pub(crate) async fn tell_owner(&self, item: &WorkItem, settled: Settled) -> bool {
        let Some(inbox) = &item.inbox else { return false };
        // A notice that is lost costs time: the owner looks for the object in the store, which is the truth.
        *inbox == self.inbox || self.ask(inbox, &Notice::Settled(settled)).await.unwrap_or(true)
    }

    /// The segment is stored, or nothing of it was valid: removes it.
    pub(crate) async fn settled(&self, item: &WorkItem) -> Result<(), BrokerError> {
        let SegmentName { id, compression, .. } = item.name;
        let subject = self.subjects.segment(id, compression);
        let end = SegmentMessage {
            id: format!("{id}.stored"),
            committed: item.committed,
            end: Some(End::Stored),
            ttl: Some(END_TTL),
            ..SegmentMessage::default()
        };
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
        let _: Result<(), _> = self.client.publish(reply, Bytes::from_static(if is_owner { YES } else { NO })).await;
    }

    /// Asks a process whether it still has a segment. None if it does not respond.
    pub(crate) async fn ask_owner(&self, inbox: &Inbox, name: SegmentName) -> Option<bool> {
        self.ask(inbox, &Notice::Owns(name.id.to_string())).await
    }

    /// Whether a process responds with yes. None if it does not respond.
    async fn ask(&self, inbox: &Inbox, notice: &Notice) -> Option<bool> {
        let question = serde_json::to_vec(notice).ok()?;
        let request = Request::new().payload(Bytes::from(question)).timeout(Some(RESPONSE_TIMEOUT));
        match self.client.send_request(inbox.as_str().to_owned(), request).await {
            Ok(response) => Some(response.payload == YES),
            // The process has exited, or is cut off.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Some(false),
            Err(_) => None,
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
