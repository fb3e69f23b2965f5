//! The four forms of a batch, found in the body and left where they are.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Invalid, check};

/// How a body holds its payloads, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
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

impl<'a> Batch<'a> {
    /// Finds the batch in `body`.
    ///
    /// # Errors
    /// [`Invalid`], for the first thing wrong.
    pub fn read(body: &'a [u8], form: Form) -> Result<Self, Invalid> {
        let source = Source { text: check::utf8(body)? };
        let batch = match form {
            Form::Json => source.json()?,
            Form::Ndjson => source.ndjson()?,
        };
        if batch.payloads.is_empty() {
            return Err(source.invalid("the batch is empty: send at least one payload", None, source.end()));
        }
        for (index, payload) in batch.payloads.iter().enumerate() {
            source.check_payload(index, payload)?;
        }
        let token = batch.token.map(|Token(json)| json);
        let own = token.iter().chain(&batch.version).chain(batch.context.iter().map(|(_, value)| value));
        for value in own {
            check::value(value).map_err(|(reason, at)| source.invalid(&reason, None, source.offset(value) + at))?;
        }
        Ok(batch)
    }
}

/// The body, for finding offsets in it.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
}

impl<'a> Source<'a> {
    fn json(self) -> Result<Batch<'a>, Invalid> {
        let text = self.text.trim_matches(WHITESPACE);
        let index = Cell::new(None);
        let mut json = serde_json::Deserializer::from_str(text);
        let parsed = match text.as_bytes().first() {
            None => return Ok(Batch::default()),
            Some(b'[') => {
                let payloads = Payloads { index: &index }.deserialize(&mut json);
                payloads.map(|payloads| Ok(Batch { payloads, ..Batch::default() }))
            }
            Some(b'{') => json.deserialize_map(Object { index: &index }).map(|members| members.into_batch(text)),
            Some(_) => {
                return Err(self.invalid("expected a JSON object or an array of objects", None, self.offset(text)));
            }
        };
        let batch = parsed.and_then(|batch| json.end().map(|()| batch));
        let batch = batch.map_err(|error| self.refused(&error, text, index.get()))?;
        batch.map_err(|name| self.invalid(&format!("the envelope has {name} twice"), None, self.offset(text)))
    }

    fn ndjson(self) -> Result<Batch<'a>, Invalid> {
        let mut payloads = Vec::new();
        let ends = memchr_iter(b'\n', self.text.as_bytes()).chain(std::iter::once(self.text.len()));
        let mut start = 0;
        for end in ends {
            let line = self.text.get(start..end).unwrap_or_default().trim_matches(WHITESPACE);
            start = end + 1;
            if line.is_empty() {
                continue;
            }
            let payload = serde_json::from_str::<&RawValue>(line);
            payloads.push(payload.map_err(|error| self.refused(&error, line, Some(payloads.len())))?.get());
        }
        Ok(Batch { payloads, ..Batch::default() })
    }

    fn check_payload(self, index: usize, payload: &str) -> Result<(), Invalid> {
        let start = self.offset(payload);
        if !payload.starts_with('{') {
            let reason = format!("{}, where an object is expected", kind(payload));
            return Err(self.invalid(&reason, Some(index), start));
        }
        check::value(payload).map_err(|(reason, at)| self.invalid(&reason, Some(index), start + at))
    }

    /// What serde_json found wrong in `part`, in our terms: an offset in the body instead of line and column.
    fn refused(self, error: &serde_json::Error, part: &str, payload: Option<usize>) -> Invalid {
        if error.is_data() {
            // The one thing that can be JSON and yet not what was asked for.
            let data = serde_json::from_str::<Envelope<'_>>(part).map(|envelope| self.offset(envelope.data.get()));
            let at = data.unwrap_or_else(|_| self.offset(part) + error.column().saturating_sub(1).min(part.len()));
            return self.invalid("`data` is no array: it must be an array of objects", None, at);
        }
        let said = error.to_string();
        let said = said.rfind(" at line ").and_then(|end| said.get(..end)).unwrap_or(&said);
        let reason = format!("not JSON: {said}");
        let line_start = match error.line() {
            0 | 1 => 0,
            line => memchr_iter(b'\n', part.as_bytes()).nth(line - 2).map_or(0, |at| at + 1),
        };
        // The column says how many bytes the parser had taken when it gave up, the bad one included, save for a control
        // character, which it does not take.
        let taken = error.column() + usize::from(said.starts_with("control character"));
        let within = (line_start + taken.saturating_sub(1)).min(part.len());
        let within = if error.is_eof() { part.len() } else { within };
        self.invalid(&reason, payload, self.offset(part) + within)
    }

    fn invalid(self, reason: &str, payload: Option<usize>, byte: usize) -> Invalid {
        Invalid { reason: reason.to_owned(), payload, byte }
    }

    /// Where `part`, a slice of the body, begins in it.
    fn offset(self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    fn end(self) -> usize {
        self.text.len()
    }
}

/// JSON's own white space (RFC 8259, 2), which is less than Unicode's.
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// An array of payloads. Leaves in `index` which one is being read, for the error that may come.
struct Payloads<'c> {
    index: &'c Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for Payloads<'_> {
    type Value = Vec<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Payloads<'_> {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut payloads = Vec::new();
        self.index.set(Some(0));
        while let Some(payload) = items.next_element::<&RawValue>()? {
            payloads.push(payload.get());
            self.index.set(Some(payloads.len()));
        }
        self.index.set(None);
        Ok(payloads)
    }
}

/// A top-level object: the envelope if it has `data`, else a payload.
struct Object<'c> {
    index: &'c Cell<Option<usize>>,
}

#[derive(Default)]
struct Members<'a> {
    data: Option<Vec<&'a str>>,
    data_twice: bool,
    others: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(Text(name)) = map.next_key()? {
            if name == "data" {
                members.data_twice |= members.data.is_some();
                members.data = Some(map.next_value_seed(Payloads { index: self.index })?);
            } else {
                members.others.push((name, map.next_value::<&RawValue>()?.get()));
            }
        }
        Ok(members)
    }
}

impl<'a> Members<'a> {
    /// The batch; or the name of the member that the envelope has twice.
    fn into_batch(self, text: &'a str) -> Result<Batch<'a>, String> {
        let Some(payloads) = self.data else {
            return Ok(Batch { payloads: vec![text], ..Batch::default() });
        };
        if self.data_twice {
            return Err("`data`".to_owned());
        }
        let mut names: Vec<&str> = self.others.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err("a member".to_owned());
        }
        let mut batch = Batch { payloads, ..Batch::default() };
        for (name, value) in self.others {
            match name.as_ref() {
                "token" => batch.token = Some(Token(value)),
                "version" => batch.version = Some(value),
                _ => batch.context.push((name, value)),
            }
        }
        Ok(batch)
    }
}

/// Finds `data`, whatever it is.
#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// A string, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
