//! From a body to lines: decompressed, read, counted against the sender's limits, and written within the queue's bytes.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::ack::AskedAck;
use super::lanes::Lane;
use super::peer::ClientAddress;
use super::request_id::RequestId;
use super::sender::Sender;
use super::{Edge, Problem};
use crate::config::{HttpSettings, LINES_ALLOWED_BYTES, LINES_PER_DECODED};
use crate::decode::{Batch, Form, Limits, Lines, Meta, Over, Readers, Record, Refused};
use crate::inflate::{Encoding, InflateError, inflate, inflate_within};
use crate::log_throttle::LogThrottle;
use crate::queue::{Full, Reservation, Share};
use crate::tenants::{Limit, Tenant};

/// A body up to this size, decompressed, is decoded where it was read: that takes less than handing it to another thread
/// is worth. A larger one would hold up the other requests of its thread.
const INLINE_MAX_BYTES: usize = 64 * 1024;

/// Lines are written inline up to this size: a small body can have long ones.
const INLINE_LINES_MAX_BYTES: usize = 4 * INLINE_MAX_BYTES;
/// What stands around the payloads of a batch may come to so many bytes, and to so many more for each byte as sent: a body
/// that was compressed a thousandfold is not to be a thousand times as much again.
const AROUND_ALLOWED_BYTES: usize = 1 << 20;
const AROUND_PER_BYTE: usize = 32;

/// A body that finds a bug can be sent again and again.
static FAILED: LogThrottle = LogThrottle::for_clients();

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
    match work.small(&body, &mut reservation) {
        Ok(Some(lines)) => return Ok((lines, reservation)),
        Ok(None) => {}
        Err(refusal) => return Err(problem(refusal)),
    }
    // Held until the body has had its turn, so that the lane of an address is remembered for so long.
    let lane = work.client.filter(|_| work.sender.tenant_share().is_none()).map(|client| edge.lanes.of(client.0));
    let turns = work.sender.tenant_share().map(Share::decode_permits).or_else(|| lane.as_ref().map(Lane::turns));
    let turn = match turns {
        Some(turns) => Some(turns.acquire_owned().await.map_err(|_| Problem::Internal)?),
        None => None,
    };
    let permit = Arc::clone(&edge.large_bodies).acquire_owned().await.map_err(|_| Problem::Internal)?;
    // The hold goes along: a sender that goes away leaves the work, and what it takes, behind.
    let decoded = tokio::task::spawn_blocking(move || {
        let _turn = (turn, lane, permit);
        work.large(&body, &mut reservation).map(|lines| (lines, reservation))
    });
    match decoded.await {
        Ok(decoded) => decoded.map_err(problem),
        Err(error) => {
            if let Some(suppressed) = FAILED.permit() {
                tracing::error!(%error, suppressed, "decoding failed");
            }
            Err(Problem::Internal)
        }
    }
}

/// Why there are no lines.
enum Refusal {
    /// Sending it again brings the same answer.
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
    readers: Readers,
    max_decoded_bytes: usize,
    max_line_bytes: usize,
    /// A request can never hold more bytes of the queue.
    max_held_bytes: usize,
}

impl DecodeLimits {
    /// A request can hold so many bytes of the queue, and its lines have so many at the most.
    pub(super) fn new(settings: &HttpSettings, max_held_bytes: usize, lines_max_bytes: usize) -> Self {
        let HttpSettings { record, readers, max_decoded_bytes, .. } = *settings;
        let max_line_bytes = max_decoded_bytes.saturating_mul(LINES_PER_DECODED).max(LINES_ALLOWED_BYTES);
        let max_line_bytes = max_line_bytes.min(lines_max_bytes);
        Self { record, readers, max_decoded_bytes, max_line_bytes, max_held_bytes }
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
    client: Option<ClientAddress>,
    /// As it was sent.
    body_bytes: usize,
    /// What the request asks for, checked when the sender is known.
    ack: Option<AskedAck>,
    /// Whether the batch was counted against the sender's limits already.
    is_counted: bool,
}

/// Where a body is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where it was read: as far as it is small.
    Inline,
    /// On a thread that may block.
    Aside,
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
        let (limits, client, ack) = (edge.limits, None, None);
        Self { form, encoding, received_at, id, limits, sender, client, body_bytes, ack, is_counted: false }
    }

    /// The same for a sender whose address is known.
    pub(super) fn sent_from(self, client: Option<ClientAddress>) -> Self {
        Self { client, ..self }
    }

    /// The same for a request that asks for a level of acknowledgement.
    pub(super) fn asking(self, ack: AskedAck) -> Self {
        Self { ack: Some(ack), ..self }
    }

    /// The lines of a body that turns out to be small, and its lines with it; none if they are not.
    fn small(&mut self, body: &[u8], reservation: &mut Reservation) -> Result<Option<Lines>, Refusal> {
        if self.encoding.is_none() && body.len() > self.limits.max_decoded_bytes {
            return Err(not_inflated(&InflateError::TooLarge(self.limits.max_decoded_bytes)));
        }
        if body.len() > INLINE_MAX_BYTES {
            return Ok(None);
        }
        let Some(encoding) = self.encoding else { return self.lines(body, 0, Place::Inline, reservation) };
        match inflate(encoding, body, INLINE_MAX_BYTES) {
            Ok(inflated) if inflated.len() <= self.limits.max_decoded_bytes => {
                self.lines(&inflated, inflated.capacity(), Place::Inline, reservation)
            }
            Err(error @ InflateError::Corrupt(_)) => Err(not_inflated(&error)),
            Ok(_) | Err(InflateError::TooLarge(_) | InflateError::NoRoom) => Ok(None),
        }
    }

    fn large(&mut self, body: &[u8], reservation: &mut Reservation) -> Result<Lines, Refusal> {
        let lines = match self.encoding {
            None => self.lines(body, 0, Place::Aside, reservation)?,
            Some(encoding) => {
                let mut room = Room::new(self.body_bytes, self.limits, reservation);
                let most = self.limits.max_decoded_bytes;
                let inflated = inflate_within(encoding, body, most, &mut |bytes| room.take(bytes));
                room.outcome?;
                let inflated = inflated.map_err(|error| not_inflated(&error))?;
                self.lines(&inflated, inflated.capacity(), Place::Aside, reservation)?
            }
        };
        lines.ok_or(Refusal::Problem(Problem::Internal))
    }

    /// The lines of a decompressed body, for which `inflated` bytes were taken; none if they are too many for `place`.
    fn lines(
        &mut self,
        body: &[u8],
        inflated: usize,
        place: Place,
        reservation: &mut Reservation,
    ) -> Result<Option<Lines>, Refusal> {
        let DecodeLimits { record, readers, max_line_bytes, .. } = self.limits;
        let max_around = self.body_bytes.saturating_mul(AROUND_PER_BYTE).saturating_add(AROUND_ALLOWED_BYTES);
        let max_around = max_around.max(LINES_ALLOWED_BYTES.saturating_sub(body.len()));
        // What is decoded inline is small, and there is one of it a thread: only its lines stay.
        let beside = if place == Place::Inline { 0 } else { self.body_bytes + inflated };
        let max_lines = if place == Place::Inline { INLINE_LINES_MAX_BYTES } else { max_line_bytes };
        let mut limits = Limits::new(self.body_bytes, record, readers);
        let around = self.meta().least_around();
        limits.payloads =
            limits.payloads.min(max_lines / (around + SHORTEST_PAYLOAD)).min(max_around / (around + SLICE));

        let mut room = Room::new(beside, self.limits, reservation);
        let read = Batch::read(body, self.form, &limits, &mut |bytes| room.take(bytes));
        room.outcome?;
        let batch = match read {
            Ok(batch) => batch,
            Err(Refused::Invalid(invalid)) => return Err(Problem::InvalidBatch(invalid).into()),
            Err(Refused::Over(Over::Payloads(_))) if place == Place::Inline => return Ok(None),
            Err(Refused::Over(over @ Over::Payloads(_))) => return Err(self.too_many_lines(over)),
            Err(Refused::Over(over)) => return Err(Problem::TooLarge(format!("{over}: split the batch")).into()),
            Err(Refused::NoRoom) => return Err(Problem::Internal.into()),
        };
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
        let slices = batch.payloads.capacity() * SLICE;
        let payload_bytes: usize = batch.payloads.iter().map(|payload| payload.len()).sum();
        let mut room = Room::new(beside + slices, self.limits, reservation);
        let grant =
            |bytes: usize| bytes <= max_lines && bytes - payload_bytes + slices <= max_around && room.take(bytes);
        let lines = Lines::write(&batch, &self.meta(), grant);
        room.outcome?;
        match lines {
            Ok(lines) => Ok(Some(lines)),
            Err(_) if place == Place::Inline => Ok(None),
            Err(error) => Err(self.too_many_lines(error)),
        }
    }

    fn meta(&self) -> Meta<'_> {
        let tenant = self.sender.tenant().map(Tenant::name);
        Meta { received_at: self.received_at, request_id: self.id.as_str(), tenant, record: self.limits.record }
    }

    fn too_many_lines(&self, what: impl fmt::Display) -> Refusal {
        Refusal::Problem(Problem::TooLarge(format!(
            "{what}: the stored lines of a batch may have {} bytes (the least of MAX_QUEUE_BYTES, a sender's share of it, what \
             SPOOL_MAX_BYTES can hold and {LINES_PER_DECODED} times MAX_DECODED_BYTES), and what stands in them beside the payloads \
             {AROUND_ALLOWED_BYTES} and {AROUND_PER_BYTE} for each byte as sent: split the batch",
            self.limits.max_line_bytes
        )))
    }
}

/// A payload has two bytes at the least.
const SHORTEST_PAYLOAD: usize = 2;
/// What a payload takes while its batch is decoded, in bytes.
const SLICE: usize = size_of::<&str>();

/// The part of the queue's bytes that decoding takes, before it takes the memory.
struct Room<'r> {
    /// Held beside what is asked for.
    beside: usize,
    most: usize,
    reservation: &'r mut Reservation,
    outcome: Result<(), Refusal>,
}

impl<'r> Room<'r> {
    fn new(beside: usize, limits: DecodeLimits, reservation: &'r mut Reservation) -> Self {
        Self { beside, most: limits.max_held_bytes, reservation, outcome: Ok(()) }
    }

    fn take(&mut self, bytes: usize) -> bool {
        let bytes = self.beside.saturating_add(bytes);
        self.outcome = if bytes > self.most {
            // It could never be had, and who is told to come back would come back for ever.
            Err(Refusal::Problem(Problem::TooLarge(format!(
                "decoding the body takes {bytes} bytes at once, over {} (MAX_QUEUE_BYTES, or a sender's share of it): \
                 split the batch",
                self.most
            ))))
        } else {
            self.reservation.grow_to(bytes).map_err(Refusal::Full)
        };
        self.outcome.is_ok()
    }
}

fn not_inflated(error: &InflateError) -> Refusal {
    Refusal::Problem(match error {
        InflateError::TooLarge(most) => Problem::TooLarge(format!(
            "the body is over {most} bytes decompressed (MAX_DECODED_BYTES): split the batch"
        )),
        // Said by the one who has none.
        InflateError::NoRoom => Problem::Internal,
        InflateError::Corrupt(error) => {
            Problem::InvalidBody(format!("the body is not what its Content-Encoding says: {error}"))
        }
    })
}
