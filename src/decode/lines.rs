//! The lines that a batch is stored as.

use std::io::{self, Write};
use std::time::SystemTime;

use memchr::memchr2;
use time::OffsetDateTime;

use super::{Batch, Token};

/// What a stored line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The payload with what the batch and the server know about it.
    Envelope,
    /// The bare payload.
    Payload,
}

/// What the server knows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchMetadata<'a> {
    /// When the request came.
    pub received_at: SystemTime,
    /// The request's id: visible ASCII without quotes and backslashes, so that it stands in JSON as it is.
    pub request_id: &'a str,
    /// Whose batch it is, when senders have names: letters, digits and `._-`, which stand in a line in place of the token.
    pub tenant: Option<&'a str>,
    /// What a line holds.
    pub record: Record,
}

impl BatchMetadata<'_> {
    /// The least that stands around a payload in a line, in bytes.
    pub fn min_line_overhead(&self) -> usize {
        match self.record {
            Record::Payload => END.len(),
            Record::Envelope => {
                let tenant = self.tenant.map_or(0, |name| TENANT.len() + name.len() + 1);
                let known = RECEIVED_AT.len() + RFC3339_BYTES + REQUEST_ID.len() + self.request_id.len() + 1 + tenant;
                known + PAYLOAD.len() + RECORD_END.len()
            }
        }
    }
}

/// The caller has no room for the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored lines would be {bytes} bytes long")]
pub struct OutOfBudget {
    /// How long they would be.
    pub bytes: usize,
}

/// NDJSON, one line a payload, each ended by a line feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub payloads: u32,
}

impl Lines {
    /// Writes the lines of `batch`, if `grant` says that there is room for so many bytes: the envelope's own fields stand in
    /// every line, so the lines of a small body can be long, and they are not written before they are allowed.
    ///
    /// # Errors
    /// [`OutOfBudget`]; no line is left behind then.
    pub fn write(
        batch: &Batch<'_>,
        meta: &BatchMetadata<'_>,
        grant: impl FnOnce(usize) -> bool,
    ) -> Result<Self, OutOfBudget> {
        let (head, tail): (Vec<u8>, &[u8]) = match meta.record {
            Record::Envelope => (head(batch, meta), RECORD_END),
            Record::Payload => (Vec::new(), END),
        };
        let around = (head.len() + tail.len()).saturating_mul(batch.payloads.len());
        let length = batch.payloads.iter().fold(around, |sum, payload| sum.saturating_add(payload.len()));
        let no_room = OutOfBudget { bytes: length };
        let Ok(payloads) = u32::try_from(batch.payloads.len()) else { return Err(no_room) };
        if !grant(length) {
            return Err(no_room);
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

/// Room for what lines begin with, so that it is not moved as it is written.
const HEAD_USUAL_BYTES: usize = 256;

const RECEIVED_AT: &[u8] = b"{\"received_at\":\"";
const REQUEST_ID: &[u8] = b"\",\"request_id\":\"";
const TENANT: &[u8] = b",\"tenant\":\"";
const PAYLOAD: &[u8] = b",\"payload\":";
const RECORD_END: &[u8] = b"}\n";
const END: &[u8] = b"\n";
/// `2026-11-20T13:00:00.123Z`
const RFC3339_BYTES: usize = 24;

/// What every line of the batch begins with, up to the payload.
fn head(batch: &Batch<'_>, meta: &BatchMetadata<'_>) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_USUAL_BYTES);
    head.extend_from_slice(RECEIVED_AT);
    push_rfc3339(&mut head, meta.received_at);
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

/// Appends `json`, with spaces for its line breaks.
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
    // `Value`'s own writer, since a write into memory has no error to report.
    bytes.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// `2026-11-20T13:00:00.123Z` (RFC 3339), in UTC.
fn push_rfc3339(bytes: &mut Vec<u8>, at: SystemTime) {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, milli) = at.to_hms_milli();
    let month = u8::from(month);
    // A vector takes whatever is written to it.
    let _: io::Result<()> =
        write!(bytes, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z");
}
