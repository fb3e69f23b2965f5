//! The limits of decoding, and its errors.

use std::fmt;

use super::{InvalidBatch, MAX_DEPTH, Record};

const PAYLOADS_MAX: usize = 500_000;
/// Each line of the batch repeats the members of the envelope.
const ENVELOPE_MEMBERS_MAX: usize = 1024;
/// Every body may take this many steps, and [`STEPS_PER_BYTE`] more for each byte as sent. A step takes more than one byte
/// in usual JSON, so only a body that was compressed to a small part of its size can reach the limit.
const STEPS_ALLOWED: usize = 1 << 19;
const STEPS_PER_BYTE: usize = 8;

/// Whether valid JSON is rejected if readers cannot read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Rejects what makes one of the readers in docs/readers.md fail for the whole object.
    Strict,
    /// Accepts all JSON.
    Any,
}

/// The limits of decoding one body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum number of payloads in the batch.
    pub payloads: usize,
    /// The maximum number of members in the envelope.
    pub members: usize,
    /// The maximum work: one step for each value, member, escape and line, and more for those that cost more.
    pub steps: usize,
    /// The maximum depth of a payload.
    pub depth: usize,
    /// What to reject besides invalid JSON.
    pub readers: Readers,
}

impl Limits {
    /// The limits for a body of `body_bytes` as sent, that is stored in lines with the content `record`.
    pub fn new(body_bytes: usize, record: Record, readers: Readers) -> Self {
        Self {
            payloads: PAYLOADS_MAX,
            members: ENVELOPE_MEMBERS_MAX,
            steps: body_bytes.saturating_mul(STEPS_PER_BYTE).saturating_add(STEPS_ALLOWED),
            // DuckDB reads 128 levels of a line. The record is one of them.
            depth: MAX_DEPTH - usize::from((record, readers) == (Record::Envelope, Readers::Strict)),
            readers,
        }
    }
}

/// A limit that a body exceeds, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// [`Limits::payloads`].
    Payloads(usize),
    /// [`Limits::members`].
    Members(usize),
    /// [`Limits::steps`].
    Steps(usize),
    /// The body has 4 GiB or more: offsets have 32 bits.
    Bytes,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payloads(max) => write!(f, "the batch has more than {max} payloads"),
            Self::Members(max) => write!(f, "the envelope has more than {max} members"),
            Self::Steps(max) => write!(
                f,
                "the body has more than {max} values, members, escapes and lines; long names and numbers count more than \
                 once (the limit is {STEPS_ALLOWED}, plus {STEPS_PER_BYTE} for each byte of the body as sent)"
            ),
            Self::Bytes => write!(f, "the body has 4 GiB or more"),
        }
    }
}

/// Why a body is not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The body is not a valid batch.
    Invalid(InvalidBatch),
    /// The body exceeds a limit.
    LimitExceeded(LimitExceeded),
    /// The caller did not reserve the memory that decoding needs.
    OutOfBudget,
}
