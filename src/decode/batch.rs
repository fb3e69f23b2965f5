//! The four forms of a batch, found in the body and left where they are.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use super::limits::{DecodeError, LimitExceeded, Limits, Readers};
use super::scan::{Fault, FaultKind, Rules, Scanner};
use super::{InvalidBatch, text};

/// How a body holds its payloads, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFormat {
    /// The envelope, an array of objects, or one object.
    Json,
    /// One object a line.
    Ndjson,
}

/// A batch whose payloads are slices of the body.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// JSON objects, in the order of the body; at least one.
    pub payloads: Vec<&'a str>,
    /// The envelope's `token`.
    pub token: Option<Token<'a>>,
    /// The envelope's `version`, as it was written.
    pub version: Option<&'a str>,
    /// The envelope's other members: names, and values as they were written.
    pub context: Vec<(Cow<'a, str>, &'a str)>,
}

/// A token as it was written, in JSON. It is a secret, so it is not printed.
#[derive(Clone, Copy)]
pub struct Token<'a>(pub(super) &'a str);

impl<'a> Token<'a> {
    /// The string that it spells; none if it is no string.
    pub fn text(self) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Text<'a>>(self.0).ok().map(|Text(text)| text)
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

/// The room for payloads to begin with; most batches have no more.
const USUAL_PAYLOADS: usize = 32;

impl<'a> Batch<'a> {
    /// Finds the batch in `body`. Before it takes memory for more than a few payloads it asks `room` for all that it then
    /// has taken, in bytes; it stops where there is none, and at the first thing over `limits`.
    ///
    /// # Errors
    /// [`DecodeError`], for the first thing wrong.
    pub fn parse(
        body: &'a [u8],
        form: BatchFormat,
        limits: &Limits,
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, DecodeError> {
        if u32::try_from(body.len()).is_err() {
            return Err(DecodeError::LimitExceeded(LimitExceeded::Bytes));
        }
        let text = text::of(body).map_err(DecodeError::Invalid)?;
        let rules = Rules { is_strict: limits.readers == Readers::Strict, depth: limits.depth, steps: limits.steps };
        let payloads = Payloads { found: Vec::new(), room, most: limits.payloads };
        let mut source = Source { text, json: Scanner::new(text, rules), limits, payloads };
        let batch = match form {
            BatchFormat::Json => source.json()?,
            BatchFormat::Ndjson => source.ndjson()?,
        };
        if batch.payloads.is_empty() {
            return Err(invalid("the batch is empty: send at least one payload", None, text.len()));
        }
        Ok(batch)
    }
}

/// The payloads found so far.
struct Payloads<'a, 'r> {
    found: Vec<&'a str>,
    room: &'r mut dyn FnMut(usize) -> bool,
    most: usize,
}

impl<'a> Payloads<'a, '_> {
    fn push(&mut self, payload: &'a str) -> Result<(), DecodeError> {
        let (length, capacity) = (self.found.len(), self.found.capacity());
        if length >= self.most {
            return Err(DecodeError::LimitExceeded(LimitExceeded::Payloads(self.most)));
        }
        if length == capacity {
            let more = capacity.max(USUAL_PAYLOADS).min(self.most - length);
            // The old memory is held until the new one has its contents.
            let bytes = (2 * capacity + more) * size_of::<&str>();
            if capacity > 0 && !(self.room)(bytes) {
                return Err(DecodeError::OutOfBudget);
            }
            self.found.reserve_exact(more);
        }
        self.found.push(payload);
        Ok(())
    }
}

/// The body, and how far it was read.
struct Source<'a, 'r> {
    text: &'a str,
    json: Scanner<'a>,
    limits: &'r Limits,
    payloads: Payloads<'a, 'r>,
}

impl<'a> Source<'a, '_> {
    fn json(&mut self) -> Result<Batch<'a>, DecodeError> {
        self.json.space();
        let batch = match self.json.peek() {
            None => Batch::default(),
            Some(b'[') => {
                self.array()?;
                Batch { payloads: std::mem::take(&mut self.payloads.found), ..Batch::default() }
            }
            Some(b'{') => self.object()?,
            Some(_) => {
                return Err(invalid("expected a JSON object or an array of objects", None, self.json.at()));
            }
        };
        self.json.space();
        match self.json.peek() {
            Some(_) => Err(invalid(TRAILING, None, self.json.at())),
            None => Ok(batch),
        }
    }

    fn ndjson(&mut self) -> Result<Batch<'a>, DecodeError> {
        let bytes = self.text.as_bytes();
        while let Some(rest) = bytes.get(self.json.at()..).filter(|rest| !rest.is_empty()) {
            let end = self.json.at() + memchr(b'\n', rest).unwrap_or(rest.len());
            self.json.line(end).map_err(|fault| refused(fault, None, self.limits))?;
            self.json.space();
            if self.json.peek().is_some() {
                self.payload()?;
                self.json.space();
                if self.json.peek().is_some() {
                    let index = self.payloads.found.len() - 1;
                    return Err(invalid(TRAILING, Some(index), self.json.at()));
                }
            }
            self.json.next_line();
        }
        Ok(Batch { payloads: std::mem::take(&mut self.payloads.found), ..Batch::default() })
    }

    /// An array of payloads.
    fn array(&mut self) -> Result<(), DecodeError> {
        self.json.skip();
        self.json.space();
        if self.json.peek() == Some(b']') {
            self.json.skip();
            return Ok(());
        }
        loop {
            self.payload()?;
            self.json.space();
            match self.json.peek() {
                Some(b',') => self.json.skip(),
                Some(b']') => break,
                _ => {
                    let fault = self.json.expected("`,` or `]`", "an array");
                    let index = Some(self.payloads.found.len());
                    return fault.map_err(|fault| refused(fault, index, self.limits));
                }
            }
            self.json.space();
        }
        self.json.skip();
        Ok(())
    }

    fn payload(&mut self) -> Result<(), DecodeError> {
        let (start, index) = (self.json.at(), Some(self.payloads.found.len()));
        let payload = self.json.value(0).map_err(|fault| refused(fault, index, self.limits))?;
        if !payload.starts_with('{') {
            return Err(invalid(&format!("{}, where an object is expected", kind(payload)), index, start));
        }
        self.payloads.push(payload)
    }

    /// An object: the envelope if it has `data`, else a payload.
    fn object(&mut self) -> Result<Batch<'a>, DecodeError> {
        let start = self.json.at();
        let members = self.members()?;
        // Only now it is clear of what its names are.
        let payload = if members.has_data { None } else { Some(0) };
        self.json.end_object().map_err(|fault| refused(fault, payload, self.limits))?;
        if !members.has_data {
            let payload = self.text.get(start..self.json.at()).unwrap_or_default();
            return Ok(Batch { payloads: vec![payload], ..Batch::default() });
        }
        let payloads = std::mem::take(&mut self.payloads.found);
        members.into_batch(payloads).map_err(|at| invalid("the envelope has a member twice", None, at))
    }

    /// The members of the object at the top.
    fn members(&mut self) -> Result<Members<'a>, DecodeError> {
        let mut members = Members::default();
        let limits = self.limits;
        let outside = |fault| refused(fault, None, limits);
        self.json.skip();
        self.json.space();
        if self.json.peek() == Some(b'}') {
            self.json.skip();
            return Ok(members);
        }
        loop {
            let at = self.json.at();
            let name = self.json.member().map_err(outside)?;
            if name == "data" {
                if self.json.peek().is_some_and(|byte| byte != b'[') {
                    let reason = "`data` is no array: it must be an array of objects";
                    return Err(invalid(reason, None, self.json.at()));
                }
                if std::mem::replace(&mut members.has_data, true) {
                    return Err(invalid("the envelope has `data` twice", None, at));
                }
                if self.json.peek().is_none() {
                    self.json.expected("an array", "an object").map_err(outside)?;
                }
                self.array()?;
            } else {
                let value = self.json.value(1).map_err(outside)?;
                members.push(at, name, value, limits.members);
            }
            if members.has_data && members.are_too_many {
                return Err(DecodeError::LimitExceeded(LimitExceeded::Members(limits.members)));
            }
            self.json.space();
            match self.json.peek() {
                Some(b',') => self.json.skip(),
                Some(b'}') => break,
                _ => self.json.expected("`,` or `}`", "an object").map_err(outside)?,
            }
            self.json.space();
        }
        self.json.skip();
        Ok(members)
    }
}

const TRAILING: &str = "not JSON: trailing characters";

fn invalid(reason: &str, payload: Option<usize>, byte: usize) -> DecodeError {
    DecodeError::Invalid(InvalidBatch { reason: reason.to_owned(), payload, byte })
}

fn refused(fault: Fault, payload: Option<usize>, limits: &Limits) -> DecodeError {
    match fault.kind {
        FaultKind::Invalid(reason) => DecodeError::Invalid(InvalidBatch { reason, payload, byte: fault.at }),
        FaultKind::TooManySteps => DecodeError::LimitExceeded(LimitExceeded::Steps(limits.steps)),
    }
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

/// A member of an object at the top that is not `data`.
struct Member<'a> {
    at: usize,
    name: Cow<'a, str>,
    value: &'a str,
}

/// The members of an object at the top, as many as an envelope may have.
#[derive(Default)]
struct Members<'a> {
    has_data: bool,
    others: Vec<Member<'a>>,
    are_too_many: bool,
}

impl<'a> Members<'a> {
    fn push(&mut self, at: usize, name: Cow<'a, str>, value: &'a str, most: usize) {
        if self.others.len() < most {
            self.others.push(Member { at, name, value });
        } else {
            // A payload may have more.
            self.are_too_many = true;
        }
    }

    /// The batch; or where a member stands that the envelope has twice.
    fn into_batch(self, payloads: Vec<&'a str>) -> Result<Batch<'a>, usize> {
        let mut names: Vec<(&str, usize)> = self.others.iter().map(|member| (&*member.name, member.at)).collect();
        names.sort_unstable();
        let mut pairs = names.iter().zip(names.iter().skip(1));
        if let Some((_, (_, at))) = pairs.find(|((one, _), (other, _))| one == other) {
            return Err(*at);
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

/// A string, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
