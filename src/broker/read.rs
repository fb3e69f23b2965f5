//! Reading a segment back, and listing segments.

use std::collections::HashSet;

use async_nats::StatusCode;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::{Broker, BrokerError, RESPONSE_TIMEOUT, Tail};
use crate::segment::{SegmentId, SegmentName};

/// Messages and bytes of one request for the messages of a segment.
const READ_MAX_MESSAGES: usize = 256;
const READ_MAX_BYTES: usize = 8 << 20;

/// A request for several messages of a subject (NATS 2.11, ADR-31).
#[derive(Serialize)]
struct ReadRequest<'a> {
    seq: u64,
    next_by_subj: &'a str,
    batch: usize,
    max_bytes: usize,
}

/// Which replica is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replica {
    /// The one that responds first. It may lack the last messages.
    Any,
    Leader,
}

/// The segments in the broker.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The segments that have messages: open, ended, or stored a short time ago; and the number of their messages.
    pub(crate) segments: Vec<(SegmentName, usize)>,
    /// The segments in the work queue.
    pub(crate) queued: HashSet<SegmentId>,
}

impl Broker {
    /// Appends the first `len` bytes of a segment's file to `file`, which is empty, or fewer if the replica has no more. The file never
    /// grows beyond `len`.
    pub(crate) async fn read(
        &self,
        name: SegmentName,
        len: usize,
        replica: Replica,
        file: &mut Vec<u8>,
    ) -> Result<(), BrokerError> {
        let subject = self.subjects.segment(name.id, name.compression);
        let read = async {
            match replica {
                Replica::Any => self.read_batches(&subject, len, file).await,
                Replica::Leader => self.read_from_leader(&subject, len, file).await,
            }
        };
        read.await
    }

    async fn read_batches(&self, subject: &str, len: usize, file: &mut Vec<u8>) -> Result<(), BrokerError> {
        let api = format!("$JS.API.DIRECT.GET.{}", self.settings.stream);
        let mut seq = 1;
        while file.len() < len {
            let request =
                ReadRequest { seq, next_by_subj: subject, batch: READ_MAX_MESSAGES, max_bytes: READ_MAX_BYTES };
            let request = serde_json::to_vec(&request).map_err(BrokerError::unavailable)?;
            let reply = self.client.new_inbox();
            let mut messages = self.client.subscribe(reply.clone()).await.map_err(BrokerError::unavailable)?;
            let sent = self.client.publish_with_reply(api.clone(), reply, Bytes::from(request)).await;
            sent.map_err(BrokerError::unavailable)?;
            let before = seq;
            loop {
                let message = timeout(RESPONSE_TIMEOUT, messages.next()).await;
                let Ok(Some(message)) = message else { return Err(BrokerError::Unavailable("timeout".to_owned())) };
                if message.status == Some(StatusCode::NO_RESPONDERS) {
                    return Err(BrokerError::Unavailable("the stream has no leader".to_owned()));
                }
                let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence"));
                // The end of the batch, or no message.
                let Some(Ok(sequence)) = sequence.map(|text| text.as_str().parse::<u64>()) else { break };
                append(file, &message.payload, len);
                seq = sequence + 1;
            }
            if seq == before {
                break;
            }
        }
        Ok(())
    }

    async fn read_from_leader(&self, subject: &str, len: usize, file: &mut Vec<u8>) -> Result<(), BrokerError> {
        let stream = self.segments().await?;
        let mut seq = 1;
        while file.len() < len {
            match stream.raw_message_builder().sequence(seq).next_by_subject(subject).send().await {
                Ok(message) => {
                    append(file, &message.payload, len);
                    seq = message.sequence + 1;
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(BrokerError::unavailable(error)),
            }
        }
        Ok(())
    }

    /// Finds a segment by its id alone. Returns its codec and its last message.
    pub(crate) async fn find(&self, id: SegmentId) -> Result<Option<(SegmentName, Tail)>, BrokerError> {
        let subjects = self.subjects_of(&self.settings.stream, &self.subjects.segment_of_any_codec(id)).await?;
        let Some(name) = subjects.iter().find_map(|(subject, _)| self.subjects.parse_segment(subject)) else {
            return Ok(None);
        };
        Ok(self.tail_of(name).await?.map(|tail| (name, tail)))
    }

    /// Lists the segments. The work queue is listed last, so that a segment that was sealed meanwhile is in it.
    pub(crate) async fn list(&self) -> Result<Listing, BrokerError> {
        let mut listing = Listing::default();
        let subjects = self.subjects_of(&self.settings.stream, &self.subjects.segments()).await?;
        let named =
            subjects.iter().filter_map(|(subject, count)| Some((self.subjects.parse_segment(subject)?, *count)));
        listing.segments = named.collect();
        let queued = self.subjects_of(&self.subjects.work_stream(), &self.subjects.works()).await?;
        listing.queued = queued.iter().filter_map(|(subject, _)| self.subjects.parse_work(subject)).collect();
        Ok(listing)
    }

    async fn subjects_of(&self, stream: &str, filter: &str) -> Result<Vec<(String, usize)>, BrokerError> {
        let stream = self.stream(stream).await?;
        let mut info = stream.info_with_subjects(filter).await.map_err(BrokerError::unavailable)?;
        let mut subjects = Vec::new();
        while let Some(subject) = info.next().await {
            subjects.push(subject.map_err(BrokerError::unavailable)?);
        }
        Ok(subjects)
    }
}

/// Appends a part of a segment, as far as the file has at most `len` bytes then.
fn append(file: &mut Vec<u8>, part: &[u8], len: usize) {
    file.extend_from_slice(&part[..part.len().min(len - file.len())]);
}
