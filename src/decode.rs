//! Bytes to payload lines. Pure: no I/O, no HTTP.
//!
//! A batch is the envelope `{"version":…,"token":…,"data":[{…},…]}`, an array of objects, one object without `data`, or
//! NDJSON. Decoding borrows: serde_json walks the body once and leaves each payload as the slice of the body that it is
//! (`RawValue`), so the only copy of a payload's bytes is the one into the job's lines.
//!
//! A payload is stored byte for byte, save that a line break between its tokens becomes a space: inside a JSON string a
//! line break cannot stand (RFC 8259, 7), so whatever breaks a line is between tokens.
//!
//! Refused beyond what RFC 8259 demands: escapes that are half of a surrogate pair (RFC 7493, 2.1), since a reader such
//! as DuckDB gives up on the whole object for one of them; nesting deeper than [`MAX_DEPTH`]; a member given twice in the
//! envelope, where it would be anyone's guess which one is meant.

mod batch;
mod check;
mod lines;
#[cfg(test)]
mod tests;

use std::fmt;

pub use batch::{Batch, Form};
pub use lines::{Lines, Meta, Record};

/// How deep a payload may nest; the payload itself is the first level.
pub const MAX_DEPTH: usize = 128;

/// Decodes `body` and writes its lines, if `grant` says that there is room for so many bytes: the envelope's own fields
/// stand in every line, so the lines of a small body can be long, and they are not written before they are allowed.
///
/// # Errors
/// [`DecodeError`], for the first thing wrong; no line is left behind then.
pub fn decode(
    body: &[u8],
    form: Form,
    meta: &Meta<'_>,
    grant: impl FnOnce(usize) -> bool,
) -> Result<Lines, DecodeError> {
    let text = check::utf8(body)?;
    let batch = Batch::parse(text, form)?;
    Lines::write(&batch, meta, grant)
}

/// Why a body became no lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is no batch.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller has no room for the lines.
    #[error("the stored lines would be {bytes} bytes long")]
    NoRoom {
        /// How long they would be.
        bytes: usize,
    },
}

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong and what to mend.
    pub reason: String,
    /// The index of the bad payload, from 0; none when it is not a payload that is bad.
    pub payload: Option<usize>,
    /// The offset of the bad byte in the decoded body, from 0.
    pub byte: usize,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.payload {
            write!(f, "payload {index}: ")?;
        }
        write!(f, "{} (byte {})", self.reason, self.byte)
    }
}

impl std::error::Error for Invalid {}
