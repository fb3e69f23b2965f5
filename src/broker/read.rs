//! Reading a segment back.

use async_nats::StatusCode;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::{Broker, BrokerError, RESPONSE_TIMEOUT};
use crate::segment::SegmentName;

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
}

/// Appends a part of a segment, as far as the file has at most `len` bytes then.
fn append(file: &mut Vec<u8>, part: &[u8], len: usize) {
    file.extend_from_slice(&part[..part.len().min(len - file.len())]);
}
