//! One pass over JSON: the grammar of RFC 8259, and what is checked beyond it.
//!
//! It recurses as deep as values may nest and no deeper, allocates for the names of open objects alone, and counts its
//! steps: a text that was compressed a thousandfold costs what its values are many, not what its bytes are.

use std::borrow::Cow;

use super::names::{Names, unescaped};
use super::number::{self, Number};

/// So many member names may be open at once: those of an object and of the objects that it stands in.
pub(super) const OPEN_NAMES_MAX: usize = 65_536;
/// Spark's reader takes longer names for damage.
const NAME_MAX_BYTES: usize = 50_000;
/// What a name that needs more than one look costs, in steps, besides those for its bytes and letters.
const LONG_WAY_STEPS: usize = 16;
/// So many bytes of such a name cost a step.
const LONG_WAY_BYTES: usize = 8;
/// So many of them if it has escapes, each of which may be a letter to be looked up.
const ESCAPED_BYTES: usize = 2;
/// What a letter beyond ASCII costs in steps: its small letter is looked up.
const LETTER_STEPS: usize = 2;
/// What it costs to find out how large a number is, besides the steps for its bytes.
const NUMBER_STEPS: usize = 4;
/// So many bytes of such a number cost a step.
const NUMBER_BYTES: usize = 8;
/// A message names as much of a member's name.
const SHOWN_CHARS: usize = 80;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The offset in the text.
    pub(super) at: usize,
}

#[derive(Debug)]
pub(super) enum FaultKind {
    /// What to tell the sender.
    Invalid(String),
    /// The steps are used up.
    TooManySteps,
}

/// What is checked beyond the grammar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whether to refuse what readers cannot read.
    pub(super) is_strict: bool,
    /// How deep a payload may nest.
    pub(super) depth: usize,
    /// Values, members, escapes and lines, and more for some of them.
    pub(super) steps: usize,
}

/// Reads a text from front to back.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    /// What is read: the text, or as much of it as ends with the line.
    within: &'a [u8],
    at: usize,
    is_strict: bool,
    max_depth: usize,
    steps: usize,
    names: Names,
}

type Scanned<T = ()> = Result<T, Fault>;

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, rules: Rules) -> Self {
        let Rules { is_strict, depth, steps } = rules;
        Self { text, within: text.as_bytes(), at: 0, is_strict, max_depth: depth, steps, names: Names::new() }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.within.get(self.at).copied()
    }

    /// Goes on behind the byte that was just looked at.
    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads to `end` and no further. A line costs a step even if nothing is in it.
    pub(super) fn line(&mut self, end: usize) -> Scanned {
        self.within = self.text.as_bytes().get(..end).unwrap_or_default();
        self.spend(1)
    }

    /// Goes on behind the line.
    pub(super) fn next_line(&mut self) {
        self.at = self.within.len() + 1;
    }

    /// One value that stands `depth` levels deep in its payload.
    pub(super) fn value(&mut self, depth: usize) -> Scanned<&'a str> {
        let start = self.at;
        self.any(depth)?;
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// A member's name and the colon behind it: the text that the name spells.
    pub(super) fn member(&mut self) -> Scanned<Cow<'a, str>> {
        let start = self.at + 1;
        self.name()?;
        let name = unescaped(self.text.get(start..self.at - 1).unwrap_or_default());
        self.colon()?;
        Ok(name)
    }

    /// Ends an object whose members were read by [`member`](Self::member): no two of its names may be the same.
    pub(super) fn end_object(&mut self) -> Scanned {
        self.end_names(0)
    }

    pub(super) fn fault<T>(&self, reason: impl Into<String>) -> Scanned<T> {
        self.fault_at(self.at, reason)
    }

    pub(super) fn fault_at<T>(&self, at: usize, reason: impl Into<String>) -> Scanned<T> {
        Err(Fault { kind: FaultKind::Invalid(reason.into()), at })
    }

    /// Something else stands here than what the grammar expects, or nothing.
    pub(super) fn expected<T>(&self, what: &str, inside: &str) -> Scanned<T> {
        match self.peek() {
            Some(_) => self.fault(format!("not JSON: expected {what}")),
            None => self.fault(format!("not JSON: EOF while parsing {inside}")),
        }
    }

    fn spend(&mut self, steps: usize) -> Scanned {
        match self.steps.checked_sub(steps) {
            Some(rest) => {
                self.steps = rest;
                Ok(())
            }
            None => Err(Fault { kind: FaultKind::TooManySteps, at: self.at }),
        }
    }

    fn any(&mut self, depth: usize) -> Scanned {
        self.spend(1)?;
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.expected("a value", "a value"),
        }
    }

    fn deeper(&mut self, depth: usize) -> Scanned {
        if depth > self.max_depth {
            return self.fault(format!("nested deeper than {} levels", self.max_depth));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Scanned {
        self.deeper(depth)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.any(depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.expected("`,` or `]`", "an array"),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Scanned {
        self.deeper(depth)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let first = self.names.len();
        loop {
            self.name()?;
            self.colon()?;
            self.any(depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.expected("`,` or `}`", "an object"),
            }
            self.space();
        }
        self.at += 1;
        self.end_names(first)
    }

    fn colon(&mut self) -> Scanned {
        self.space();
        if self.peek() != Some(b':') {
            return self.expected("`:`", "an object");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn name(&mut self) -> Scanned {
        if self.peek() != Some(b'"') {
            return self.expected("a member's name, in quotes", "an object");
        }
        let start = self.at + 1;
        let has_escape = self.string()?;
        if !self.is_strict {
            return self.spend(1);
        }
        let end = self.at - 1;
        if end - start > NAME_MAX_BYTES {
            return self.fault_at(start, format!("a member's name of more than {NAME_MAX_BYTES} bytes"));
        }
        if self.names.len() >= OPEN_NAMES_MAX {
            let what_to_do = "split the payload, or set READERS=any";
            return self.fault_at(start, format!("over {OPEN_NAMES_MAX} member names are open at once: {what_to_do}"));
        }
        let name = self.within.get(start..end).unwrap_or_default();
        let went_the_long_way = self.names.push(self.text, start..end, has_escape);
        self.spend(if went_the_long_way { long_way(name, has_escape) } else { 1 })
    }

    fn end_names(&mut self, first: usize) -> Scanned {
        let Some(twice) = self.names.end_object(self.text, first) else { return Ok(()) };
        let range = twice.range();
        let name = self.text.get(range.clone()).unwrap_or_default();
        let shown: String = name.chars().take(SHOWN_CHARS).collect();
        let dots = if shown.len() < name.len() { "…" } else { "" };
        let reason = format!(
            "the member \"{shown}{dots}\" stands twice in one object, and readers do not distinguish upper and lower case: \
             rename one of them"
        );
        self.fault_at(range.start.saturating_sub(1), reason)
    }

    fn word(&mut self, word: &[u8]) -> Scanned {
        for expected in word {
            if self.peek() != Some(*expected) {
                return self.expected("a value", "a value");
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scanned {
        let bytes = self.within;
        match number::scan(bytes, self.at) {
            Ok(Number { end, is_plain }) => {
                let start = std::mem::replace(&mut self.at, end);
                if is_plain || !self.is_strict {
                    return Ok(());
                }
                self.spend(NUMBER_STEPS + (end - start) / NUMBER_BYTES)?;
                match number::trouble(self.text.get(start..end).unwrap_or_default()) {
                    Some(reason) => self.fault_at(start, reason),
                    None => Ok(()),
                }
            }
            Err(at) => {
                self.at = at;
                self.expected("a digit", "a number")
            }
        }
    }

    /// A string, from its first quote to its last; whether it has an escape.
    fn string(&mut self) -> Scanned<bool> {
        let bytes = self.within;
        let mut has_escape = false;
        self.at += 1;
        loop {
            self.at = plain_end(bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(has_escape);
                }
                Some(b'\\') => {
                    has_escape = true;
                    self.escape()?;
                }
                Some(_) => return self.fault("not JSON: control character in a string: escape it"),
                None => return self.fault("not JSON: EOF while parsing a string"),
            }
        }
    }

    fn escape(&mut self) -> Scanned {
        self.spend(1)?;
        let start = self.at;
        match self.within.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.code_unit()? {
                0xd800..=0xdbff => {
                    let is_pair = self.within.get(self.at..self.at + 2) == Some(b"\\u");
                    if is_pair && matches!(self.code_unit()?, 0xdc00..=0xdfff) { Ok(()) } else { self.half(start) }
                }
                0xdc00..=0xdfff => self.half(start),
                _ => Ok(()),
            },
            Some(_) => self.fault("not JSON: invalid escape"),
            None => {
                self.at = self.within.len();
                self.expected("an escape", "a string")
            }
        }
    }

    fn half<T>(&self, at: usize) -> Scanned<T> {
        self.fault_at(at, "half of a surrogate pair: send both halves, or U+FFFD")
    }

    /// The UTF-16 code unit that `\uXXXX` stands for.
    fn code_unit(&mut self) -> Scanned<u32> {
        self.at += 2;
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return self.expected("a hexadecimal digit", "a string");
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// What a name costs, in steps, that has escapes or letters beyond ASCII.
fn long_way(name: &[u8], has_escape: bool) -> usize {
    // The first byte of each letter beyond ASCII has two bits set.
    let letters = name.iter().filter(|byte| **byte >= 0xc0).count();
    let bytes = name.len() / if has_escape { ESCAPED_BYTES } else { LONG_WAY_BYTES };
    LONG_WAY_STEPS + bytes + LETTER_STEPS * letters
}

/// The first byte from `at` that is not a string's as it stands: a quote, a backslash, a control character.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let controls = word.wrapping_sub(ONES * 0x20);
        let quotes = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslashes = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        // A borrow can only set bits above the first true hit.
        let hits = (controls | quotes | backslashes) & !word & (ONES << 7);
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\')) {
        at += 1;
    }
    at
}
