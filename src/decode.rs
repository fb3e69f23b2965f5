//! Decodes a body to the lines of its payloads. Pure: no I/O, no HTTP.
//!
//! A batch is the envelope `{"version":…,"token":…,"data":[{…},…]}`, an array of objects, one object without `data`, or
//! NDJSON. [`Batch::parse`] checks the body in one pass and leaves each payload as a slice of it, and [`LinesPlan`]
//! copies the payloads into lines. Authentication and rate limits are applied between the two steps.
//!
//! A payload is stored byte for byte, except that line breaks become spaces. They can only occur between tokens, because
//! a JSON string cannot contain them (RFC 8259, 7).
//!
//! Besides what RFC 8259 forbids, a body is invalid if it has an unpaired surrogate (RFC 7493, 2.1), on which DuckDB and
//! other readers fail for the whole object; nests deeper than [`MAX_DEPTH`]; or has a duplicate member in the envelope.
//! [`Readers::Strict`] also rejects what makes one of the readers in docs/readers.md fail for the whole object.
//!
//! [`Limits`] bound the cost of a body: decoding stops at the first payload, member or step that exceeds one of them.

mod batch;
mod limits;
mod lines;
mod names;
mod number;
mod scan;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

pub use batch::{Batch, BatchFormat, Token};
pub use limits::{DecodeError, LimitExceeded, Limits, Readers};
pub use lines::{BatchMetadata, Lines, LinesPlan, OwnedLinesPlan, Record};

/// The maximum depth of a payload. The payload itself is the first level.
pub const MAX_DEPTH: usize = 128;

/// An error in a body, and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidBatch {
    /// What is wrong and how to correct it.
    pub reason: String,
    /// The index of the invalid payload, from 0; `None` if the error is outside of the payloads.
    pub payload: Option<usize>,
    /// The offset in the decompressed body, from 0.
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
