//! Parses a body to a batch. The payloads stay slices of the body.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use super::InvalidBatch;
use super::limits::{DecodeError, LimitExceeded, Limits, Readers};
use super::scan::{ScanError, Scanner};

/// The format of a body, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFormat {
    /// The envelope, an array of objects, or one object.
    Json,
    /// One object per line.
    Ndjson,
}

/// A batch. The payloads are slices of the body.
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    /// JSON objects in the order of the body; at least one.
    pub payloads: Vec<&'a str>,
    /// The `token` of the envelope.
    pub token: Option<Token<'a>>,
    /// The `version` of the envelope, as JSON.
    pub version: Option<&'a str>,
    /// The names and values of the other members of the envelope. The values are JSON.
    pub context: Vec<(Cow<'a, str>, &'a str)>,
}

/// The token of an envelope, as JSON. `Debug` does not print it.
#[derive(Clone, Copy)]
pub struct Token<'a>(pub(super) &'a str);

impl<'a> Token<'a> {
    /// The token, if it is a string.
    pub fn text(self) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Text<'a>>(self.0).ok().map(|Text(text)| text)
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The initial capacity for payloads. Most batches have fewer.
const PAYLOADS_CAPACITY: usize = 32;
const TRAILING: &str = "not JSON: trailing characters";

impl<'a> Batch<'a> {
    /// Parses `body`. Before the list of payloads grows beyond its initial capacity, `reserve` has to grant its size in
    /// bytes, including the old list that is copied.
    ///
    /// # Errors
    /// [`DecodeError`] for the first error, or the first limit that is exceeded.
    pub fn parse(
        body: &'a [u8],
        format: BatchFormat,
        limits: &Limits,
        reserve: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, DecodeError> {
        if u32::try_from(body.len()).is_err() {
            return Err(DecodeError::LimitExceeded(LimitExceeded::Bytes));
        }
        if body.starts_with(BYTE_ORDER_MARK) {
            return Err(invalid("the body begins with a byte order mark, which is not valid JSON: omit it", None, 0));
        }
        let text = str::from_utf8(body).map_err(|error| invalid("the body is not UTF-8", None, error.valid_up_to()))?;
        let scanner = Scanner::new(text, limits.readers == Readers::Strict, limits.depth, limits.steps);
        let payloads = Payloads { list: Vec::new(), reserve, max: limits.payloads };
        let mut parser = Parser { text, scanner, limits, payloads };
        let batch = match format {
            BatchFormat::Json => parser.json()?,
            BatchFormat::Ndjson => parser.ndjson()?,
        };
        if batch.payloads.is_empty() {
            return Err(invalid("the batch is empty: send at least one payload", None, text.len()));
        }
        Ok(batch)
    }
}

/// The payloads that were parsed.
struct Payloads<'a, 'r> {
    list: Vec<&'a str>,
    reserve: &'r mut dyn FnMut(usize) -> bool,
    max: usize,
}

impl<'a> Payloads<'a, '_> {
    fn push(&mut self, payload: &'a str) -> Result<(), DecodeError> {
        let (length, capacity) = (self.list.len(), self.list.capacity());
        if length >= self.max {
            return Err(DecodeError::LimitExceeded(LimitExceeded::Payloads(self.max)));
        }
        if length == capacity {
            let additional = capacity.max(PAYLOADS_CAPACITY).min(self.max - length);
            // The old list is freed after it was copied to the new one.
            let bytes = (2 * capacity + additional) * size_of::<&str>();
            if capacity > 0 && !(self.reserve)(bytes) {
                return Err(DecodeError::OutOfBudget);
            }
            self.list.reserve_exact(additional);
        }
        self.list.push(payload);
        Ok(())
    }
}

struct Parser<'a, 'r> {
    text: &'a str,
    scanner: Scanner<'a>,
    limits: &'r Limits,
    payloads: Payloads<'a, 'r>,
}

impl<'a> Parser<'a, '_> {
    fn json(&mut self) -> Result<Batch<'a>, DecodeError> {
        self.scanner.skip_whitespace();
        let batch = match self.scanner.peek() {
            None => Batch::default(),
            Some(b'[') => {
                self.array()?;
                Batch { payloads: std::mem::take(&mut self.payloads.list), ..Batch::default() }
            }
            Some(b'{') => self.object()?,
            Some(_) => {
                let reason = "expected a JSON object or an array of objects";
                return Err(invalid(reason, None, self.scanner.offset()));
            }
        };
        self.end(None)?;
        Ok(batch)
    }

    fn ndjson(&mut self) -> Result<Batch<'a>, DecodeError> {
        let bytes = self.text.as_bytes();
        while let Some(rest) = bytes.get(self.scanner.offset()..).filter(|rest| !rest.is_empty()) {
            let end = self.scanner.offset() + memchr(b'\n', rest).unwrap_or(rest.len());
            self.scanner.begin_line(end).map_err(|error| self.error(*error, None))?;
            self.scanner.skip_whitespace();
            if self.scanner.peek().is_some() {
                let index = self.payloads.list.len();
                self.payload()?;
                self.end(Some(index))?;
            }
            self.scanner.end_line();
        }
        Ok(Batch { payloads: std::mem::take(&mut self.payloads.list), ..Batch::default() })
    }

    /// Checks that only whitespace follows.
    fn end(&mut self, payload: Option<usize>) -> Result<(), DecodeError> {
        self.scanner.skip_whitespace();
        match self.scanner.peek() {
            Some(_) => Err(invalid(TRAILING, payload, self.scanner.offset())),
            None => Ok(()),
        }
    }

    /// Parses an array of payloads.
    fn array(&mut self) -> Result<(), DecodeError> {
        if self.scanner.open(b']') {
            return Ok(());
        }
        loop {
            self.payload()?;
            let index = Some(self.payloads.list.len());
            if !self.scanner.next_element(b']').map_err(|error| self.error(*error, index))? {
                return Ok(());
            }
        }
    }

    fn payload(&mut self) -> Result<(), DecodeError> {
        let (start, index) = (self.scanner.offset(), Some(self.payloads.list.len()));
        let payload = self.scanner.value(0).map_err(|error| self.error(*error, index))?;
        if !payload.starts_with('{') {
            return Err(invalid(&format!("expected an object, found {}", kind(payload)), index, start));
        }
        self.payloads.push(payload)
    }

    /// Parses an object: the envelope if it has `data`, else a payload.
    fn object(&mut self) -> Result<Batch<'a>, DecodeError> {
        let start = self.scanner.offset();
        let members = self.members()?;
        let payload = if members.has_data { None } else { Some(0) };
        self.scanner.end_members().map_err(|error| self.error(*error, payload))?;
        if !members.has_data {
            let payload = self.text.get(start..self.scanner.offset()).unwrap_or_default();
            return Ok(Batch { payloads: vec![payload], ..Batch::default() });
        }
        let payloads = std::mem::take(&mut self.payloads.list);
        members.into_batch(payloads).map_err(|offset| invalid("the envelope has a duplicate member", None, offset))
    }

    /// Parses the members of the top-level object.
    fn members(&mut self) -> Result<Members<'a>, DecodeError> {
        let mut members = Members::default();
        if self.scanner.open(b'}') {
            return Ok(members);
        }
        loop {
            let offset = self.scanner.offset();
            let name = self.scanner.member().map_err(|error| self.error(*error, None))?;
            if name == "data" {
                if std::mem::replace(&mut members.has_data, true) {
                    return Err(invalid("the envelope has `data` twice", None, offset));
                }
                match self.scanner.peek() {
                    Some(b'[') => self.array()?,
                    Some(_) => {
                        let reason = "`data` is not an array: expected an array of objects";
                        return Err(invalid(reason, None, self.scanner.offset()));
                    }
                    None => {
                        let error = self.scanner.expected("an array", "an object");
                        return Err(self.error(*error, None));
                    }
                }
            } else {
                let value = self.scanner.value(1).map_err(|error| self.error(*error, None))?;
                members.push(offset, name, value, self.limits.members);
            }
            if members.has_data && members.has_too_many {
                return Err(DecodeError::LimitExceeded(LimitExceeded::Members(self.limits.members)));
            }
            if !self.scanner.next_element(b'}').map_err(|error| self.error(*error, None))? {
                return Ok(members);
            }
        }
    }

    fn error(&self, error: ScanError, payload: Option<usize>) -> DecodeError {
        match error {
            ScanError::Invalid { reason, offset: byte } => DecodeError::Invalid(InvalidBatch { reason, payload, byte }),
            ScanError::TooManySteps => DecodeError::LimitExceeded(LimitExceeded::Steps(self.limits.steps)),
        }
    }
}

fn invalid(reason: &str, payload: Option<usize>, byte: usize) -> DecodeError {
    DecodeError::Invalid(InvalidBatch { reason: reason.to_owned(), payload, byte })
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A member of the top-level object other than `data`.
struct Member<'a> {
    offset: usize,
    name: Cow<'a, str>,
    value: &'a str,
}

/// The members of the top-level object, up to the maximum for an envelope. A payload may have more.
#[derive(Default)]
struct Members<'a> {
    has_data: bool,
    others: Vec<Member<'a>>,
    has_too_many: bool,
}

impl<'a> Members<'a> {
    fn push(&mut self, offset: usize, name: Cow<'a, str>, value: &'a str, max: usize) {
        if self.others.len() < max {
            self.others.push(Member { offset, name, value });
        } else {
            self.has_too_many = true;
        }
    }

    /// The batch, or the offset of a duplicate member.
    fn into_batch(self, payloads: Vec<&'a str>) -> Result<Batch<'a>, usize> {
        let mut names: Vec<(&str, usize)> = self.others.iter().map(|member| (&*member.name, member.offset)).collect();
        names.sort_unstable();
        let mut pairs = names.iter().zip(names.iter().skip(1));
        if let Some((_, (_, offset))) = pairs.find(|((one, _), (other, _))| one == other) {
            return Err(*offset);
        }
        let mut batch = Batch { payloads, ..Batch::default() };
        for Member { name, value, .. } in self.others {
            match &*name {
                "token" => batch.token = Some(Token(value)),
                "version" => batch.version = Some(value),
                _ => batch.context.push((name, value)),
            }
        }
        Ok(batch)
    }
}

/// A JSON string. It is borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
