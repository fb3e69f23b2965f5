//! `POST /v1/payloads` and `POST /`: a batch, taken whole or refused whole.

use std::fmt::{self, Write};
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
use crate::config::{Ack, HttpSettings};
use crate::decode::{self, DecodeError, Form, Lines, Meta, Record};
use crate::inflate::{Encoding, InflateError, inflate};
use crate::queue::{Receipt, Reservation};
use crate::segment::JobId;
use crate::spool;

/// A body up to this size, decompressed, is decoded where it was read: that takes less than handing it to another thread
/// is worth. A larger one would hold up the other requests of its thread.
const INLINE_MAX_BYTES: usize = 64 * 1024;

/// Lines are decoded inline up to this size: a small body can have long ones.
const INLINE_LINES_MAX_BYTES: usize = 4 * INLINE_MAX_BYTES;
/// The lines of a batch may be so many times `MAX_DECODED_BYTES`: what stands around payloads of a few bytes is larger
/// than they are, but what a sender has every line repeat is not to be a multiple of what it sent.
const LINES_PER_DECODED: usize = 4;
/// They may be so many bytes even where `MAX_DECODED_BYTES` is small.
const LINES_ALLOWED_BYTES: usize = 4 << 20;

/// Room for an answer, so that it is not moved as it is written.
const ANSWER_USUAL_BYTES: usize = 384;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Decides what can be decided before the body is read, reads it, decodes it and queues it.
pub(super) async fn post(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, Problem> {
    let received_at = SystemTime::now();
    let (parts, body) = request.into_parts();
    let id = RequestId::of(&parts.headers);
    if let Some(problem) = edge.closed() {
        return Err(problem);
    }
    let level = asked(parts.uri.query())?.max(edge.settings.ack);
    let form = body::form(&parts.headers)?;
    let encoding = body::encoding(&parts.headers)?;
    body::check_length(&parts.headers, parts.version, edge.settings.max_body_bytes)?;
    let (body, reservation) =
        body::read(body, &edge.queue, edge.settings.max_body_bytes, edge.settings.body_timeout).await?;
    edge.outlet.metrics.bytes_in.inc_by(body.len() as u64);
    let work = Work { form, encoding, received_at, id: id.clone(), limits: edge.limits };
    let (lines, reservation) = decode(&edge, work, body, reservation).await?;
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
    let committed = if edge.outlet.spool.is_durable() { Ack::Disk } else { Ack::Memory };
    // In memory there is nothing between being queued and being stored: more than was asked for is promised.
    let waits_for_store = level > committed;
    let pushed = edge.queue.try_push_for_commit(lines, reservation, waits_for_store);
    let outcome = pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
    let receipt = match timeout_at(deadline, outcome).await {
        Ok(Ok(Ok(receipt))) => receipt,
        Ok(Ok(Err(error))) => return Err(Problem::not_committed(&error, edge.retry_after())),
        // The dispatcher is gone, and the process goes with it.
        Ok(Err(_)) => return Err(Problem::Internal),
        Err(_) => return Err(Problem::NotConfirmed { retry_after: edge.retry_after() }),
    };
    let settled = match waits_for_store {
        true => timeout_at(deadline, receipt.segment.settled()).await.ok(),
        false => None,
    };
    let level = match settled {
        // It was damaged on disk between its commit and its upload.
        Some(state) if state.is_dead_at(receipt.place) => {
            return Err(Problem::NotConfirmed { retry_after: edge.retry_after() });
        }
        Some(spool::State::Stored { .. }) => Ack::Stored,
        Some(spool::State::Spooled | spool::State::Dead) | None => committed,
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
        let mut body = String::with_capacity(ANSWER_USUAL_BYTES);
        // A string takes whatever is written to it.
        let _: fmt::Result = write!(body, "{{\"request_id\":\"{id}\",\"payloads\":{payloads},\"ack\":\"{level}\"");
        if let Some(Receipt { segment, place }) = &self.receipt {
            let job = JobId { segment: segment.id(), place: *place };
            let _: fmt::Result = write!(body, ",\"job\":\"{job}\",\"object\":");
            super::jobs::push_object(&mut body, edge, segment.key(&edge.prefix));
        }
        body.push_str("}\n");
        let mut response = (status, Body::from(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response
    }
}

/// Makes lines of a body, here if it is small, else on a thread that may block; with the hold on the queue's bytes that
/// they need.
async fn decode(
    edge: &Edge,
    work: Work,
    body: Bytes,
    mut reservation: Reservation,
) -> Result<(Lines, Reservation), Problem> {
    let full = |edge: &Edge| Problem::QueueFull { retry_after: edge.retry_after() };
    if let Some(decoded) = work.small(&body, &mut reservation) {
        return decoded.map(|lines| (lines, reservation)).map_err(|refusal| refusal.into_problem(full(edge)));
    }
    let permit = Arc::clone(&edge.large_bodies).acquire_owned().await.map_err(|_| Problem::Internal)?;
    // The hold goes along: a sender that goes away leaves the work, and what it takes, behind.
    let decoded = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work.large(&body, &mut reservation).map(|lines| (lines, reservation))
    });
    match decoded.await {
        Ok(decoded) => decoded.map_err(|refusal| refusal.into_problem(full(edge))),
        Err(error) => {
            tracing::error!(%error, "decoding failed");
            Err(Problem::Internal)
        }
    }
}

/// Why there are no lines.
enum Refusal {
    /// Whoever sends it again gets the same.
    Problem(Problem),
    /// There is no room in the queue now.
    Full,
}

impl Refusal {
    fn into_problem(self, full: Problem) -> Problem {
        match self {
            Self::Problem(problem) => problem,
            Self::Full => full,
        }
    }
}

/// The limits of decoding.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeLimits {
    record: Record,
    max_decoded_bytes: usize,
    max_line_bytes: usize,
}

impl DecodeLimits {
    pub(super) fn new(settings: &HttpSettings, queue_max_bytes: usize) -> Self {
        let max_decoded_bytes = settings.max_decoded_bytes;
        let max_line_bytes = max_decoded_bytes.saturating_mul(LINES_PER_DECODED).max(LINES_ALLOWED_BYTES);
        Self { record: settings.record, max_decoded_bytes, max_line_bytes: max_line_bytes.min(queue_max_bytes) }
    }
}

/// What decoding needs beside the body.
struct Work {
    form: Form,
    encoding: Option<Encoding>,
    received_at: SystemTime,
    id: RequestId,
    limits: DecodeLimits,
}

impl Work {
    /// The lines of a body that turns out to be small, and its lines with it; none if they are not.
    fn small(&self, body: &[u8], reservation: &mut Reservation) -> Option<Result<Lines, Refusal>> {
        if self.encoding.is_none() && body.len() > self.limits.max_decoded_bytes {
            return Some(Err(not_inflated(&InflateError::TooLarge(self.limits.max_decoded_bytes))));
        }
        if body.len() > INLINE_MAX_BYTES {
            return None;
        }
        let inflated = match self.encoding.map(|encoding| inflate(encoding, body, INLINE_MAX_BYTES)) {
            None => None,
            Some(Ok(inflated)) if inflated.len() <= self.limits.max_decoded_bytes => Some(inflated),
            Some(Err(InflateError::Corrupt(error))) => return Some(Err(not_inflated(&error.into()))),
            Some(Ok(_) | Err(InflateError::TooLarge(_))) => return None,
        };
        let mut is_small = true;
        let lines = self.lines(inflated.as_deref().unwrap_or(body), reservation, |bytes| {
            is_small = bytes <= INLINE_LINES_MAX_BYTES;
            is_small
        });
        is_small.then_some(lines)
    }

    fn large(&self, body: &[u8], reservation: &mut Reservation) -> Result<Lines, Refusal> {
        let Some(encoding) = self.encoding else { return self.lines(body, reservation, |_| true) };
        let inflated = inflate(encoding, body, self.limits.max_decoded_bytes).map_err(|error| not_inflated(&error))?;
        if !reservation.grow_to(inflated.len()) {
            return Err(Refusal::Full);
        }
        self.lines(&inflated, reservation, |_| true)
    }

    /// The lines of a decompressed body, if they are wanted, allowed and there is room for them.
    fn lines(
        &self,
        body: &[u8],
        reservation: &mut Reservation,
        wanted: impl FnOnce(usize) -> bool,
    ) -> Result<Lines, Refusal> {
        let DecodeLimits { record, max_line_bytes, .. } = self.limits;
        let meta = Meta { received_at: self.received_at, request_id: self.id.as_str(), record };
        let grant = |bytes| wanted(bytes) && bytes <= max_line_bytes && reservation.grow_to(bytes);
        decode::decode(body, self.form, &meta, grant).map_err(|error| match error {
            DecodeError::Invalid(invalid) => Refusal::Problem(Problem::InvalidBatch(invalid)),
            DecodeError::NoRoom { bytes } if bytes > max_line_bytes => Refusal::Problem(Problem::TooLarge(format!(
                "{error}, over {max_line_bytes} (the lesser of MAX_QUEUE_BYTES and {LINES_PER_DECODED} times \
                 MAX_DECODED_BYTES), since the envelope's fields stand in each: split the batch"
            ))),
            DecodeError::NoRoom { .. } => Refusal::Full,
        })
    }
}

fn not_inflated(error: &InflateError) -> Refusal {
    Refusal::Problem(match error {
        InflateError::TooLarge(most) => Problem::TooLarge(format!(
            "the body is over {most} bytes decompressed (MAX_DECODED_BYTES): split the batch"
        )),
        InflateError::Corrupt(error) => {
            Problem::InvalidBody(format!("the body is not what its Content-Encoding says: {error}"))
        }
    })
}
