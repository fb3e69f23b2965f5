//! From a body to lines: inflate, read the batch, authenticate, and write its lines within the queue's bytes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::ack::RequestedAck;
use super::auth::Identity;
use super::problem::Problem;
use super::request_id::RequestId;
use super::rollout::RequestRollout;
use crate::config::{HttpSettings, LINES_ALLOWED_BYTES, LINES_PER_DECODED};
use crate::decode::{
    Batch, BatchFormat, BatchMetadata, DecodeError, LimitExceeded, Limits, Lines, LinesPlan, OwnedLinesPlan, Readers,
    Record,
};
use crate::inflate::{Encoding, InflateError, declared_len, inflate_with_budget};
use crate::queue::Reservation;
use crate::tenants::RateLimit;
use crate::trace::RequestTrace;

/// A decompressed body up to this size is decoded on the async thread, which costs less than handing it to another one. A
/// larger body would delay the other requests of the thread.
const INLINE_MAX_BYTES: usize = 64 * 1024;
/// Lines up to this size are written on the async thread: a small body can have long lines.
const INLINE_LINES_MAX_BYTES: usize = 4 * INLINE_MAX_BYTES;
/// Limit of what stored lines hold besides the payloads: a fixed part, and one for each byte as sent, so that a body that was
/// compressed a thousandfold does not grow by the same factor once more.
const OVERHEAD_BASE_BYTES: usize = 1 << 20;
const OVERHEAD_PER_BYTE: usize = 32;
/// The shortest payload is `{}`.
const PAYLOAD_MIN_BYTES: usize = 2;
/// Memory of a payload while its batch is decoded.
const SLICE_BYTES: usize = size_of::<&str>();

/// The limits of decoding.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeLimits {
    record: Record,
    readers: Readers,
    max_decoded_bytes: usize,
    max_line_bytes: usize,
    /// The most that the reservation of one request may hold.
    max_reserved_bytes: usize,
}

impl DecodeLimits {
    /// A request may reserve `max_reserved_bytes`, and its lines may have `max_line_bytes`.
    pub(super) fn new(settings: &HttpSettings, max_reserved_bytes: usize, max_line_bytes: usize) -> Self {
        let HttpSettings { record, readers, max_decoded_bytes, .. } = *settings;
        let by_body = max_decoded_bytes.saturating_mul(LINES_PER_DECODED).max(LINES_ALLOWED_BYTES);
        let max_line_bytes = by_body.min(max_line_bytes);
        Self { record, readers, max_decoded_bytes, max_line_bytes, max_reserved_bytes }
    }
}

/// A request with a body to decode.
pub(super) struct BatchRequest {
    pub(super) format: BatchFormat,
    pub(super) encoding: Option<Encoding>,
    pub(super) received_at: SystemTime,
    pub(super) id: RequestId,
    pub(super) identity: Identity,
    pub(super) client: Option<IpAddr>,
    /// As sent.
    pub(super) body_bytes: usize,
    /// Checked again when the envelope's token is known.
    pub(super) ack: RequestedAck,
    pub(super) rollout: RequestRollout,
    /// The headers of the worker tier's daemon as a JSON object, if they are kept.
    pub(super) sqsd: Option<String>,
    /// Set if the request is sampled.
    pub(super) trace: Option<Arc<RequestTrace>>,
}

/// The result of decoding on the async thread.
pub(super) enum Inline {
    Lines(Lines),
    TooLarge(Work),
}

/// Work for a blocking thread.
pub(super) enum Work {
    /// The body is large.
    Decode(Bytes),
    /// The body is small and parsed, but its lines are large.
    Write(OwnedLinesPlan),
}

/// A request on its way from body to lines.
pub(super) struct Decoding {
    pub(super) request: BatchRequest,
    pub(super) limits: DecodeLimits,
}

impl Decoding {
    /// Decodes a small body, and finds out what is left to do for a large one.
    pub(super) fn inline(&mut self, body: Bytes, reservation: &mut Reservation) -> Result<Inline, Problem> {
        let Some(decoded) = self.inflate_small(&body)? else { return Ok(Inline::TooLarge(Work::Decode(body))) };
        // A small body is not counted while it is decoded: each thread has one at a time.
        let plan = self.plan(&decoded, 0, reservation)?;
        if plan.bytes() <= INLINE_LINES_MAX_BYTES {
            self.reserve(plan.bytes() + plan.list_bytes(), reservation)?;
            return Ok(Inline::Lines(plan.write()));
        }
        let plan = plan.into_owned(decoded.clone()).ok_or(Problem::Internal)?;
        // The memory of the lines is reserved when they are written, as that of a large body is.
        self.reserve(plan.plan_bytes(), reservation)?;
        Ok(Inline::TooLarge(Work::Write(plan)))
    }

    /// The decompressed body; `None` if it is too large for the async thread.
    fn inflate_small(&self, body: &Bytes) -> Result<Option<Bytes>, Problem> {
        let max_decoded = self.limits.max_decoded_bytes;
        let Some(encoding) = self.request.encoding else {
            if body.len() > max_decoded {
                return Err(not_inflated(&InflateError::TooLarge(max_decoded)));
            }
            return Ok((body.len() <= INLINE_MAX_BYTES).then(|| body.clone()));
        };
        // The size that a body declares saves inflating most large bodies twice.
        if body.len().max(declared_len(encoding, body).unwrap_or_default()) > INLINE_MAX_BYTES {
            return Ok(None);
        }
        match inflate_with_budget(encoding, body, INLINE_MAX_BYTES, &mut |_| true) {
            Ok(inflated) if inflated.len() <= max_decoded => Ok(Some(inflated.into())),
            Err(error @ InflateError::Corrupt(_)) => Err(not_inflated(&error)),
            Ok(_) | Err(InflateError::TooLarge(_) | InflateError::OutOfBudget) => Ok(None),
        }
    }

    /// Decodes a body of any size.
    pub(super) fn large(&mut self, body: &[u8], reservation: &mut Reservation) -> Result<Lines, Problem> {
        let Some(encoding) = self.request.encoding else { return self.lines(body, body.len(), reservation) };
        let mut budget = Budget::new(body.len(), self.limits, reservation);
        let max = self.limits.max_decoded_bytes;
        let inflated = inflate_with_budget(encoding, body, max, &mut |bytes| budget.reserve(bytes));
        budget.outcome?;
        let inflated = inflated.map_err(|error| not_inflated(&error))?;
        self.lines(&inflated, body.len() + inflated.capacity(), reservation)
    }

    /// The lines of a decompressed body. `buffers` is the memory of the body in all of its forms.
    fn lines(&mut self, body: &[u8], buffers: usize, reservation: &mut Reservation) -> Result<Lines, Problem> {
        let plan = self.plan(body, buffers, reservation)?;
        self.reserve(buffers + plan.list_bytes() + plan.bytes(), reservation)?;
        Ok(plan.write())
    }

    /// Parses and authorizes the batch, and plans its lines within their limits.
    fn plan<'b>(
        &mut self,
        body: &'b [u8],
        buffers: usize,
        reservation: &mut Reservation,
    ) -> Result<LinesPlan<'b>, Problem> {
        let batch = self.parse(body, buffers, reservation)?;
        self.authorize(&batch, reservation)?;
        let plan = LinesPlan::new(batch, &self.meta());
        if plan.bytes() > self.limits.max_line_bytes {
            return Err(self.too_many_lines(format_args!("the stored lines would take {} bytes", plan.bytes())));
        }
        let (overhead, max) = (plan.overhead().saturating_add(plan.list_bytes()), self.max_overhead(body.len()));
        if overhead > max {
            return Err(Problem::TooLarge(format!(
                "the fields that every stored line repeats would take {overhead} bytes in addition to the payloads, which exceeds \
                 {max} ({OVERHEAD_BASE_BYTES}, and {OVERHEAD_PER_BYTE} for each byte as sent): send fewer payloads in a batch"
            )));
        }
        Ok(plan)
    }

    /// Parses the batch within its limits.
    fn parse<'b>(&self, body: &'b [u8], buffers: usize, reservation: &mut Reservation) -> Result<Batch<'b>, Problem> {
        let DecodeLimits { record, readers, max_line_bytes, .. } = self.limits;
        let mut limits = Limits::new(self.request.body_bytes, record, readers);
        let overhead = self.meta().min_line_overhead();
        limits.payloads = limits
            .payloads
            .min(max_line_bytes / (overhead + PAYLOAD_MIN_BYTES))
            .min(self.max_overhead(body.len()) / (overhead + SLICE_BYTES));
        let mut budget = Budget::new(buffers, self.limits, reservation);
        let parsed = Batch::parse(body, self.request.format, &limits, &mut |bytes| budget.reserve(bytes));
        budget.outcome?;
        parsed.map_err(|error| match error {
            DecodeError::Invalid(invalid) => invalid.into(),
            DecodeError::LimitExceeded(over @ LimitExceeded::Payloads(_)) => self.too_many_lines(over),
            DecodeError::LimitExceeded(over) => Problem::TooLarge(format!("{over}: split the batch")),
            DecodeError::OutOfBudget => Problem::Internal,
        })
    }

    /// Authenticates the client by the envelope, if the headers had no token, and counts the batch against its rate limits.
    fn authorize(&mut self, batch: &Batch<'_>, reservation: &mut Reservation) -> Result<(), Problem> {
        let BatchRequest { identity, ack, rollout, body_bytes, trace, .. } = &mut self.request;
        if let Some(tenant) = identity.tenant_of_envelope(batch.token)? {
            *identity = Identity::Tenant(tenant);
            ack.check(identity)?;
            rollout.check(*ack, identity.tenant())?;
            reservation.move_to(identity.share())?;
            identity.take(RateLimit::Requests, 1)?;
            identity.take(RateLimit::Bytes, *body_bytes)?;
        }
        if let (Some(trace), Some(tenant)) = (trace, identity.tenant()) {
            trace.record("millpond.tenant", tenant.name().to_owned());
        }
        identity.take(RateLimit::Payloads, batch.payloads.len())
    }

    pub(super) fn reserve(&self, bytes: usize, reservation: &mut Reservation) -> Result<(), Problem> {
        let mut budget = Budget::new(0, self.limits, reservation);
        budget.reserve(bytes);
        budget.outcome
    }

    /// The limit of what lines hold besides their payloads, for a body of `decoded_bytes`.
    fn max_overhead(&self, decoded_bytes: usize) -> usize {
        let by_size = self.request.body_bytes.saturating_mul(OVERHEAD_PER_BYTE).saturating_add(OVERHEAD_BASE_BYTES);
        by_size.max(LINES_ALLOWED_BYTES.saturating_sub(decoded_bytes))
    }

    fn meta(&self) -> BatchMetadata<'_> {
        let BatchRequest { received_at, id, identity, rollout, sqsd, .. } = &self.request;
        let tenant = identity.tenant().map(|tenant| tenant.name());
        let variant = rollout.variant(identity.tenant()).map(AsRef::as_ref);
        BatchMetadata {
            received_at: *received_at,
            request_id: id.as_str(),
            tenant,
            variant,
            sqsd: sqsd.as_deref(),
            record: self.limits.record,
        }
    }

    fn too_many_lines(&self, what: impl fmt::Display) -> Problem {
        Problem::TooLarge(format!(
            "{what}; the stored lines of a batch may have {} bytes (the lowest of MAX_QUEUE_BYTES, the tenant's share of it, \
             what SPOOL_MAX_BYTES can hold and {LINES_PER_DECODED} times MAX_DECODED_BYTES), of which the fields that every line \
             repeats may take {OVERHEAD_BASE_BYTES} and {OVERHEAD_PER_BYTE} for each byte as sent: split the batch",
            self.limits.max_line_bytes
        ))
    }
}

/// The memory of decoding, reserved from the queue's bytes before it is allocated.
struct Budget<'r> {
    /// Bytes of other buffers that are in use at the same time.
    buffers: usize,
    max: usize,
    reservation: &'r mut Reservation,
    outcome: Result<(), Problem>,
}

impl<'r> Budget<'r> {
    fn new(buffers: usize, limits: DecodeLimits, reservation: &'r mut Reservation) -> Self {
        Self { buffers, max: limits.max_reserved_bytes, reservation, outcome: Ok(()) }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        let bytes = self.buffers.saturating_add(bytes);
        self.outcome = if bytes > self.max {
            // It never fits, so a client that retries would retry for ever.
            Err(Problem::TooLarge(format!(
                "decoding the body needs {bytes} bytes, which exceeds {} (MAX_QUEUE_BYTES, or the tenant's share of it): \
                 split the batch",
                self.max
            )))
        } else {
            self.reservation.grow_to(bytes).map_err(Problem::from)
        };
        self.outcome.is_ok()
    }
}

fn not_inflated(error: &InflateError) -> Problem {
    match error {
        InflateError::TooLarge(max) => {
            Problem::TooLarge(format!("the body exceeds {max} bytes decompressed (MAX_DECODED_BYTES): split the batch"))
        }
        // The budget has the reason.
        InflateError::OutOfBudget => Problem::Internal,
        InflateError::Corrupt(error) => Problem::InvalidBody(format!(
            "the body does not match its Content-Encoding ({error}): compress it as the header says, or remove the header"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;
    use crate::config::Settings;
    use crate::queue::{JobQueue, queue};

    fn decoding(encoding: Option<Encoding>, body: &Bytes) -> Decoding {
        let settings = Settings::from_vars([]).unwrap();
        let request = BatchRequest {
            format: BatchFormat::Json,
            encoding,
            received_at: SystemTime::UNIX_EPOCH,
            id: RequestId::new(),
            identity: Identity::Anonymous,
            client: None,
            body_bytes: body.len(),
            ack: RequestedAck::new(settings.http.ack, &settings.http),
            rollout: RequestRollout::default(),
            sqsd: None,
            trace: None,
        };
        Decoding { request, limits: DecodeLimits::new(&settings.http, usize::MAX, usize::MAX) }
    }

    fn inline(encoding: Option<Encoding>, body: &Bytes, queue: &JobQueue) -> (Inline, Reservation) {
        let mut reservation = queue.reserve(None);
        let inline = decoding(encoding, body).inline(body.clone(), &mut reservation);
        (inline.unwrap_or_else(|problem| panic!("{problem}")), reservation)
    }

    #[test]
    fn a_small_body_with_large_lines_waits_with_its_memory_reserved() {
        let (queue, _receiver) = queue(10, 1 << 30, Arc::default());
        let version = "v".repeat(60_000);
        let body = Bytes::from(format!("{{\"version\":\"{version}\",\"data\":[{{}},{{}},{{}},{{}},{{}}]}}"));
        let (Inline::TooLarge(Work::Write(plan)), _reservation) = inline(None, &body, &queue) else {
            panic!("its lines are written on a blocking thread")
        };
        assert!(plan.plan_bytes() >= body.len() + version.len());
        assert_eq!(queue.depth().now().1, plan.plan_bytes());
        assert!(plan.bytes() > INLINE_LINES_MAX_BYTES && plan.write().bytes.len() == plan.bytes());
    }

    #[test]
    fn only_a_declared_length_sends_a_small_compressed_body_to_a_blocking_thread() {
        let (queue, _receiver) = queue(10, 1 << 30, Arc::default());
        // Random digits compress to about half of their size.
        let data = |bytes: usize| {
            let digits: String = std::iter::repeat_with(|| fastrand::digit(10)).take(bytes).collect();
            format!("[{{\"digits\":\"{digits}\"}}]")
        };
        let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(data(INLINE_MAX_BYTES - 100).as_bytes()).unwrap();
        let body = Bytes::from(deflate.finish().unwrap());
        assert!(body.len() > INLINE_MAX_BYTES / 10);
        assert!(matches!(inline(Some(Encoding::Deflate), &body, &queue).0, Inline::Lines(_)));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(data(INLINE_MAX_BYTES + 100).as_bytes()).unwrap();
        let body = Bytes::from(gzip.finish().unwrap());
        assert!(body.len() < INLINE_MAX_BYTES);
        assert!(matches!(inline(Some(Encoding::Gzip), &body, &queue).0, Inline::TooLarge(Work::Decode(_))));
    }
}
