//! From a body to lines: decompressed, read, counted against the sender's limits, and written within the queue's bytes.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::ack::AskedAck;
use super::request_id::RequestId;
use super::sender::Sender;
use super::{Edge, Problem};
use crate::config::{HttpSettings, LINES_ALLOWED_BYTES, LINES_PER_DECODED};
use crate::decode::{Batch, Form, Lines, Meta, Record};
use crate::inflate::{Encoding, InflateError, inflate};
use crate::queue::{Full, Reservation};
use crate::tenants::{Limit, Tenant};

/// A body up to this size, decompressed, is decoded where it was read: that takes less than handing it to another thread
/// is worth. A larger one would hold up the other requests of its thread.
const INLINE_MAX_BYTES: usize = 64 * 1024;

/// Lines are decoded inline up to this size: a small body can have long ones.
const INLINE_LINES_MAX_BYTES: usize = 4 * INLINE_MAX_BYTES;
/// Makes lines of a body, here if it is small, else on a thread that may block; with the hold on the queue's bytes that
/// they need.
pub(super) async fn decode(
    edge: &Edge,
    mut work: Work,
    body: Bytes,
    mut reservation: Reservation,
) -> Result<(Lines, Reservation), Problem> {
    let problem = |refusal| match refusal {
        Refusal::Problem(problem) => problem,
        Refusal::Full(full) => Problem::full(full, edge.retry_after()),
    };
    if let Some(decoded) = work.small(&body, &mut reservation) {
        return decoded.map(|lines| (lines, reservation)).map_err(problem);
    }
    let lane = match work.sender.share() {
        Some(share) => Some(share.lane().acquire_owned().await.map_err(|_| Problem::Internal)?),
        None => None,
    };
    let permit = Arc::clone(&edge.large_bodies).acquire_owned().await.map_err(|_| Problem::Internal)?;
    // The hold goes along: a sender that goes away leaves the work, and what it takes, behind.
    let decoded = tokio::task::spawn_blocking(move || {
        let _turn = (lane, permit);
        work.large(&body, &mut reservation).map(|lines| (lines, reservation))
    });
    match decoded.await {
        Ok(decoded) => decoded.map_err(problem),
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
    /// There is no room now.
    Full(Full),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::Full(full)
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
pub(super) struct Work {
    form: Form,
    encoding: Option<Encoding>,
    received_at: SystemTime,
    id: RequestId,
    limits: DecodeLimits,
    sender: Sender,
    /// As it was sent.
    body_bytes: usize,
    /// What the request asks for, checked when the sender is known.
    ack: Option<AskedAck>,
    /// Whether the batch was counted against the sender's limits already.
    is_counted: bool,
}

impl Work {
    pub(super) fn new(
        edge: &Edge,
        (form, encoding): (Form, Option<Encoding>),
        received_at: SystemTime,
        id: RequestId,
        sender: Sender,
        body_bytes: usize,
    ) -> Self {
        Self { form, encoding, received_at, id, limits: edge.limits, sender, body_bytes, ack: None, is_counted: false }
    }

    /// The same for a request that asks for a level of acknowledgement.
    pub(super) fn asking(self, ack: AskedAck) -> Self {
        Self { ack: Some(ack), ..self }
    }

    /// The lines of a body that turns out to be small, and its lines with it; none if they are not.
    fn small(&mut self, body: &[u8], reservation: &mut Reservation) -> Option<Result<Lines, Refusal>> {
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

    fn large(&mut self, body: &[u8], reservation: &mut Reservation) -> Result<Lines, Refusal> {
        let Some(encoding) = self.encoding else { return self.lines(body, reservation, |_| true) };
        let inflated = inflate(encoding, body, self.limits.max_decoded_bytes).map_err(|error| not_inflated(&error))?;
        reservation.grow_to(inflated.len())?;
        self.lines(&inflated, reservation, |_| true)
    }

    /// The lines of a decompressed body, if they are wanted, allowed and there is room for them.
    fn lines(
        &mut self,
        body: &[u8],
        reservation: &mut Reservation,
        wanted: impl FnOnce(usize) -> bool,
    ) -> Result<Lines, Refusal> {
        let batch = Batch::read(body, self.form).map_err(Problem::InvalidBatch)?;
        if let Some(tenant) = self.sender.in_envelope(batch.token)? {
            self.sender = Sender::Tenant(tenant);
            self.ack.map_or(Ok(()), |ack| ack.check(&self.sender))?;
            reservation.move_to(self.sender.share())?;
            self.sender.take(Limit::Requests, 1)?;
            self.sender.take(Limit::Bytes, self.body_bytes)?;
        }
        if !std::mem::replace(&mut self.is_counted, true) {
            self.sender.take(Limit::Payloads, batch.payloads.len())?;
        }
        let DecodeLimits { record, max_line_bytes, .. } = self.limits;
        let tenant = self.sender.tenant().map(Tenant::name);
        let meta = Meta { received_at: self.received_at, request_id: self.id.as_str(), tenant, record };
        let mut room = Ok(());
        let grant = |bytes| {
            wanted(bytes) && bytes <= max_line_bytes && {
                room = reservation.grow_to(bytes);
                room.is_ok()
            }
        };
        let lines = Lines::write(&batch, &meta, grant);
        room?;
        lines.map_err(|error| {
            Refusal::Problem(Problem::TooLarge(format!(
                "{error}, over {max_line_bytes} (the least of MAX_QUEUE_BYTES, a sender's share of it and \
                 {LINES_PER_DECODED} times MAX_DECODED_BYTES), since the envelope's fields stand in each: split the batch"
            )))
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
