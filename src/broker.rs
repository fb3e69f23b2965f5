//! NATS JetStream as the place of the spool: what is committed survives the machine.
//!
//! ```text
//! stream STREAM             the frames of segments      (limits, file, discard new, TTL of messages)
//!   STREAM.segment.ID.CODEC   the bytes of one segment's file, one message for each append
//! stream STREAM-work        segments to upload          (work queue, file, discard new, one message for each subject)
//!   STREAM.work.ID            the name of a sealed segment, with what was committed to it
//! STREAM.process.UUID       an inbox of each process that takes batches, without a stream
//! ```
//!
//! The messages of a segment's subject, concatenated, are its file (see [`crate::segment::file`]). A message is published with
//! the sequence that the last one of its subject must have, so each append follows the one before it or fails. Its header
//! `Millpond-Committed` says what the segment holds then, up to the last whole frame: a frame that exceeds the server's
//! `max_payload` takes several messages, and if the last one is missing, the others are a torn end.
//!
//! A segment is sealed by its name in the work queue. A process other than its writer, or a writer that does not know whether
//! its last append arrived, first publishes an end (`End`): no append can follow it, and what was committed is known. So a job
//! that was not committed to one segment can be committed to another one, and is not stored twice.
//!
//! The worker that has stored a segment publishes its end as `stored`, purges the subject up to it, and acknowledges the work.
//! That end expires after ten minutes, longer than any writer tries to append. If a part of the segment is damaged or lost, its end
//! is `damaged`, and its frames stay.

mod append;
mod check;
mod connection;
mod files;
mod list;
mod read;
mod reasons;
mod seal;
mod silent;
mod streams;
mod subjects;
mod work;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use append::{AppendError, Appender};
use async_nats::Client;
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID, NATS_MESSAGE_TTL};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
pub use check::BrokerCheck;
pub use connection::BrokerState;
use connection::Connection;
pub(crate) use connection::Room;
pub use files::{BrokerFileError, check_files};
pub(crate) use list::ListedSegment;
use parking_lot::Mutex;
pub(crate) use read::Replica;
use silent::Silent;
pub use streams::StreamsError;
pub(crate) use subjects::Inbox;
use subjects::Subjects;
use tokio::time::{Instant, timeout};
pub(crate) use work::{Notice, PROGRESS_INTERVAL, Settled, WorkItem, WorkQueue};

use crate::config::BrokerSettings;
use crate::segment::{Committed, SegmentName};

/// How long a server may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an append that failed counts as a failure of the broker, if no other one is made.
const APPEND_FAILURE_TIME: Duration = Duration::from_secs(15);
/// How long the end of a segment stays after its upload.
const END_TTL: Duration = Duration::from_secs(600);
/// What was committed to the segment, with the message.
const COMMITTED: &str = "Millpond-Committed";
/// The kind of an end.
const END: &str = "Millpond-End";
/// The process that took the jobs of the segment.
const INBOX: &str = "Millpond-Inbox";
/// In the work queue: a worker may have stored the segment before.
const REPEATED: &str = "Millpond-Repeated";

/// The last message of a segment that takes no more appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The segment is not stored yet.
    Sealed,
    /// The segment is stored.
    Stored,
    /// The valid part of the segment is stored, and its frames stay to be examined.
    Damaged,
}

/// The connection to the broker, and the streams there.
#[derive(Debug)]
pub struct Broker {
    client: Client,
    jetstream: jetstream::Context,
    connection: Arc<Connection>,
    settings: BrokerSettings,
    subjects: Subjects,
    inbox: Inbox,
    silent: Silent,
    /// Why the last append was not confirmed, and when; none if it was.
    append_failure: Mutex<Option<(Instant, String)>>,
}

/// The broker did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The stream has reached its limit.
    #[error("the stream of the broker is full: raise BROKER_MAX_BYTES, or add workers")]
    Full,
    /// The last message of the subject is another one than expected, or there is one already.
    #[error("another process has written to the subject")]
    Conflict,
    /// Nothing was stored.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
    /// The broker may have stored the message.
    #[error("the broker did not confirm: {0}")]
    Unknown(String),
    /// A message that this version does not understand.
    #[error("the message {sequence} of {subject} is not of this version of millpond")]
    Foreign { subject: String, sequence: u64 },
}

/// The last message of a segment's subject.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) sequence: u64,
    pub(crate) message_id: String,
    pub(crate) committed: Committed,
    pub(crate) inbox: Option<Inbox>,
    pub(crate) end: Option<End>,
}

impl End {
    const ALL: [Self; 3] = [Self::Sealed, Self::Stored, Self::Damaged];

    fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Stored => "stored",
            Self::Damaged => "damaged",
        }
    }
}

impl Broker {
    /// Connects in the background: a broker that is away is no error.
    ///
    /// # Errors
    /// `BROKER_CA` cannot be read.
    pub async fn connect(settings: &BrokerSettings) -> io::Result<Arc<Self>> {
        let connection = Arc::new(Connection::new(settings.servers.names(), settings.max_bytes));
        let client = connection::open(settings, &connection).await?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(RESPONSE_TIMEOUT)
            .ack_timeout(RESPONSE_TIMEOUT)
            .build(client.clone());
        let subjects = Subjects::new(&settings.stream);
        let inbox = subjects.new_inbox();
        let settings = settings.clone();
        Ok(Arc::new(Self {
            client,
            jetstream,
            connection,
            settings,
            subjects,
            inbox,
            silent: Silent::default(),
            append_failure: Mutex::default(),
        }))
    }

    /// What is known of the broker.
    pub fn state(&self) -> BrokerState {
        self.connection.state()
    }

    /// How it is reached, and its limits.
    pub fn settings(&self) -> &BrokerSettings {
        &self.settings
    }

    /// Whether the stream of segments is nearly full.
    pub fn is_full(&self) -> bool {
        self.connection.is_full()
    }

    /// The room for batches, which all processes of a fleet use.
    pub(crate) fn room(&self) -> Room {
        self.connection.room()
    }

    /// Why an append failed a short time ago, unless one has succeeded since. A server without a majority is connected, and
    /// confirms nothing.
    pub(crate) fn append_failure(&self) -> Option<String> {
        let failure = self.append_failure.lock();
        failure.as_ref().filter(|(at, _)| at.elapsed() < APPEND_FAILURE_TIME).map(|(_, reason)| reason.clone())
    }

    fn append_ended(&self, failure: Option<&str>) {
        *self.append_failure.lock() = failure.map(|reason| (Instant::now(), reason.to_owned()));
    }

    /// The inbox of this process.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Publishes a message to a stream. Returns its sequence.
    async fn publish(&self, subject: String, message: PublishMessage) -> Result<u64, BrokerError> {
        let acknowledged = async { self.jetstream.send_publish(subject, message).await?.await };
        match timeout(RESPONSE_TIMEOUT * 2, acknowledged).await {
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) => Err(BrokerError::of(&error)),
            Err(_) => Err(BrokerError::Unknown("timeout".to_owned())),
        }
    }

    /// The last message of a segment, as the leader of the stream knows it.
    pub(crate) async fn tail_of(&self, name: SegmentName) -> Result<Option<Tail>, BrokerError> {
        self.tail(&self.subjects.segment(name.id, name.compression)).await
    }

    /// A stream, without a request to the broker.
    async fn stream(&self, name: &str) -> Result<Stream<()>, BrokerError> {
        self.jetstream.get_stream_no_info(name).await.map_err(BrokerError::unavailable)
    }

    /// The stream of segments.
    async fn segments(&self) -> Result<Stream<()>, BrokerError> {
        self.stream(&self.settings.stream).await
    }

    /// The last message of a subject, as the leader of the stream knows it.
    async fn tail(&self, subject: &str) -> Result<Option<Tail>, BrokerError> {
        let Some(message) = last_message(&self.segments().await?, subject).await? else { return Ok(None) };
        let header = |name| message.headers.get(name).map(|value| value.as_str());
        // A default would declare acknowledged jobs to be none.
        let foreign = || BrokerError::Foreign { subject: subject.to_owned(), sequence: message.sequence };
        let end = match header(END) {
            Some(name) => Some(End::ALL.into_iter().find(|end| end.name() == name).ok_or_else(foreign)?),
            None => None,
        };
        Ok(Some(Tail {
            sequence: message.sequence,
            message_id: header(NATS_MESSAGE_ID.as_ref()).unwrap_or_default().to_owned(),
            committed: header(COMMITTED).and_then(Committed::parse).ok_or_else(foreign)?,
            inbox: header(INBOX).and_then(|inbox| self.subjects.inbox(inbox)),
            end,
        }))
    }
}

/// The last message of a subject, as the leader of its stream knows it; none if there is none.
async fn last_message(stream: &Stream<()>, subject: &str) -> Result<Option<StreamMessage>, BrokerError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(BrokerError::unavailable(error)),
    }
}

/// A message for the subject of a segment.
#[derive(Default)]
struct SegmentMessage<'a> {
    payload: Bytes,
    id: String,
    committed: Committed,
    inbox: Option<&'a Inbox>,
    /// The sequence of the last message of the subject; none if it does not matter.
    follows: Option<u64>,
    end: Option<End>,
    ttl: Option<Duration>,
}

impl SegmentMessage<'_> {
    fn build(self) -> PublishMessage {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, self.id);
        headers.insert(COMMITTED, self.committed.to_string());
        if let Some(inbox) = self.inbox {
            headers.insert(INBOX, inbox.as_str());
        }
        if let Some(sequence) = self.follows {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        }
        if let Some(end) = self.end {
            headers.insert(END, end.name());
        }
        if let Some(ttl) = self.ttl {
            headers.insert(NATS_MESSAGE_TTL, ttl.as_secs().to_string());
        }
        PublishMessage::build().payload(self.payload).headers(headers)
    }
}

impl BrokerError {
    fn unavailable(error: impl std::error::Error + 'static) -> Self {
        Self::Unavailable(describe(&error))
    }

    /// Only rejections that precede the replication of a message prove that no server has it. A leader also reports errors of its own
    /// disk, or of its shutdown, when other servers have stored the message.
    fn of(error: &PublishError) -> Self {
        let text = describe(error);
        match error.kind() {
            PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => Self::Conflict,
            // There is no leader that could receive it, or this client did not send it.
            PublishErrorKind::StreamNotFound
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::MaxPayloadExceeded => Self::Unavailable(text),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Self::Unknown(text),
            PublishErrorKind::Other => {
                let server_error = std::error::Error::source(error).and_then(|source| source.downcast_ref());
                server_error.map_or(Self::Unknown(text), Self::of_server)
            }
        }
    }

    fn of_server(error: &jetstream::Error) -> Self {
        let text = error.to_string();
        match error.error_code() {
            // Another message of the subject is being replicated.
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Self::Conflict,
            _ if text.contains("maximum messages per subject exceeded") => Self::Conflict,
            _ if text.contains("maximum bytes exceeded") => Self::Full,
            _ => Self::Unknown(text),
        }
    }
}

/// The text of an error and of its cause.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rejections_before_replication_prove_that_nothing_was_stored() {
        let of = |code: u64, description: &str| {
            let error = serde_json::json!({ "code": 503, "err_code": code, "description": description });
            BrokerError::of_server(&serde_json::from_value(error).unwrap())
        };
        assert_eq!(of(10164, "wrong last sequence"), BrokerError::Conflict);
        assert_eq!(of(10077, "maximum messages per subject exceeded"), BrokerError::Conflict);
        assert_eq!(of(10077, "maximum bytes exceeded"), BrokerError::Full);
        for (code, description) in [
            (10077, "store is closed"),
            (10077, "write msgs/1.blk: no space left on device"),
            (10023, "insufficient resources"),
            (10158, "message id is in process"),
        ] {
            let error = of(code, description);
            assert!(matches!(&error, BrokerError::Unknown(text) if text.contains(description)), "{error:?}");
        }
        let of_client = |kind| BrokerError::of(&PublishError::new(kind));
        assert_eq!(of_client(PublishErrorKind::WrongLastSequence), BrokerError::Conflict);
        assert!(matches!(of_client(PublishErrorKind::StreamNotFound), BrokerError::Unavailable(_)));
        assert!(matches!(of_client(PublishErrorKind::TimedOut), BrokerError::Unknown(_)));
    }
}
