//! How much of a body is decoded, and what is refused for the readers' sake.

use std::fmt;

use super::{InvalidBatch, MAX_DEPTH, Record};

/// A batch may hold so many payloads, however short its lines are.
const PAYLOADS_MAX: usize = 500_000;
/// An envelope may hold so many members: each line of the batch repeats them.
const ENVELOPE_MEMBERS_MAX: usize = 1024;
/// Values, members, escapes and lines that any body may hold.
const STEPS_ALLOWED: usize = 1 << 19;
/// So many more for each byte of the body as it was sent. What senders write takes more than one byte for each.
const STEPS_PER_BYTE: usize = 8;

/// For whose sake payloads are refused that are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// What makes one of the readers in docs/readers.md fail on the whole object is refused.
    Strict,
    /// Everything that is JSON is taken.
    Any,
}

/// How much of a body is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most payloads of a batch.
    pub payloads: usize,
    /// The most members of an envelope.
    pub members: usize,
    /// The most values, members, escapes and lines; some count more than once.
    pub steps: usize,
    /// How deep a payload may nest.
    pub depth: usize,
    /// What is refused beyond that.
    pub readers: Readers,
}

impl Limits {
    /// The limits for a body of so many bytes as it was sent, which is stored in lines such as `record` says.
    pub fn new(sent: usize, record: Record, readers: Readers) -> Self {
        Self {
            payloads: PAYLOADS_MAX,
            members: ENVELOPE_MEMBERS_MAX,
            steps: sent.saturating_mul(STEPS_PER_BYTE).saturating_add(STEPS_ALLOWED),
            // DuckDB reads 128 levels of a line, of which the record is one.
            depth: MAX_DEPTH - usize::from((record, readers) == (Record::Envelope, Readers::Strict)),
            readers,
        }
    }
}

/// The limit that a body is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// [`Limits::payloads`].
    Payloads(usize),
    /// [`Limits::members`].
    Members(usize),
    /// [`Limits::steps`].
    Steps(usize),
    /// Offsets have 32 bits.
    Bytes,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payloads(most) => write!(f, "the batch has more than {most} payloads"),
            Self::Members(most) => write!(f, "the envelope has more than {most} members"),
            Self::Steps(most) => write!(
                f,
                "the body has more than {most} values, members, escapes and lines, long names and numbers counted more \
                 than once ({STEPS_ALLOWED} and {STEPS_PER_BYTE} for each byte as sent)"
            ),
            Self::Bytes => write!(f, "the body has 4 GiB or more"),
        }
    }
}

/// Why there is no batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The body is wrong.
    Invalid(InvalidBatch),
    /// The body is too much.
    LimitExceeded(LimitExceeded),
    /// The caller has no room for what decoding takes.
    OutOfBudget,
}
