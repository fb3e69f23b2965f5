//! The lines of a batch.

use std::time::SystemTime;

use memchr::memchr2;

use super::{Batch, Token};
use crate::rfc3339;

/// The content of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The payload, with the fields of the envelope and of the request.
    Envelope,
    /// The payload alone.
    Payload,
}

/// The fields that the server adds to a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchMetadata<'a> {
    /// The time of the request.
    pub received_at: SystemTime,
    /// The id of the request: visible ASCII without quotes and backslashes, so that it needs no escapes in JSON.
    pub request_id: &'a str,
    /// The name of the tenant, which replaces the token: letters, digits and `._-`, which need no escapes in JSON.
    pub tenant: Option<&'a str>,
    /// The content of a line.
    pub record: Record,
}

impl BatchMetadata<'_> {
    /// The minimum size of a line without its payload, in bytes.
    pub fn min_line_overhead(&self) -> usize {
        match self.record {
            Record::Payload => END.len(),
            Record::Envelope => {
                let tenant = self.tenant.map_or(0, |name| TENANT.len() + name.len() + 1);
                let known =
                    RECEIVED_AT.len() + rfc3339::MILLIS_BYTES + REQUEST_ID.len() + self.request_id.len() + 1 + tenant;
                known + PAYLOAD.len() + RECORD_END.len()
            }
        }
    }
}

/// The caller did not reserve the memory for the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored lines would take {bytes} bytes")]
pub struct OutOfBudget {
    /// The size of the lines.
    pub bytes: usize,
}

/// NDJSON: one line for each payload. Each line ends with a line feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub bytes: Vec<u8>,
    /// The number of lines.
    pub payloads: u32,
}

impl Lines {
    /// Writes the lines of `batch` if `reserve` grants their size in bytes. Each line repeats the fields of the envelope, so
    /// the lines can be much larger than the body.
    ///
    /// # Errors
    /// [`OutOfBudget`], if `reserve` returns false.
    pub fn write(
        batch: &Batch<'_>,
        meta: &BatchMetadata<'_>,
        reserve: impl FnOnce(usize) -> bool,
    ) -> Result<Self, OutOfBudget> {
        let (head, tail): (Vec<u8>, &[u8]) = match meta.record {
            Record::Envelope => (head(batch, meta), RECORD_END),
            Record::Payload => (Vec::new(), END),
        };
        let overhead = (head.len() + tail.len()).saturating_mul(batch.payloads.len());
        let length = batch.payloads.iter().fold(overhead, |sum, payload| sum.saturating_add(payload.len()));
        let out_of_budget = OutOfBudget { bytes: length };
        let Ok(payloads) = u32::try_from(batch.payloads.len()) else { return Err(out_of_budget) };
        if !reserve(length) {
            return Err(out_of_budget);
        }
        let mut bytes = Vec::with_capacity(length);
        for payload in &batch.payloads {
            bytes.extend_from_slice(&head);
            push_on_one_line(&mut bytes, payload);
            bytes.extend_from_slice(tail);
        }
        Ok(Self { bytes, payloads })
    }
}

/// The initial capacity for the part of a line before the payload.
const HEAD_CAPACITY: usize = 256;

const RECEIVED_AT: &[u8] = b"{\"received_at\":\"";
const REQUEST_ID: &[u8] = b"\",\"request_id\":\"";
const TENANT: &[u8] = b",\"tenant\":\"";
const PAYLOAD: &[u8] = b",\"payload\":";
const RECORD_END: &[u8] = b"}\n";
const END: &[u8] = b"\n";

/// The part of every line before the payload.
fn head(batch: &Batch<'_>, meta: &BatchMetadata<'_>) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_CAPACITY);
    head.extend_from_slice(RECEIVED_AT);
    head.extend_from_slice(&rfc3339::with_millis(meta.received_at));
    head.extend_from_slice(REQUEST_ID);
    head.extend_from_slice(meta.request_id.as_bytes());
    head.push(b'"');
    let token = match meta.tenant {
        Some(name) => {
            head.extend_from_slice(TENANT);
            head.extend_from_slice(name.as_bytes());
            head.push(b'"');
            None
        }
        None => batch.token.map(|Token(json)| json),
    };
    for (name, value) in [(",\"token\":", token), (",\"version\":", batch.version)] {
        if let Some(value) = value {
            head.extend_from_slice(name.as_bytes());
            push_on_one_line(&mut head, value);
        }
    }
    for (i, (name, value)) in batch.context.iter().enumerate() {
        head.extend_from_slice(if i == 0 { b",\"context\":{" } else { b"," });
        push_string(&mut head, name);
        head.push(b':');
        push_on_one_line(&mut head, value);
    }
    if !batch.context.is_empty() {
        head.push(b'}');
    }
    head.extend_from_slice(PAYLOAD);
    head
}

/// Appends `json` with its line breaks replaced by spaces.
fn push_on_one_line(bytes: &mut Vec<u8>, json: &str) {
    let start = bytes.len();
    bytes.extend_from_slice(json.as_bytes());
    let mut rest = bytes.get_mut(start..).unwrap_or_default();
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        let (before, after) = rest.split_at_mut(at + 1);
        if let Some(line_break) = before.last_mut() {
            *line_break = b' ';
        }
        rest = after;
    }
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}
