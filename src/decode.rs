//! Bytes to payload lines. Pure: no I/O, no HTTP.
//!
//! A batch is the envelope `{"version":…,"token":…,"data":[{…},…]}`, an array of objects, one object without `data`, or
//! NDJSON. Decoding borrows: one pass over the body checks all that is checked and leaves each payload as the slice of the
//! body that it is, so the only copy of a payload's bytes is the one into the job's lines. [`Batch::parse`] finds the payloads,
//! and [`Lines::write`] writes them, in two steps: who may send them, and how many, is decided in between.
//!
//! A payload is stored byte for byte, save that a line break between its tokens becomes a space: inside a JSON string a
//! line break cannot stand (RFC 8259, 7), so whatever breaks a line is between tokens.
//!
//! Refused beyond what RFC 8259 demands: escapes that are half of a surrogate pair (RFC 7493, 2.1), since a reader such
//! as DuckDB gives up on the whole object for one of them; nesting deeper than [`MAX_DEPTH`]; a member given twice in the
//! envelope, where it is not clear which one is meant; and with [`Readers::Strict`] what makes one of the readers in
//! docs/readers.md fail on the whole object.
//!
//! What a body costs is bounded by [`Limits`]: decoding stops at the first payload, member or step over one of them.

mod batch;
mod limits;
mod lines;
mod names;
mod number;
mod scan;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;

pub use batch::{Batch, BatchFormat, Token};
pub use limits::{DecodeError, LimitExceeded, Limits, Readers};
pub use lines::{BatchMetadata, Lines, OutOfBudget, Record};

/// How deep a payload may nest; the payload itself is the first level.
pub const MAX_DEPTH: usize = 128;

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidBatch {
    /// What is wrong and what to mend.
    pub reason: String,
    /// The index of the bad payload, from 0; none when it is not a payload that is bad.
    pub payload: Option<usize>,
    /// The offset of the bad byte in the decoded body, from 0.
    pub byte: usize,
}

impl fmt::Display for InvalidBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.payload {
            write!(f, "payload {index}: ")?;
        }
        write!(f, "{} (byte {})", self.reason, self.byte)
    }
}

impl std::error::Error for InvalidBatch {}
