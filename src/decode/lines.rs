//! The lines of a batch.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
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
    /// The variant of the client: lower case letters, digits, `_` and `-`, which need no escapes in JSON.
    pub variant: Option<&'a str>,
    /// The headers of the worker tier's daemon, as a JSON object. It becomes the member `sqsd` of `context`, unless the envelope has
    /// a member of that name.
    pub sqsd: Option<&'a str>,
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
                let variant = self.variant.map_or(0, |name| VARIANT.len() + name.len() + 1);
                let request_id = REQUEST_ID.len() + self.request_id.len() + 1;
                let known = RECEIVED_AT.len() + rfc3339::MILLIS_BYTES + request_id + tenant + variant;
                known + PAYLOAD.len() + RECORD_END.len()
            }
        }
    }
}

/// NDJSON: one line for each payload. Each line ends with a line feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub bytes: Vec<u8>,
    /// The number of lines.
    pub payloads: u32,
}

/// The lines of a batch before they are written: their size is known, and their memory can be reserved. Every line repeats
/// the fields of the envelope, so the lines can be much larger than the body.
#[derive(Debug)]
pub struct LinesPlan<'a> {
    payloads: Vec<&'a str>,
    wrapper: Wrapper,
    overhead: usize,
    bytes: usize,
}

/// A plan that owns its body, so that another thread can write the lines.
#[derive(Debug)]
pub struct OwnedLinesPlan {
    body: Bytes,
    payloads: Vec<Range<u32>>,
    wrapper: Wrapper,
    bytes: usize,
}

/// The part of every line before and after the payload.
#[derive(Debug)]
struct Wrapper {
    head: Vec<u8>,
    tail: &'static [u8],
}

impl<'a> LinesPlan<'a> {
    /// Plans the lines of `batch`.
    pub fn new(batch: Batch<'a>, meta: &BatchMetadata<'_>) -> Self {
        let wrapper = match meta.record {
            Record::Envelope => Wrapper { head: head(&batch, meta), tail: RECORD_END },
            Record::Payload => Wrapper { head: Vec::new(), tail: END },
        };
        let overhead = (wrapper.head.len() + wrapper.tail.len()).saturating_mul(batch.payloads.len());
        let bytes = batch.payloads.iter().fold(overhead, |sum, payload| sum.saturating_add(payload.len()));
        Self { payloads: batch.payloads, wrapper, overhead, bytes }
    }

    /// The size of the lines.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part of it that is not payloads.
    pub fn overhead(&self) -> usize {
        self.overhead
    }

    /// The memory of the list of payloads, which the plan keeps until the lines are written.
    pub fn list_bytes(&self) -> usize {
        self.payloads.capacity() * size_of::<&str>()
    }

    /// Writes the lines.
    pub fn write(&self) -> Lines {
        write(&self.wrapper, self.payloads.iter().map(|payload| payload.as_bytes()), self.bytes)
    }

    /// The same plan for another thread; `None` unless `body` is the memory that the batch was parsed from.
    pub fn into_owned(self, body: Bytes) -> Option<OwnedLinesPlan> {
        let range = |payload: &&str| {
            let start = payload.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
            let end = start.checked_add(payload.len()).filter(|end| *end <= body.len())?;
            // A body is smaller than 4 GiB.
            Some(start as u32..end as u32)
        };
        let payloads = self.payloads.iter().map(range).collect::<Option<_>>()?;
        Some(OwnedLinesPlan { body, payloads, wrapper: self.wrapper, bytes: self.bytes })
    }
}

impl OwnedLinesPlan {
    /// The size of the lines.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory of the plan: the body, its list of payloads and the part that every line repeats.
    pub fn plan_bytes(&self) -> usize {
        self.body.len() + self.payloads.len() * size_of::<Range<u32>>() + self.wrapper.head.len()
    }

    /// Writes the lines.
    pub fn write(&self) -> Lines {
        let payload = |range: &Range<u32>| self.body.get(range.start as usize..range.end as usize).unwrap_or_default();
        write(&self.wrapper, self.payloads.iter().map(payload), self.bytes)
    }
}

fn write<'p>(
    Wrapper { head, tail }: &Wrapper,
    payloads: impl ExactSizeIterator<Item = &'p [u8]>,
    size: usize,
) -> Lines {
    let mut bytes = Vec::with_capacity(size);
    // `Limits` allows far fewer payloads.
    let count = payloads.len() as u32;
    for payload in payloads {
        bytes.extend_from_slice(head);
        push_on_one_line(&mut bytes, payload);
        bytes.extend_from_slice(tail);
    }
    Lines { bytes, payloads: count }
}

/// The initial capacity for the part of a line before the payload.
const HEAD_CAPACITY: usize = 256;

const RECEIVED_AT: &[u8] = b"{\"received_at\":\"";
const REQUEST_ID: &[u8] = b"\",\"request_id\":\"";
const TENANT: &[u8] = b",\"tenant\":\"";
const VARIANT: &[u8] = b",\"variant\":\"";
/// The member of `context` with the headers of the daemon.
const SQSD: &str = "sqsd";
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
    if let Some(name) = meta.variant {
        head.extend_from_slice(VARIANT);
        head.extend_from_slice(name.as_bytes());
        head.push(b'"');
    }
    for (name, value) in [(",\"token\":", token), (",\"version\":", batch.version)] {
        if let Some(value) = value {
            head.extend_from_slice(name.as_bytes());
            push_on_one_line(&mut head, value.as_bytes());
        }
    }
    let members = batch.context.iter().map(|(name, value)| (name.as_ref(), *value));
    // Readers fail on names that differ in case alone.
    let is_taken = batch.context.iter().any(|(name, _)| name.eq_ignore_ascii_case(SQSD));
    let members = members.chain(meta.sqsd.filter(|_| !is_taken).map(|json| (SQSD, json)));
    let start = head.len();
    for (i, (name, value)) in members.enumerate() {
        head.extend_from_slice(if i == 0 { b",\"context\":{" } else { b"," });
        push_string(&mut head, name);
        head.push(b':');
        push_on_one_line(&mut head, value.as_bytes());
    }
    if head.len() > start {
        head.push(b'}');
    }
    head.extend_from_slice(PAYLOAD);
    head
}

/// Appends `json` with its line breaks replaced by spaces.
fn push_on_one_line(bytes: &mut Vec<u8>, json: &[u8]) {
    let start = bytes.len();
    bytes.extend_from_slice(json);
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
