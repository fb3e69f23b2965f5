//! `POST /v1/payloads` and `POST /`: a batch, taken whole or refused whole.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::request_id::RequestId;
use super::{Edge, Problem, body};
use crate::config::Ack;
use crate::decode::{self, DecodeError, Form, Lines, Meta, Record};
use crate::inflate::{Encoding, InflateError, inflate};
use crate::metrics::Outcome;
use crate::queue::{Receipt, Reservation};
use crate::segment::JobId;
use crate::spool;

/// A body up to this size, decompressed, is decoded where it was read: that takes less than handing it to another thread
/// is worth. A larger one would hold up the other requests of its thread.
const INLINE_MAX_BYTES: usize = 64 * 1024;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Decides what can be decided before the body is read, reads it, decodes it and queues it.
pub(super) async fn post(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, Problem> {
    let received_at = SystemTime::now();
    let (parts, body) = request.into_parts();
    let id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::new);
    if let Some(problem) = edge.closed() {
        return Err(problem);
    }
    let level = asked(parts.uri.query())?.max(edge.settings.ack);
    let form = body::form(&parts.headers)?;
    let encoding = body::encoding(&parts.headers)?;
    body::check_length(&parts.headers, parts.version, edge.settings.max_body_bytes)?;
    if edge.queue.is_full() {
        return Err(Problem::QueueFull { retry_after: edge.retry_after() });
    }
    let (body, mut reservation) =
        body::read(body, &edge.queue, edge.settings.max_body_bytes, edge.settings.body_timeout).await?;
    edge.outlet.metrics.bytes_in.inc_by(body.len() as u64);
    let work = Work {
        form,
        encoding,
        record: edge.settings.record,
        received_at,
        id: id.clone(),
        max_decoded_bytes: edge.settings.max_decoded_bytes,
        max_line_bytes: edge.queue.max_bytes(),
    };
    let lines = decode(&edge, work, body, &mut reservation).await?;
    let payloads = lines.payloads;
    let accepted = match level {
        Ack::Memory => {
            let pushed = edge.queue.try_push(lines, reservation);
            pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
            Accepted { level, receipt: None }
        }
        Ack::Disk | Ack::Stored => confirmed(&edge, lines, reservation, level).await?,
    };
    Ok(accepted.answer(&edge, &id, payloads))
}

/// What was reached, and where the job is.
struct Accepted {
    level: Ack,
    receipt: Option<Receipt>,
}

/// Queues a job, and waits until it is committed and, if that is asked for, stored; or until the time is over.
async fn confirmed(edge: &Edge, lines: Lines, reservation: Reservation, level: Ack) -> Result<Accepted, Problem> {
    let deadline = Instant::now() + edge.settings.ack_timeout;
    let pushed = edge.queue.try_push_for_commit(lines, reservation, level == Ack::Stored);
    let committed = pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
    let receipt = match timeout_at(deadline, committed).await {
        Ok(Ok(Ok(receipt))) => receipt,
        Ok(Ok(Err(error))) => return Err(Problem::not_committed(&error, edge.retry_after())),
        // The dispatcher is gone, and the process goes with it.
        Ok(Err(_)) => return Err(Problem::Internal),
        Err(_) => return Err(Problem::NotConfirmed { retry_after: edge.retry_after() }),
    };
    let committed = if edge.outlet.spool.is_durable() { Ack::Disk } else { Ack::Memory };
    let stored = match level {
        Ack::Stored => timeout_at(deadline, receipt.segment.settled()).await.ok(),
        // In memory there is nothing between being queued and being stored: more than was asked for is promised.
        Ack::Disk if committed == Ack::Memory => timeout_at(deadline, receipt.segment.settled()).await.ok(),
        Ack::Memory | Ack::Disk => None,
    };
    let level = match stored {
        Some(spool::State::Stored { dead }) if !dead.iter().any(|places| places.contains(&receipt.place)) => {
            Ack::Stored
        }
        _ => committed,
    };
    Ok(Accepted { level, receipt: Some(receipt) })
}

/// The level that the query asks for; the least if it asks for none.
fn asked(query: Option<&str>) -> Result<Ack, Problem> {
    let mut parameters = query.unwrap_or_default().split('&').filter_map(|parameter| parameter.split_once('='));
    match parameters.find(|(name, _)| *name == "ack") {
        None => Ok(Ack::Memory),
        Some((_, level)) => {
            level.parse().map_err(|()| Problem::InvalidQuery("ack is one of memory, disk and stored".to_owned()))
        }
    }
}

impl Accepted {
    fn answer(&self, edge: &Edge, id: &RequestId, payloads: u32) -> Response {
        let status = if self.level == Ack::Stored { StatusCode::OK } else { StatusCode::ACCEPTED };
        let (id, level) = (id.as_str(), self.level.name());
        let mut body = format!("{{\"request_id\":\"{id}\",\"payloads\":{payloads},\"ack\":\"{level}\"");
        if let Some(Receipt { segment, place }) = &self.receipt {
            let job = JobId { segment: segment.id(), place: *place };
            let object = super::jobs::object(edge, segment.key(&edge.prefix));
            body.push_str(&format!(",\"job\":\"{job}\",\"object\":{object}"));
        }
        body.push_str("}\n");
        let mut response = (status, Body::from(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response.extensions_mut().insert(Outcome::Accepted);
        response
    }
}

/// Makes lines of a body, here if it is small, else on a thread that may block.
async fn decode(edge: &Edge, work: Work, body: Bytes, reservation: &mut Reservation) -> Result<Lines, Problem> {
    let full = || Problem::QueueFull { retry_after: edge.retry_after() };
    match work.small(&body) {
        Some(lines) => lines,
        None => {
            // The most that it can come to: what it needs is known only when it is there.
            let most = if work.encoding.is_some() { work.max_decoded_bytes } else { body.len() };
            if !reservation.grow_to(most.min(work.max_line_bytes)) {
                return Err(full());
            }
            let permit = Arc::clone(&edge.large_bodies).acquire_owned().await.map_err(|_| Problem::Internal)?;
            let decoded = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                work.all(&body)
            });
            decoded.await.unwrap_or(Err(Problem::Internal))
        }
    }
}

/// What decoding needs beside the body.
struct Work {
    form: Form,
    encoding: Option<Encoding>,
    record: Record,
    received_at: SystemTime,
    id: RequestId,
    max_decoded_bytes: usize,
    max_line_bytes: usize,
}

impl Work {
    /// The lines of a body that turns out to be small; none if it is not.
    fn small(&self, body: &[u8]) -> Option<Result<Lines, Problem>> {
        match self.encoding {
            None if body.len() > INLINE_MAX_BYTES => None,
            None => Some(self.lines(body)),
            Some(_) if body.len() > INLINE_MAX_BYTES => None,
            Some(encoding) => match inflate(encoding, body, INLINE_MAX_BYTES.min(self.max_decoded_bytes)) {
                Ok(decoded) => Some(self.lines(&decoded)),
                Err(InflateError::TooLarge(most)) if most < self.max_decoded_bytes => None,
                Err(error) => Some(Err(self.not_inflated(&error))),
            },
        }
    }

    fn all(&self, body: &[u8]) -> Result<Lines, Problem> {
        match self.encoding {
            None => self.lines(body),
            Some(encoding) => {
                let decoded = inflate(encoding, body, self.max_decoded_bytes);
                self.lines(&decoded.map_err(|error| self.not_inflated(&error))?)
            }
        }
    }

    fn lines(&self, body: &[u8]) -> Result<Lines, Problem> {
        let meta = Meta { received_at: self.received_at, request_id: self.id.as_str(), record: self.record };
        decode::decode(body, self.form, &meta, self.max_line_bytes).map_err(|error| match error {
            DecodeError::Invalid(invalid) => Problem::InvalidBatch(invalid),
            DecodeError::TooLarge { .. } => {
                Problem::TooLarge(format!("{error}, more than the queue takes (MAX_QUEUE_BYTES): split the batch"))
            }
        })
    }

    fn not_inflated(&self, error: &InflateError) -> Problem {
        match error {
            InflateError::TooLarge(most) => Problem::TooLarge(format!(
                "the body is over {most} bytes decompressed (MAX_DECODED_BYTES): split the batch"
            )),
            InflateError::Corrupt(error) => {
                Problem::InvalidBody(format!("the body is not what its Content-Encoding says: {error}"))
            }
        }
    }
}
